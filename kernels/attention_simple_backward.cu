// Attention's backward on the GPU, the simple kernels: kernels/attention_simple.h says how the threads share the work. Two kernels:
//   dq       one warp per (query row, head), over the tiles of keys that it sees
//   dk, dv   one warp per (key row, key head), over the segments that hold the key, in each the heads of the group, in each the tiles of
//   the
//            queries that see the key, all ascending: no atomics. A key's sums are added to dk, dv once.
// The scores and P are computed twice, in dq and in dk, dv: 7 products instead of 5.
//
// FLOPs: 14 NH HS a visible pair. Bytes: as in the forward, mostly from L2. Floor: FLOPs / 12 TFLOP/s (H200). Fraction: not measured.
#include "kernels/attention_simple.h"

namespace traincu::gpu {

// What both passes read.
template <class T>
struct AttentionSaved {
    AttentionHeads<const T> dout, q, k, v;
    const float *lse, *D;  // (T,NH)
};

template <class T, int columns>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_simple_dq_kernel(AttentionHeads<T> dq, AttentionSaved<T> saved, AttentionSegments segments, AttentionSizes sizes,
                               float scale) {
    float* q_rows = shared<float>();                            // (8, pitch), already scaled
    float* dout_rows = q_rows + attention_warps * sizes.pitch;  // (8, pitch)
    float* k_tile = dout_rows + attention_warps * sizes.pitch;  // (32, pitch)
    float* v_tile = k_tile + attention_tile * sizes.pitch;      // (32, pitch)
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t head = blockIdx.y, kv_head = head / sizes.group;
    const int64_t first = (int64_t{gridDim.x} - 1 - blockIdx.x) * attention_warps;
    const int64_t last = first + attention_warps < sizes.T ? first + attention_warps : sizes.T, row = first + warp;
    attention_load(q_rows, saved.q, first, static_cast<int>(last - first), head, sizes, scale);
    attention_load(dout_rows, saved.dout, first, static_cast<int>(last - first), head, sizes);

    for (int64_t begin = first, end; begin < last; begin = end) {
        const Segment segment = segments.of_query(begin);
        end = segment.q_start + segment.q_len < last ? segment.q_start + segment.q_len : last;
        const int64_t before = segment.kv_len - segment.q_len - segment.q_start;
        const bool mine = begin <= row && row < end;
        const int64_t seen = mine ? before + row + 1 : 0;
        const float lse = mine ? saved.lse[row * sizes.NH + head] : 0.0f, D = mine ? saved.D[row * sizes.NH + head] : 0.0f;
        float sums[columns] = {};
        for (int64_t key = 0; key < before + end; key += attention_tile) {
            const int64_t left = before + end - key, left_mine = seen - key;
            const int count = left < attention_tile ? static_cast<int>(left) : attention_tile;
            const int visible = left_mine < count ? static_cast<int>(left_mine) : count;
            __syncthreads();  // the tiles before have been read
            attention_load(k_tile, saved.k, segment.kv_start + key, count, kv_head, sizes);
            attention_load(v_tile, saved.v, segment.kv_start + key, count, kv_head, sizes);
            __syncthreads();
            if (visible <= 0) continue;  // the whole warp
            float ds = 0;
            if (lane < visible) {
                const float p = attention_exp(attention_dot(q_rows + warp * sizes.pitch, k_tile + lane * sizes.pitch, sizes.HS), lse);
                ds = p * (attention_dot(dout_rows + warp * sizes.pitch, v_tile + lane * sizes.pitch, sizes.HS) - D);
            }
            attention_add_rows(sums, ds, k_tile, 0, visible, sizes);
        }
        if (mine) {
            T* to = dq.row(row, head, sizes.HS);
#pragma unroll
            for (int i = 0; i < columns; i++)
                if (lane + i * warp_size < sizes.HS) to[lane + i * warp_size] = from_float<T>(scale * sums[i]);
        }
    }
}

template <class T, int columns>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_simple_dkv_kernel(AttentionHeads<T> dk, AttentionHeads<T> dv, AttentionSaved<T> saved, AttentionSegments segments,
                                AttentionSizes sizes, float scale) {
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
    float dk_sums[columns] = {}, dv_sums[columns] = {};
    auto add_segment = [&](const Segment& segment) {
        const int64_t begin = segment.kv_start > first ? segment.kv_start : first;  // the block's keys in the segment
        const int64_t kv_end = segment.kv_start + segment.kv_len, end = kv_end < last ? kv_end : last;
        const bool mine = begin <= row && row < end;
        // The first query that sees a key: key j is query j - before.
        const int64_t before = segment.kv_start + segment.kv_len - segment.q_len;
        const int64_t from = begin > before ? begin - before : 0, from_mine = row > before ? row - before : 0;
        for (int64_t head = kv_head * sizes.group; head < (kv_head + 1) * sizes.group; head++)
            for (int64_t query = from; query < segment.q_len; query += attention_tile) {
                const int64_t left = segment.q_len - query, query_row = segment.q_start + query;
                const int count = left < attention_tile ? static_cast<int>(left) : attention_tile;
                __syncthreads();  // the tiles before have been read
                attention_load(q_tile, saved.q, query_row, count, head, sizes, scale);
                attention_load(dout_tile, saved.dout, query_row, count, head, sizes);
                __syncthreads();
                if (!mine || from_mine >= query + count) continue;  // the whole warp
                const int skipped = from_mine > query ? static_cast<int>(from_mine - query) : 0;
                float p = 0, ds = 0;
                if (skipped <= lane && lane < count) {
                    const int64_t at = (query_row + lane) * sizes.NH + head;
                    p = attention_exp(attention_dot(q_tile + lane * sizes.pitch, k_rows + warp * sizes.pitch, sizes.HS), saved.lse[at]);
                    ds = p * (attention_dot(dout_tile + lane * sizes.pitch, v_rows + warp * sizes.pitch, sizes.HS) - saved.D[at]);
                }
                attention_add_rows(dk_sums, ds, q_tile, skipped, count, sizes);
                attention_add_rows(dv_sums, p, dout_tile, skipped, count, sizes);
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
}

void simple_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                               const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                               Stream& stream) {
    const AttentionSizes sizes = attention_sizes(in.q, in.k);
    const float scale = static_cast<float>(params.scale);
    const AttentionSegments table = attention_segments(segments);
    auto blocks = [](int64_t rows) { return static_cast<unsigned>(div_ceil(rows, attention_warps)); };
    const int64_t shared_bytes = attention_shared_bytes(2 * attention_warps, sizes);
    attention_dispatch(in.q.dtype, sizes.HS, [&]<class T, int columns>() {
        const AttentionSaved<T> saved{attention_heads<const T>(dout),
                                      attention_heads<const T>(in.q),
                                      attention_heads<const T>(in.k),
                                      attention_heads<const T>(in.v),
                                      lse.as<float>(),
                                      scratch.delta.as<float>()};
        launch(attention_simple_dq_kernel<T, columns>, dim3(blocks(sizes.T), static_cast<unsigned>(sizes.NH)), dim3(attention_threads),
               shared_bytes, stream, attention_heads<T>(d.dq), saved, table, sizes, scale);
        launch(attention_simple_dkv_kernel<T, columns>, dim3(blocks(sizes.Tk), static_cast<unsigned>(in.k.shape[1])),
               dim3(attention_threads), shared_bytes, stream, attention_heads<T>(d.dk), attention_heads<T>(d.dv), saved, table, sizes,
               scale);
    });
}

}  // namespace traincu::gpu
