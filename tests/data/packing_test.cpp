#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "src/data/packing.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

std::vector<Piece> pieces_of_lengths(const std::vector<int64_t>& lengths) {
    std::vector<Piece> pieces;
    int64_t begin = 0;
    for (int64_t length : lengths) pieces.push_back({begin, length}), begin += length;
    return pieces;
}

std::vector<std::vector<int64_t>> lengths_of(const PackList& packs) {
    std::vector<std::vector<int64_t>> all;
    for (int64_t i = 0; i < packs.count(); i++) {
        auto& lengths = all.emplace_back();
        for (const Piece& piece : packs.pack(i)) lengths.push_back(piece.length);
    }
    return all;
}

// Lengths as text has them: log-normal, median about 400 tokens.
std::vector<int64_t> textlike_lengths(int64_t n, int64_t seq_len) {
    Random random{3, RandomStream::sampling};
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < n; i++)
        for (auto left = static_cast<int64_t>(1 + std::exp(6 + 1.1 * random.normal(0, static_cast<uint64_t>(i)))); left > 0;
             left -= seq_len)
            lengths.push_back(std::min(left, seq_len));
    return lengths;
}

}  // namespace

TEST_SUITE("data/packing") {
    TEST_CASE("best fit: known answers") {
        using Packs = std::vector<std::vector<int64_t>>;
        CHECK(lengths_of(pack_best_fit(pieces_of_lengths({6, 5, 4, 5}), 10)) == Packs{{6, 4}, {5, 5}});
        // the 1 goes to the fuller window (9 of 10), where first fit would take the first (7 of 10)
        CHECK(lengths_of(pack_best_fit(pieces_of_lengths({1, 4, 5, 7}), 10)) == Packs{{1, 4, 5}, {7}});
        CHECK(lengths_of(pack_best_fit(pieces_of_lengths({10, 10, 3}), 10)) == Packs{{10}, {10}, {3}});
        CHECK(lengths_of(pack_best_fit(pieces_of_lengths({1, 1, 1}), 1)) == Packs{{1}, {1}, {1}});
        CHECK(pack_best_fit({}, 10).count() == 0);
        // groups are packed apart: with windows of 10 and groups of one, {6,5} closes before {4,5} begins
        CHECK(lengths_of(pack_best_fit(pieces_of_lengths({6, 5, 4, 5}), 10, 1)) == Packs{{6}, {5}, {4, 5}});
    }

    TEST_CASE("best fit: every piece once, no window too full, close to the fewest windows possible") {
        for (int64_t T : {1, 2, 7, 64, 1000, 1024}) {
            std::vector<Piece> pieces = pieces_of_lengths(textlike_lengths(3000, T));
            PackList packs = pack_best_fit(pieces, T);
            std::vector<Piece> seen;
            bool all_fit = true;
            for (int64_t i = 0; i < packs.count(); i++) {
                int64_t used = 0;
                for (const Piece& piece : packs.pack(i)) used += piece.length, seen.push_back(piece);
                all_fit &= used > 0 && used <= T;
            }
            CHECK(all_fit);
            std::sort(seen.begin(), seen.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
            CHECK(seen == pieces);
            double tokens = static_cast<double>(pieces.back().begin + pieces.back().length);
            double efficiency = tokens / static_cast<double>(packs.count() * T);
            CHECK(efficiency > 0.99);
            if (T == 1024)
                MESSAGE("best-fit packing of text-like documents into windows of 1024: ", 100 * efficiency, " % of the tokens are text");
        }
    }

    TEST_CASE("documents: pieces are what a plain loop over the tokens finds") {
        TempDir folder;
        Random random{5, RandomStream::sampling};
        for (int64_t T : {1, 3, 8, 50}) {
            for (uint32_t trial = 0; trial < 6; trial++) {
                std::vector<int32_t> tokens;
                for (uint64_t i = 0; i < 300; i++) tokens.push_back(random.below(9, trial, i) == 0 ? 256 : 7);
                if (trial % 2) tokens[0] = 7;  // a leading piece without end-of-text
                if (trial == 2) tokens.back() = 256;
                bool stated = trial < 3;
                std::string path = folder / "a.bin";
                if (stated)
                    write_shard(path, tokens, 257, 256);
                else {
                    for (int32_t& id : tokens) id = id == 256 ? 50256 : id;
                    write_file(path, gpt2_shard({tokens.begin(), tokens.end()}));
                }
                int32_t eot = stated ? 256 : 50256;
                std::vector<Piece> expected;
                int64_t usable = stated ? 300 : 299;  // the last token of an unknown shard is a target only
                for (int64_t i = 0; i < usable; i++) {
                    bool opens = i == 0 || tokens[static_cast<size_t>(i)] == eot || expected.back().length == T;
                    if (opens) expected.push_back({i, 0});
                    expected.back().length++;
                }
                Shard shard(path);
                CHECK(document_pieces(shard, T) == expected);
            }
        }
        write_file(folder / "none.bin", gpt2_shard({1, 2, 3}));
        Shard none(folder / "none.bin");
        CHECK(refuses(ExitCode::data, {"none.bin", "50256"}, [&] { document_pieces(none, 8); }));
    }

    TEST_CASE("permutation: everything once, the same on repeat, another for another seed, stream, epoch or shard") {
        Random random{42, RandomStream::sample_order};
        for (int64_t n : {0, 1, 2, 17, 1000}) {
            std::vector<int64_t> order = permutation(n, random, 3, 5);
            CHECK(order == permutation(n, random, 3, 5));
            std::sort(order.begin(), order.end());
            std::vector<int64_t> identity(static_cast<size_t>(n));
            std::iota(identity.begin(), identity.end(), 0);
            CHECK(order == identity);
        }
        std::vector<int64_t> base = permutation(100, random, 3, 5);
        CHECK(base != permutation(100, {43, RandomStream::sample_order}, 3, 5));
        CHECK(base != permutation(100, {42, RandomStream::shard_order}, 3, 5));
        CHECK(base != permutation(100, random, 4, 5));
        CHECK(base != permutation(100, random, 3, 6));

        // all 24 orders of 4 are equally likely: 4800 draws, 200 each, chi-square with 23 degrees of freedom below 60 (p about 3e-5)
        std::map<std::vector<int64_t>, double> seen;
        for (int64_t epoch = 0; epoch < 4800; epoch++) seen[permutation(4, random, epoch, 0)]++;
        REQUIRE(seen.size() == 24);
        double chi_square = 0;
        for (const auto& [order, count] : seen) chi_square += (count - 200) * (count - 200) / 200;
        CHECK(chi_square < 60);
    }
}
