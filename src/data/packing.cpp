#include "src/data/packing.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "src/base/error.h"

namespace traincu {

std::vector<Piece> document_pieces(Shard& shard, int64_t seq_len) {
    ENSURE(seq_len > 0);
    std::vector<Piece> pieces;
    int64_t document = 0;  // where the current one began
    auto cut = [&](int64_t end) {
        for (int64_t begin = document; begin < end; begin += seq_len) pieces.push_back({begin, std::min(seq_len, end - begin)});
        document = end;
    };
    bool found = false;
    std::vector<int32_t> ids(size_t{1} << 18);
    for (int64_t done = 0; done < shard.tokens();) {
        int64_t n = std::min<int64_t>(static_cast<int64_t>(ids.size()), shard.tokens() - done);
        shard.read(done, n, ids.data());
        for (int64_t i = 0; i < n; i++)
            if (ids[static_cast<size_t>(i)] == shard.header().eot) cut(done + i), found = true;
        done += n;
    }
    if (!found && !shard.header().stated)
        throw Error(
            ExitCode::data,
            format("%s holds no end-of-text id %d, so its documents cannot be told apart", shard.path().c_str(), shard.header().eot),
            "it was made with another tokenizer than the assumed one: use --packing stream")
            .file(shard.path());
    cut(shard.header().stated ? shard.tokens() : shard.tokens() - 1);
    return pieces;
}

PackList pack_best_fit(std::span<const Piece> pieces, int64_t seq_len, int64_t group_windows) {
    ENSURE(seq_len > 0 && group_windows > 0);
    PackList packs;
    std::vector<size_t> longest_first;
    std::vector<std::vector<Piece>> bins;
    std::set<std::pair<int64_t, size_t>> rooms;  // (free tokens, bin): the first with enough is the fullest
    for (size_t begin = 0; begin < pieces.size();) {
        size_t end = begin;
        for (int64_t tokens = 0; end < pieces.size() && tokens < group_windows * seq_len; end++) tokens += pieces[end].length;

        longest_first.resize(end - begin);
        std::iota(longest_first.begin(), longest_first.end(), begin);
        std::stable_sort(longest_first.begin(), longest_first.end(),
                         [&](size_t a, size_t b) { return pieces[a].length > pieces[b].length; });
        bins.clear(), rooms.clear();
        for (size_t i : longest_first) {
            const Piece& piece = pieces[i];
            ENSURE(piece.length > 0 && piece.length <= seq_len);
            auto room = rooms.lower_bound({piece.length, 0});
            auto [free, bin] = room == rooms.end() ? std::pair{seq_len, bins.size()} : *room;
            if (room == rooms.end())
                bins.emplace_back();
            else
                rooms.erase(room);
            bins[bin].push_back(piece);
            if (free > piece.length) rooms.insert({free - piece.length, bin});
        }

        // Back into the order of the text: otherwise an unshuffled reader would meet all the long documents first.
        for (auto& bin : bins) std::sort(bin.begin(), bin.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
        std::sort(bins.begin(), bins.end(), [](const auto& a, const auto& b) { return a.front().begin < b.front().begin; });
        for (const auto& bin : bins) packs.add(bin);
        begin = end;
    }
    return packs;
}

std::vector<int64_t> permutation(int64_t n, Random random, int64_t epoch, int64_t which) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), int64_t{0});
    for (int64_t i = n - 1; i > 0; i--) {
        uint64_t index = static_cast<uint64_t>(which) << 40 | static_cast<uint64_t>(i);  // below 2^40 samples a shard
        auto j = static_cast<int64_t>(random.below(static_cast<uint64_t>(i) + 1, static_cast<uint32_t>(epoch), index));
        std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)]);
    }
    return order;
}

}  // namespace traincu
