#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>

#include "src/base/philox.h"
#include "src/data/loader.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;
using Packing = LoaderConfig::Packing;

namespace {

constexpr int32_t eot = 0;

// Shards whose tokens are all different (but for end-of-text), so that a token says where it came from.
struct Corpus {
    TempDir folder;
    std::vector<std::string> paths;
    std::vector<std::vector<int32_t>> shards;
    int64_t V = 100000;

    // documents of random lengths up to longest; longest = 0: no end-of-text at all
    Corpus(std::initializer_list<int64_t> sizes, int64_t longest) {
        Random random{9, RandomStream::sampling};
        int32_t id = 1;
        uint64_t draw = 0;
        for (int64_t size : sizes) {
            auto& tokens = shards.emplace_back();
            for (int64_t left = 0; static_cast<int64_t>(tokens.size()) < size; left--) {
                bool opens = longest > 0 && left <= 0;
                if (opens) left = 1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(longest), 0, draw++));
                tokens.push_back(opens ? eot : id++);
            }
            paths.push_back(write_shard(folder / std::to_string(paths.size()) + ".bin", tokens, V, eot));
        }
    }
    LoaderConfig config(int64_t T, int64_t rows, int64_t micro, Packing packing = Packing::stream, bool shuffle = false,
                        uint64_t seed = 1) const {
        return {paths, T, micro, rows, packing, shuffle, seed, V};
    }
};

struct Row {
    std::vector<int32_t> tokens, targets, positions;
    std::vector<float> weights;
    std::vector<std::array<int64_t, 5>> segments;  // relative to the row
    bool operator==(const Row&) const = default;
};

// The rows of a step, one after another. Checks on the way that the batch is well-formed: shapes, segments that cover it in order.
std::vector<Row> rows_of(const StepBatch& step, int64_t T, int64_t rows, int64_t micro) {
    std::vector<Row> all;
    int64_t loss_tokens = 0, left = rows;
    bool weights_fit = true;
    for (const MicroBatch& batch : step.micro_batches) {
        int64_t n = std::min(left, micro);
        left -= n;
        REQUIRE(batch.T() == n * T);
        REQUIRE(batch.targets.size() == batch.tokens.size());
        REQUIRE(batch.positions.size() == batch.tokens.size());
        REQUIRE(batch.loss_weights.size() == batch.tokens.size());
        int64_t at = 0;
        for (int64_t r = 0; r < n; r++) {
            Row& row = all.emplace_back();
            auto take = [&](auto& to, const auto& from) { to.assign(from.begin() + r * T, from.begin() + (r + 1) * T); };
            take(row.tokens, batch.tokens), take(row.targets, batch.targets), take(row.positions, batch.positions),
                take(row.weights, batch.loss_weights);
        }
        for (const Segment& s : batch.segments) {
            REQUIRE((s.q_start == at && s.kv_start == at && s.q_len > 0 && s.kv_len == s.q_len && s.first_position == 0));
            int64_t r = static_cast<int64_t>(all.size()) - n + at / T;
            all[static_cast<size_t>(r)].segments.push_back({at % T, s.q_len, at % T, s.kv_len, 0});
            REQUIRE(at % T + s.q_len <= T);  // no segment spans two windows
            at += s.q_len;
        }
        CHECK(at == batch.T());
        for (size_t t = 0; t < batch.targets.size(); t++) {
            loss_tokens += batch.targets[t] >= 0;
            weights_fit &= batch.loss_weights[t] == (batch.targets[t] >= 0 ? 1.0f : 0.0f);
        }
    }
    CHECK(weights_fit);
    CHECK(left == 0);
    CHECK(step.loss_tokens == loss_tokens);
    CHECK(step.tokens == rows * T);
    return all;
}

