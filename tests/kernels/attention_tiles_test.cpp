// The lists of tiles against brute force: every row is in one tile, every segment that holds a key is found, work descends.
#include "kernels/attention_tiles.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "kernels/attention.h"

namespace traincu::test {
namespace {

std::vector<Segment> documents(const std::vector<int64_t>& lengths) {
    std::vector<Segment> segments;
    int64_t at = 0;
    for (int64_t n : lengths) segments.push_back({at, n, at, n, 0}), at += n;
    return segments;
}

bool sees(const Segment& s, int64_t i, int64_t key_row, int64_t window) {
    const int64_t j = key_row - s.kv_start, beside = s.kv_len - s.q_len + i;
    return j >= 0 && j <= beside && (window == 0 || j > beside - window);
}

const std::vector<std::vector<Segment>> tables = {
    documents({1}),
    documents({128}),
    documents({129, 1, 1, 300, 127}),
    documents(std::vector<int64_t>(50, 3)),
    {{0, 1, 0, 700, 699}},                                                // a generation step
    {{0, 200, 0, 200, 0}, {200, 200, 0, 400, 200}, {400, 9, 500, 9, 0}},  // slices of one document, and another document
    {{0, 9, 40, 9, 0}, {9, 20, 0, 40, 20}},                               // keys in another order than the queries
    {{0, 200, 0, 300, 100}, {200, 5, 10, 5, 0}},                          // keys within those of the one before
};

}  // namespace

TEST_SUITE("attention tiles") {
    TEST_CASE("attention tiles: every query row lies in one tile of its segment, counted from the segment's first row") {
        for (const std::vector<Segment>& table : tables) {
            std::set<int64_t> rows;
            for (const AttentionTile& tile : attention_tiles(table, 0).query) {
                const Segment& s = table[static_cast<size_t>(tile.segment)];
                CHECK(tile.segments == 1);
                CHECK((tile.count >= 1 && tile.count <= attention_tile_rows));
                CHECK((tile.begin >= s.q_start && tile.begin + tile.count <= s.q_start + s.q_len));
                CHECK((tile.begin - s.q_start) % attention_tile_rows == 0);
                for (int64_t row = tile.begin; row < tile.begin + tile.count; row++) CHECK(rows.insert(row).second);
            }
            int64_t T = 0;
            for (const Segment& s : table) T += s.q_len;
            CHECK(static_cast<int64_t>(rows.size()) == T);
        }
    }

    TEST_CASE("attention tiles: every key that a query sees lies in one tile, whose segments hold every query that sees it") {
        for (const std::vector<Segment>& table : tables)
            for (int64_t window : {0, 1, 100}) {
                std::vector<AttentionTile> keys = attention_tiles(table, window).key;
                for (size_t n = 0; n < table.size(); n++)
                    for (int64_t row = table[n].kv_start; row < table[n].kv_start + table[n].kv_len; row++) {
                        const auto holds = [&](const AttentionTile& t) {
                            const auto segment = static_cast<int32_t>(n);
                            return t.begin <= row && row < t.begin + t.count && t.segment <= segment && segment < t.segment + t.segments;
                        };
                        CHECK(std::count_if(keys.begin(), keys.end(), holds) == 1);
                    }
                std::sort(keys.begin(), keys.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
                for (size_t n = 1; n < keys.size(); n++) CHECK(keys[n - 1].begin + keys[n - 1].count <= keys[n].begin);
            }
    }

    TEST_CASE("attention tiles: the longest come first, and numbers count them in the order of their rows") {
        for (const std::vector<Segment>& table : tables)
            for (int64_t window : {0, 150}) {
                const AttentionTiles tiles = attention_tiles(table, window);
                std::vector<AttentionTile> ordered = tiles.query;
                std::sort(ordered.begin(), ordered.end(), [](auto& a, auto& b) { return a.number < b.number; });
                for (size_t n = 0; n < ordered.size(); n++) {
                    CHECK(ordered[n].number == static_cast<int32_t>(n));
                    if (n > 0) CHECK(ordered[n - 1].begin < ordered[n].begin);
                }
                int64_t before = INT64_MAX;
                for (const AttentionTile& tile : tiles.query) {
                    const Segment& s = table[static_cast<size_t>(tile.segment)];
                    std::set<int64_t> seen;  // keys that any query of the tile sees
                    for (int64_t row = tile.begin; row < tile.begin + tile.count; row++)
                        for (int64_t key = s.kv_start; key < s.kv_start + s.kv_len; key++)
                            if (sees(s, row - s.q_start, key, window)) seen.insert(key);
                    CHECK(static_cast<int64_t>(seen.size()) <= before);
                    before = static_cast<int64_t>(seen.size());
                }
                before = INT64_MAX;
                for (const AttentionTile& tile : tiles.key) {
                    int64_t work = 0;  // queries that see any key of the tile
                    for (int32_t n = tile.segment; n < tile.segment + tile.segments; n++) {
                        const Segment& s = table[static_cast<size_t>(n)];
                        for (int64_t i = 0; i < s.q_len; i++) {
                            bool any = false;
                            for (int64_t key = tile.begin; key < tile.begin + tile.count; key++) any |= sees(s, i, key, window);
                            work += any;
                        }
                    }
                    CHECK(work <= before);
                    before = work;
                }
            }
    }

    TEST_CASE("attention tiles: buckets of distances ascend by one, each distance below 64 alone, eight an octave beyond") {
        for (int64_t d = 0; d < relative_exact; d++) CHECK(relative_bucket(d) == d);
        int last = 63;
        for (int64_t d = relative_exact; d < 70000; d++) {
            const int bucket = relative_bucket(d);
            CHECK((bucket == last || bucket == last + 1));
            last = bucket;
        }
        CHECK(last == relative_buckets - 1);
        CHECK(relative_bucket(64) == 64);
        CHECK(relative_bucket(71) == 64);
        CHECK(relative_bucket(72) == 65);
        CHECK(relative_bucket(127) == 71);
        CHECK(relative_bucket(128) == 72);
        CHECK(relative_bucket(65535) == relative_buckets - 1);
        CHECK(relative_bucket(INT64_MAX) == relative_buckets - 1);
    }
}

}  // namespace traincu::test
