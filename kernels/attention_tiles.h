// The tiles of attention: what one block of a GPU's kernel works on. The host makes the lists with the batch, so that no kernel searches
// and every launch has as many blocks as there is work.
//
//   query tile   up to attention_tile_rows query rows of one segment, counted from the segment's first
//   key tile     up to attention_tile_rows key rows of one run of segments that share keys, counted from the run's first key; segments
//                that share no keys are runs of their own. The segments [segment, segment + segments) hold the tile's keys, not all of
//                them perhaps every one
// The lists are sorted by work, longest first: a block that starts late should be short. `number` counts the tiles in the order of their
// rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace traincu {

struct Segment {
    int64_t q_start = 0, q_len = 0;    // rows of q and out
    int64_t kv_start = 0, kv_len = 0;  // rows of k and v
    int64_t first_position = 0;        // position of the first query in its document
};

struct AttentionTile {
    int32_t begin, count;       // rows of the batch
    int32_t segment, segments;  // of the table
    int32_t number;
};

constexpr int64_t attention_tile_rows = 128;

// Segments [begin, end) of the table that share keys, and the keys: rows [kv_begin, kv_end) that no other segment reads.
struct KeyRun {
    size_t begin, end;
    int64_t kv_begin, kv_end;
};
std::vector<KeyRun> key_runs(std::span<const Segment> segments);

struct AttentionTiles {
    std::vector<AttentionTile> query, key;
};

// Segments ascend by q_start. window as in AttentionParams: it bounds the work of a tile. At most T tiles of queries, Tk of keys.
AttentionTiles attention_tiles(std::span<const Segment> segments, int64_t window);

}  // namespace traincu