std::vector<Row> drain(const LoaderConfig& config, int64_t steps, Cursor from = {}) {
    Loader loader(config);
    if (from != Cursor{}) loader.seek(from);
    std::vector<Row> all;
    for (int64_t k = 0; k < steps; k++)
        for (Row& row : rows_of(loader.next(), config.seq_len, config.rows_per_step, config.rows_per_micro_batch))
            all.push_back(std::move(row));
    return all;
}

// The oracle of stream packing: window w of a shard, from the definition.
std::vector<Row> all_windows(const Corpus& corpus, int64_t T) {
    std::vector<Row> rows;
    for (const auto& tokens : corpus.shards)
        for (int64_t w = 0; w * T + T < static_cast<int64_t>(tokens.size()); w++) {
            Row row;
            row.tokens.assign(tokens.begin() + w * T, tokens.begin() + w * T + T);
            row.targets.assign(tokens.begin() + w * T + 1, tokens.begin() + w * T + T + 1);
            row.positions.resize(static_cast<size_t>(T));
            std::iota(row.positions.begin(), row.positions.end(), 0);
            row.weights.assign(static_cast<size_t>(T), 1.0f);
            row.segments = {{0, T, 0, T, 0}};
            rows.push_back(row);
        }
    return rows;
}

// What segments say, without where they stand: (tokens, targets), sorted; padding left out.
using Segments = std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>;
Segments text_segments(const std::vector<Row>& rows, int64_t* padding) {
    Segments all;
    for (const Row& row : rows)
        for (const auto& s : row.segments) {
            std::vector<int32_t> tokens(row.tokens.begin() + s[0], row.tokens.begin() + s[0] + s[1]);
            std::vector<int32_t> targets(row.targets.begin() + s[0], row.targets.begin() + s[0] + s[1]);
            std::vector<int32_t> positions(tokens.size());
            std::iota(positions.begin(), positions.end(), 0);
            REQUIRE(std::equal(positions.begin(), positions.end(), row.positions.begin() + s[0]));
            if (targets[0] >= 0) {
                all.emplace_back(tokens, targets);
                continue;
            }
            *padding += s[1];
            CHECK(s[0] + s[1] == static_cast<int64_t>(row.tokens.size()));  // only at the end of a window
            CHECK(tokens == std::vector<int32_t>(tokens.size(), eot));
            CHECK(targets == std::vector<int32_t>(tokens.size(), -1));
        }
    std::sort(all.begin(), all.end());
    return all;
}

// The oracle of document packing: the pieces by a plain loop.
Segments all_pieces(const Corpus& corpus, int64_t T) {
    Segments all;
    for (const auto& tokens : corpus.shards)
        for (size_t i = 0; i < tokens.size(); i++) {
            if (i == 0 || tokens[i] == eot || static_cast<int64_t>(all.back().first.size()) == T) all.emplace_back();
            all.back().first.push_back(tokens[i]);
            all.back().second.push_back(i + 1 < tokens.size() ? tokens[i + 1] : eot);
        }
    std::sort(all.begin(), all.end());
    return all;
}

}  // namespace

