// Attention's backward on the GPU, the simple kernels: kernels/attention_simple.h says how the threads share the work. Two kernels:
//   dq       one warp per (query row, head), over the tiles of keys that it sees
//   dk, dv   one warp per (key row, key head), over the segments that hold the key, in each the heads of the group, in each the tiles of
//            the queries that see the key, all ascending: no atomics. A key's sums are added to dk, dv once.
// The scores and P are computed twice, in dq and in dk, dv: 7 products instead of 5.
//
// FLOPs: 14 NH HS a visible pair. Bytes: as in the forward, mostly from L2. Floor: FLOPs / 12 TFLOP/s (H200). Fraction: not measured.
#include "kernels/attention_simple.h"

namespace traincu::gpu {

template <class T, int columns>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_simple_dq_kernel(AttentionHeads<T> dq, AttentionHeads<T> dq_factors, AttentionSaved<T> saved, AttentionScores<T> scores,
                               AttentionSegments segments, AttentionSizes sizes) {
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t head = blockIdx.y, kv_head = head / sizes.group;
    const int64_t first = (int64_t{gridDim.x} - 1 - blockIdx.x) * attention_warps, row = first + warp;
    float sums[columns] = {}, factor_sums[attention_factor_columns] = {};
    attention_visit_keys(saved, scores, segments, sizes, first, head, [&](const AttentionKeyTile& tile, const AttentionPair& pair) {
        if (tile.begin >= tile.end) return;  // the whole warp
        attention_add_rows(sums, pair.dx, tile.k, tile.begin, tile.end, sizes);
        if (dq_factors.data)
            attention_add_factors(factor_sums, pair.ds, scores.k_factors.row(tile.positions, kv_head, scores.R), scores.k_factors.stride,
                                  scores.R, tile.begin, tile.end);
    });
    if (row >= sizes.T) return;
    T* to = dq.row(row, head, sizes.HS);
#pragma unroll
    for (int i = 0; i < columns; i++)
        if (lane + i * warp_size < sizes.HS) to[lane + i * warp_size] = from_float<T>(scores.scale * sums[i]);
    if (!dq_factors.data) return;
    to = dq_factors.row(row, head, scores.R);
#pragma unroll
    for (int i = 0; i < attention_factor_columns; i++)
        if (lane + i * warp_size < scores.R) to[lane + i * warp_size] = from_float<T>(factor_sums[i]);
}

template <class T, int columns>
__global__ void __launch_bounds__(attention_threads, columns > 4 ? 1 : 2)  // of two blocks the registers would spill
    attention_simple_dkv_kernel(AttentionHeads<T> dk, AttentionHeads<T> dv, AttentionHeads<T> dk_factors, AttentionSaved<T> saved,
                                AttentionScores<T> scores, AttentionSegments segments, AttentionSizes sizes) {
    float* k_rows = shared<float>();                           // (8, pitch)
    float* v_rows = k_rows + attention_warps * sizes.pitch;    // (8, pitch)
    float* q_tile = v_rows + attention_warps * sizes.pitch;    // (32, pitch), already scaled
    float* dout_tile = q_tile + attention_tile * sizes.pitch;  // (32, pitch)
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t kv_head = blockIdx.y,
                  first = int64_t{blockIdx.x} * attention_warps;  // early keys are seen by most rows: they start first
    const int64_t last = first + attention_warps < sizes.Tk ? first + attention_warps : sizes.Tk, row = first + warp;
    attention_load(k_rows, saved.k, first, static_cast<int>(last - first), kv_head, sizes);
    attention_load(v_rows, saved.v, first, static_cast<int>(last - first), kv_head, sizes);

    // One segment's queries, heads of the group in ascending order.
    float dk_sums[columns] = {}, dv_sums[columns] = {}, factor_sums[attention_factor_columns] = {};
    auto add_segment = [&](const Segment& segment) {
        const int64_t begin = segment.kv_start > first ? segment.kv_start : first;  // the block's keys in the segment
        const int64_t kv_end = segment.kv_start + segment.kv_len, end = kv_end < last ? kv_end : last;
        const bool mine = begin <= row && row < end;
        // The queries that see a key: key row `before + i` is beside query i.
        const int64_t before = segment.kv_start + segment.kv_len - segment.q_len;
        const int64_t from = begin > before ? begin - before : 0, from_mine = row > before ? row - before : 0;
        auto to_of = [&](int64_t key_row) {
            return attention_last_query(key_row - segment.kv_start, scores.window, segment.kv_len) - (segment.kv_len - segment.q_len);
        };
        const int64_t to = to_of(end - 1), to_mine = mine ? to_of(row) : 0;
        for (int64_t head = kv_head * sizes.group; head < (kv_head + 1) * sizes.group; head++)
            for (int64_t query = from; query < to; query += attention_tile) {
                const int64_t left = to - query, query_row = segment.q_start + query;
                const int count = left < attention_tile ? static_cast<int>(left) : attention_tile;
                __syncthreads();  // the tiles before have been read
                attention_load(q_tile, saved.q, query_row, count, head, sizes, scores.scale);
                attention_load(dout_tile, saved.dout, query_row, count, head, sizes);
                __syncthreads();
                const int seen_begin = attention_lanes(from_mine - query), seen_end = attention_lanes(to_mine - query);
                if (seen_begin >= seen_end) continue;  // the whole warp
                float p = 0, ds = 0, dx = 0;
                if (seen_begin <= lane && lane < seen_end) {
                    const int64_t at = (query_row + lane) * sizes.NH + head;
                    const AttentionScore x =
                        attention_score(scores, attention_dot(q_tile + lane * sizes.pitch, k_rows + warp * sizes.pitch, sizes.HS), head,
                                        kv_head, segment.first_position + query + lane, before + query + lane - row);
                    p = attention_exp(x.score, saved.lse[at]);
                    ds = p * (attention_dot(dout_tile + lane * sizes.pitch, v_rows + warp * sizes.pitch, sizes.HS) - saved.D[at]);
                    dx = ds * x.slope;
                }
                attention_add_rows(dk_sums, dx, q_tile, seen_begin, seen_end, sizes);
                attention_add_rows(dv_sums, p, dout_tile, seen_begin, seen_end, sizes);
                if (dk_factors.data)
                    attention_add_factors(factor_sums, ds, scores.q_factors.row(segment.first_position + query, head, scores.R),
                                          scores.q_factors.stride, scores.R, seen_begin, seen_end);
            }
    };
    // The segments that hold any of the block's keys: each lane looks at one of 32, every warp comes to the same answer. A batch may have a
    // segment for each token: where their keys ascend, these are the only ones that are looked at.
    for (int64_t base = segments.first_of_key(first); base < segments.count; base += warp_size) {
        if (segments.keys_ascend && segments.table[base].kv_start >= last) break;
        bool holds = false;
        if (base + lane < segments.count) {
            const Segment& segment = segments.table[base + lane];
            holds = segment.kv_start < last && first < segment.kv_start + segment.kv_len;
        }
        for (unsigned found = __ballot_sync(all_lanes, holds); found != 0; found &= found - 1)
            add_segment(segments.table[base + __ffs(static_cast<int>(found)) - 1]);
    }
    if (row >= sizes.Tk) return;
    T *dk_row = dk.row(row, kv_head, sizes.HS), *dv_row = dv.row(row, kv_head, sizes.HS);
#pragma unroll
    for (int i = 0; i < columns; i++) {
        const int d = lane + i * warp_size;
        if (d >= sizes.HS) continue;
        dk_row[d] = from_float<T>(to_float(dk_row[d]) + dk_sums[i]);
        dv_row[d] = from_float<T>(to_float(dv_row[d]) + dv_sums[i]);
    }
    if (!dk_factors.data) return;
    T* to = dk_factors.row(row, kv_head, scores.R);
#pragma unroll
    for (int i = 0; i < attention_factor_columns; i++) {
        const int r = lane + i * warp_size;
        if (r < scores.R) to[r] = from_float<T>(to_float(to[r]) + factor_sums[i]);
    }
}

void simple_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                               const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                               Stream& stream) {
    const AttentionSizes sizes = attention_sizes(in.q, in.k);
    const AttentionSegments table = attention_segments(segments);
    auto blocks = [](int64_t rows) { return static_cast<unsigned>(div_ceil(rows, attention_warps)); };
    const int64_t shared_bytes = attention_shared_bytes(2 * attention_warps, sizes);
    attention_dispatch(in.q.dtype, sizes.HS, [&]<class T, int columns>() {
        const AttentionSaved<T> saved = attention_saved<T>(dout, lse, scratch.delta, in);
        const AttentionScores<T> scores = attention_scores<T>(in, params);
        launch(attention_simple_dq_kernel<T, columns>, dim3(blocks(sizes.T), static_cast<unsigned>(sizes.NH)), dim3(attention_threads),
               shared_bytes, stream, attention_heads<T>(d.dq), attention_heads<T>(d.dq_factors), saved, scores, table, sizes);
        launch(attention_simple_dkv_kernel<T, columns>, dim3(blocks(sizes.Tk), static_cast<unsigned>(in.k.shape[1])),
               dim3(attention_threads), shared_bytes, stream, attention_heads<T>(d.dk), attention_heads<T>(d.dv),
               attention_heads<T>(d.dk_factors), saved, scores, table, sizes);
    });
}

}  // namespace traincu::gpu
