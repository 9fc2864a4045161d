#include "kernels/attention_tiles.h"

#include <algorithm>

namespace traincu {

namespace {

struct Weighed {
    AttentionTile tile;
    int64_t work;  // pairs of a query and a key that are looked at, in tiles
};

std::vector<AttentionTile> longest_first(std::vector<Weighed>& tiles) {
    std::stable_sort(tiles.begin(), tiles.end(), [](const Weighed& a, const Weighed& b) { return a.work > b.work; });
    std::vector<AttentionTile> list;
    list.reserve(tiles.size());
    for (const Weighed& w : tiles) list.push_back(w.tile);
    return list;
}

AttentionTile tile_of(int64_t begin, int64_t end, size_t segment, size_t segments, size_t number) {
    return {static_cast<int32_t>(begin), static_cast<int32_t>(std::min(attention_tile_rows, end - begin)), static_cast<int32_t>(segment),
            static_cast<int32_t>(segments), static_cast<int32_t>(number)};
}

}  // namespace

std::vector<KeyRun> key_runs(std::span<const Segment> segments) {
    std::vector<KeyRun> runs;
    for (size_t n = 0; n < segments.size(); n++) {
        KeyRun run{n, n + 1, segments[n].kv_start, segments[n].kv_start + segments[n].kv_len};
        for (; !runs.empty() && run.kv_begin < runs.back().kv_end; runs.pop_back())  // shared keys, or out of order
            run = {runs.back().begin, n + 1, std::min(run.kv_begin, runs.back().kv_begin), std::max(run.kv_end, runs.back().kv_end)};
        runs.push_back(run);
    }
    return runs;
}

AttentionTiles attention_tiles(std::span<const Segment> segments, int64_t window) {
    std::vector<Weighed> query, key;
    for (size_t n = 0; n < segments.size(); n++) {
        const Segment& s = segments[n];
        for (int64_t i = 0; i < s.q_len; i += attention_tile_rows) {
            const AttentionTile tile = tile_of(s.q_start + i, s.q_start + s.q_len, n, 1, query.size());
            const int64_t first = s.kv_len - s.q_len + i;  // key beside the tile's first query
            const int64_t begin = window > 0 ? std::max<int64_t>(0, first - window + 1) : 0;
            query.push_back({tile, first + tile.count - begin});
        }
    }
    for (const KeyRun& run : key_runs(segments))
        for (int64_t j = run.kv_begin; j < run.kv_end; j += attention_tile_rows) {
            size_t begin = run.end, end = run.begin;
            int64_t work = 0;
            for (size_t n = run.begin; n < run.end; n++) {
                const Segment& s = segments[n];
                const int64_t tile_end = std::min(j + attention_tile_rows, run.kv_end);
                if (s.kv_start >= tile_end || s.kv_start + s.kv_len <= j) continue;
                begin = std::min(begin, n), end = n + 1;
                const int64_t before = s.kv_start + s.kv_len - s.q_len;  // query i stands beside key row before + i
                const int64_t first = std::max<int64_t>(0, j - before);  // the first query that sees a key of the tile
                const int64_t last = window > 0 ? std::min(s.q_len, tile_end - 1 - before + window) : s.q_len;
                work += std::max<int64_t>(0, last - first);
            }
            if (begin < end) key.push_back({tile_of(j, run.kv_end, begin, end - begin, key.size()), work});
        }
    return {longest_first(query), longest_first(key)};
}

}  // namespace traincu