TEST_SUITE("data/loader") {
    TEST_CASE("stream: unshuffled is every window in order, over shards and epochs") {
        Corpus corpus({101, 5, 64, 1, 333}, 20);  // some too short for a window of 16, which are passed over
        for (int64_t T : {1, 7, 16}) {
            std::vector<Row> windows = all_windows(corpus, T);
            for (int64_t rows : {1, 3, 10}) {
                Loader loader(corpus.config(T, rows, 2));
                CHECK(loader.samples_per_epoch() == static_cast<int64_t>(windows.size()));
                CHECK(loader.total_tokens() == 504);
                std::vector<Row> seen = drain(corpus.config(T, rows, 2), 2 * static_cast<int64_t>(windows.size()) / rows + 2);
                for (size_t i = 0; i < seen.size(); i++) REQUIRE(seen[i] == windows[i % windows.size()]);
            }
        }
    }

    TEST_CASE("stream: shuffled is every window once an epoch, the same on repeat, another order every epoch and seed") {
        Corpus corpus({201, 5, 64, 330}, 20);
        int64_t T = 8;
        std::vector<Row> windows = all_windows(corpus, T);
        auto n = static_cast<int64_t>(windows.size());
        auto config = corpus.config(T, 1, 1, Packing::stream, true, 77);
        std::vector<Row> seen = drain(config, 3 * n);
        CHECK(seen == drain(config, 3 * n));
        config.seed = 78;
        CHECK(seen != drain(config, 3 * n));
        std::vector<std::vector<int32_t>> orders;
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            auto& order = orders.emplace_back();
            for (int64_t i = 0; i < n; i++)
                order.push_back(static_cast<int32_t>(std::find(windows.begin(), windows.end(), seen[static_cast<size_t>(epoch * n + i)]) -
                                                     windows.begin()));
            CHECK(std::set(order.begin(), order.end()).size() == static_cast<size_t>(n));
            CHECK(*std::max_element(order.begin(), order.end()) == n - 1);
            CHECK_FALSE(std::is_sorted(order.begin(), order.end()));
        }
        CHECK(orders[0] != orders[1]);
        CHECK(orders[1] != orders[2]);
    }

    TEST_CASE("stream: llm.c's public shards, whose documents straddle shards, need nothing special") {
        TempDir folder;
        write_file(folder / "a.bin", gpt2_shard({50256, 1, 2, 3, 4, 5, 6}));
        Loader loader({{folder / "a.bin"}, 3, 1, 2, Packing::stream, false, 0, 50257});
        StepBatch step = loader.next();
        CHECK(step.micro_batches[0].tokens == std::vector<int32_t>{50256, 1, 2});
        CHECK(step.micro_batches[0].targets == std::vector<int32_t>{1, 2, 3});
        CHECK(step.micro_batches[1].tokens == std::vector<int32_t>{3, 4, 5});
        CHECK(step.micro_batches[1].targets == std::vector<int32_t>{4, 5, 6});
        // documents: the last token is a target only, because nobody knows whether the document ends there
        Loader documents({{folder / "a.bin"}, 10, 1, 1, Packing::documents, false, 0, 50257});
        step = documents.next();
        CHECK(step.loss_tokens == 6);
        CHECK(step.micro_batches[0].targets == std::vector<int32_t>{1, 2, 3, 4, 5, 6, -1, -1, -1, -1});
    }

    TEST_CASE("the micro-batch split does not change the tokens of a step") {
        Corpus corpus({501, 300}, 30);
        for (Packing packing : {Packing::stream, Packing::documents})
            for (bool shuffle : {false, true}) {
                std::vector<Row> one = drain(corpus.config(16, 7, 7, packing, shuffle), 12);
                for (int64_t micro : {1, 2, 3, 5, 100}) CHECK(drain(corpus.config(16, 7, micro, packing, shuffle), 12) == one);
            }
    }

    TEST_CASE("ranks: the rows of all of them are those of one loader, and the counts those of the whole step") {
        // Micro-batches one after another: segments from the start of the step.
        const auto append = [](Row& all, const StepBatch& step) {
            for (const MicroBatch& batch : step.micro_batches) {
                const auto base = static_cast<int64_t>(all.tokens.size());
                const auto add = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
                add(all.tokens, batch.tokens), add(all.targets, batch.targets), add(all.positions, batch.positions);
                add(all.weights, batch.loss_weights);
                for (const Segment& s : batch.segments)
                    all.segments.push_back({base + s.q_start, s.q_len, base + s.kv_start, s.kv_len, s.first_position});
            }
        };
        const int64_t T = 7, rows = 12, steps = 9;
        const Corpus corpus({151, 97, 260}, 19);
        for (const Packing packing : {Packing::stream, Packing::documents})
            for (const bool shuffle : {false, true})
                for (const int64_t ranks : {2, 3, 4, 12}) {
                    CAPTURE(ranks);
                    Loader whole(corpus.config(T, rows, 5, packing, shuffle));
                    std::vector<std::unique_ptr<Loader>> shares;
                    for (int64_t rank = 0; rank < ranks; rank++) {
                        LoaderConfig config = corpus.config(T, rows, 5, packing, shuffle);
                        config.own_rows = rows / ranks, config.first_row = rank * config.own_rows;
                        shares.push_back(std::make_unique<Loader>(config));
                    }
                    for (int64_t k = 0; k < steps; k++) {
                        if (k == 5)  // resumed
                            for (auto& share : shares) share->seek(whole.cursor());
                        const StepBatch step = whole.next();
                        Row all, of_ranks;
                        append(all, step);
                        for (auto& share : shares) {
                            const StepBatch own = share->next();
                            CHECK(own.tokens == step.tokens);
                            CHECK(own.loss_tokens == step.loss_tokens);
                            CHECK(own.micro_batches.size() == static_cast<size_t>((rows / ranks + 4) / 5));
                            CHECK(share->cursor() == whole.cursor());
                            append(of_ranks, own);
                        }
                        REQUIRE(all.tokens.size() == static_cast<size_t>(rows * T));
                        CHECK(of_ranks == all);
                    }
                    CHECK(whole.cursor().epoch > 0);
                    for (auto& share : shares) CHECK(share->packing_efficiency() == whole.packing_efficiency());
                }
    }

    TEST_CASE("a run continued from any cursor is the run that was not interrupted") {
        Corpus corpus({301, 77, 200}, 30);
        for (Packing packing : {Packing::stream, Packing::documents})
            for (bool shuffle : {false, true}) {
                auto config = corpus.config(16, 5, 2, packing, shuffle);
                Loader loader(config);
                std::vector<Cursor> cursors;
                std::vector<std::vector<Row>> steps;
                for (int k = 0; k < 24; k++) {
                    cursors.push_back(loader.cursor());
                    CHECK(loader.cursor().sample < loader.samples_per_epoch());  // also disturbs the thread ahead
                    steps.push_back(rows_of(loader.next(), 16, 5, 2));
                }
                CHECK(cursors.back().epoch >= 2);
                for (size_t k = 0; k < cursors.size(); k++) {  // a new loader, as after a restart
                    std::vector<Row> two = drain(config, std::min<int64_t>(2, 24 - static_cast<int64_t>(k)), cursors[k]);
                    CHECK(std::equal(steps[k].begin(), steps[k].end(), two.begin()));
                    if (k + 1 < steps.size()) CHECK(std::equal(steps[k + 1].begin(), steps[k + 1].end(), two.begin() + 5));
                }
                for (size_t k = cursors.size(); k-- > 0;) {  // the same loader, jumping backwards
                    loader.seek(cursors[k]);
                    CHECK(loader.cursor() == cursors[k]);
                    CHECK(rows_of(loader.next(), 16, 5, 2) == steps[k]);
                }
                int64_t n = loader.samples_per_epoch();
                loader.seek({4, n});
                CHECK(loader.cursor() == Cursor{5, 0});
                for (Cursor bad : {Cursor{0, n + 1}, Cursor{0, -1}, Cursor{-1, 0}})
                    CHECK(refuses(ExitCode::data, {"no sample"}, [&] { loader.seek(bad); }));
                loader.seek(cursors[3]);  // an error leaves the loader usable
                CHECK(rows_of(loader.next(), 16, 5, 2) == steps[3]);
            }
    }

    TEST_CASE("documents: every token once an epoch as input, right targets at the ends, attention confined") {
        Corpus corpus({700, 3, 2, 411}, 45);
        for (int64_t T : {1, 2, 16, 33, 1000})
            for (bool shuffle : {false, true}) {
                auto config = corpus.config(T, 1, 1, Packing::documents, shuffle);
                Loader loader(config);
                int64_t n = loader.samples_per_epoch();
                Segments expected = all_pieces(corpus, T);
                std::vector<Row> seen = drain(config, 2 * n);
                for (int64_t epoch = 0; epoch < 2; epoch++) {
                    int64_t padding = 0;
                    CHECK(text_segments({seen.begin() + epoch * n, seen.begin() + (epoch + 1) * n}, &padding) == expected);
                    CHECK(n * T - padding == 1116);
                }
                if (shuffle && n > 10)
                    CHECK(std::vector<Row>(seen.begin(), seen.begin() + n) != std::vector<Row>(seen.begin() + n, seen.end()));
                for (int64_t i = 0; i < n; i++) loader.next();
                CHECK(loader.packing_efficiency() == doctest::Approx(1116.0 / static_cast<double>(n * T)));
            }
    }

    TEST_CASE("documents: ours may begin without end-of-text, and may be empty") {
        TempDir folder;
        write_shard(folder / "a.bin", {7, 8, 256, 256, 9}, 257, 256);
        Loader loader({{folder / "a.bin"}, 6, 1, 1, Packing::documents, false, 0, 257});
        MicroBatch batch = loader.next().micro_batches[0];
        CHECK(batch.tokens == std::vector<int32_t>{7, 8, 256, 256, 9, 256});
        CHECK(batch.targets == std::vector<int32_t>{8, 256, 256, 9, 256, -1});
        CHECK(batch.positions == std::vector<int32_t>{0, 1, 0, 0, 1, 0});
        CHECK(batch.segments.size() == 4);
    }

    TEST_CASE("what goes wrong on the thread is thrown by next(), at the step it concerns, again and again") {
        TempDir folder;
        std::vector<uint32_t> tokens(101, 5);
        tokens[64] = 700;
        write_file(folder / "a.bin", gpt2_shard(tokens));
        for (int repeat = 0; repeat < 20; repeat++) {
            Loader loader({{folder / "a.bin"}, 10, 1, 2, Packing::stream, false, 0, 257});
            for (int k = 0; k < 3; k++) CHECK(loader.next().loss_tokens == 20);
            for (int k = 0; k < 2; k++) {
                CHECK(refuses(ExitCode::data, {"a.bin", "700", "64", "257"}, [&] { loader.next(); }));
                CHECK(loader.cursor() == Cursor{0, 6});
            }
            loader.seek({0, 8});
            CHECK(loader.next().loss_tokens == 20);
        }  // and it ends cleanly with a step under way

        // documents: the fault is met when the shard is indexed; the shard before it stays usable
        std::vector<uint32_t> good(41, 5), bad(41, 6);
        good[0] = bad[0] = 50256, bad[40] = 50257;
        write_file(folder / "b.bin", gpt2_shard(good));
        write_file(folder / "c.bin", gpt2_shard(bad));
        Loader loader({{folder / "b.bin", folder / "c.bin"}, 10, 1, 2, Packing::documents, false, 0, 50257});
        for (int repeat = 0; repeat < 3; repeat++) {
            loader.seek({0, 0});
            for (int k = 0; k < 2; k++) CHECK(loader.next().micro_batches[1].tokens == std::vector<int32_t>(10, 5));
            CHECK(refuses(ExitCode::data, {"c.bin", "50257"}, [&] { loader.next(); }));
            CHECK(refuses(ExitCode::data, {"c.bin"}, [&] { loader.samples_per_epoch(); }));
        }
    }

    TEST_CASE("a data set that cannot be trained on is refused before the first step") {
        TempDir folder;
        write_shard(folder / "short.bin", std::vector<int32_t>(16, 1), 257, 256);
        write_shard(folder / "shorter.bin", std::vector<int32_t>(3, 1), 257, 256);
        write_shard(folder / "other.bin", std::vector<int32_t>(99, 1), 300, 256);
        write_shard(folder / "empty.bin", {}, 257, 256);
        write_file(folder / "gpt2.bin", gpt2_shard(std::vector<uint32_t>(99, 1)));
        auto loader = [&](std::vector<std::string> names, int64_t T, Packing packing, int64_t V) {
            for (std::string& name : names) name = folder / name;
            return [=] { Loader(LoaderConfig{names, T, 1, 1, packing, false, 0, V}); };
        };
        CHECK(refuses(ExitCode::data, {"short.bin", "16 tokens", "--seq-len 16", "17"},
                      loader({"shorter.bin", "short.bin"}, 16, Packing::stream, 257)));
        CHECK_FALSE(error_of(loader({"short.bin"}, 15, Packing::stream, 257)));
        CHECK_FALSE(error_of(loader({"short.bin"}, 16, Packing::documents, 257)));
        CHECK(refuses(ExitCode::data, {"empty.bin", "0 tokens"}, loader({"empty.bin"}, 16, Packing::documents, 257)));
        CHECK(
            refuses(ExitCode::data, {"other.bin", "300", "short.bin", "257"}, loader({"short.bin", "other.bin"}, 8, Packing::stream, 512)));
        CHECK(refuses(ExitCode::data, {"gpt2.bin", "50256", "257"}, loader({"gpt2.bin"}, 8, Packing::documents, 257)));
        CHECK(refuses(ExitCode::data, {"gone.bin"}, loader({"gone.bin"}, 8, Packing::stream, 257)));
    }

    TEST_CASE("the fingerprint sees an added, renamed, reordered or changed shard, and not the folder") {
        Corpus corpus({100, 100, 50}, 20);
        auto print = [&](std::vector<std::string> paths) {
            return Loader({paths, 8, 1, 1, Packing::stream, false, 0, corpus.V}).fingerprint();
        };
        auto base = print(corpus.paths);
        REQUIRE(base.size() == 3);
        CHECK(base[0]["name"] == "0.bin");
        CHECK(base[0]["size"] == 1024 + 400);
        CHECK(base[0]["xxh64"].get<std::string>().size() == 16);
        CHECK(base[0]["xxh64"] != base[2]["xxh64"]);
        CHECK(base != print({corpus.paths[0], corpus.paths[1]}));
        CHECK(base != print({corpus.paths[1], corpus.paths[0], corpus.paths[2]}));
        std::filesystem::create_directory(corpus.folder / "moved");
        std::vector<std::string> moved;
        for (const std::string& path : corpus.paths) {
            moved.push_back(corpus.folder / "moved/" + std::filesystem::path(path).filename().string());
            std::filesystem::copy_file(path, moved.back());
        }
        CHECK(base == print(moved));
        write_shard(moved[1], std::vector<int32_t>(100, 1), corpus.V, eot + 1);
        CHECK(refuses(ExitCode::data, {}, [&] { print(moved); }));  // another end-of-text id is another tokenizer
        write_shard(moved[1], std::vector<int32_t>(99, 1), corpus.V, eot);
        CHECK(base != print(moved));
    }

    TEST_CASE("the loader is far cheaper than training") {
        TempDir folder;
        std::vector<int32_t> tokens(4'000'000);
        for (size_t i = 0; i < tokens.size(); i++) tokens[i] = i % 500 == 0 ? 256 : static_cast<int32_t>(i % 256);
        write_shard(folder / "a.bin", tokens, 257, 256, 1);
        for (Packing packing : {Packing::stream, Packing::documents}) {
            Loader loader({{folder / "a.bin"}, 1024, 8, 32, packing, true, 1, 257});
            auto start = std::chrono::steady_clock::now();
            int64_t count = 0;
            while (count < 4'000'000) count += loader.next().tokens;
            double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            MESSAGE(std::string(packing == Packing::stream ? "stream: " : "documents: "), static_cast<double>(count) / seconds / 1e6,
                    " million tokens a second");
            CHECK(static_cast<double>(count) / seconds > 1e6);
        }
    }
}
