// Attention's forward on the GPU, the simple kernel: kernels/attention_simple.h says how the threads share the work. Grid: 8 query rows by
// head.
//
// A window skips the tiles that none of a block's rows sees. The factors of a bias are read where they lie, a product of R numbers a pair.
//
// FLOPs: 4 NH HS a visible pair of query and key. Bytes: keys and values are read once for every 8 query rows, mostly from L2. Bound by
// shared memory: each 4 multiply-adds of a lane read 16 bytes of a key. Floor: FLOPs / 12 TFLOP/s (H200). Fraction: not measured.
#include "kernels/attention_simple.h"

namespace traincu::gpu {

template <class T, int columns>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_simple_forward_kernel(AttentionHeads<T> out, float* lse, AttentionHeads<const T> q, AttentionHeads<const T> k,
                                    AttentionHeads<const T> v, AttentionHeads<const T> gate, int gate_width, AttentionScores<T> scores,
                                    AttentionSegments segments, AttentionSizes sizes) {
    float* q_rows = shared<float>();                         // (8, pitch)
    float* k_tile = q_rows + attention_warps * sizes.pitch;  // (32, pitch)
    float* v_tile = k_tile + attention_tile * sizes.pitch;   // (32, pitch)
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t head = blockIdx.y, kv_head = head / sizes.group;
    const int64_t first = (int64_t{gridDim.x} - 1 - blockIdx.x) * attention_warps;  // late rows see most keys: they start first
    const int64_t last = first + attention_warps < sizes.T ? first + attention_warps : sizes.T, row = first + warp;
    attention_load(q_rows, q, first, static_cast<int>(last - first), head, sizes, scores.scale);

    // The block's rows, segment by segment; warps whose row lies in another one help to load. A sink is a key without a value.
    float top = scores.sinks ? to_float(scores.sinks[head]) : -INFINITY, sum = scores.sinks ? 1.0f : 0.0f, sums[columns] = {};
    for (int64_t begin = first, end; begin < last; begin = end) {
        const Segment segment = segments.of_query(begin);
        end = segment.q_start + segment.q_len < last ? segment.q_start + segment.q_len : last;
        const int64_t before = segment.kv_len - segment.q_len - segment.q_start;  // row t stands beside key before + t
        const AttentionRange mine = attention_keys(scores, before, row, begin <= row && row < end);
        for (int64_t key = attention_first_tile(scores, before + begin); key < before + end; key += attention_tile) {
            const int64_t left = before + end - key;
            const int count = left < attention_tile ? static_cast<int>(left) : attention_tile;
            const int seen_begin = attention_lanes(mine.begin - key), seen_end = attention_lanes(mine.end - key);
            __syncthreads();  // the tiles before have been read
            attention_load(k_tile, k, segment.kv_start + key, count, kv_head, sizes);
            attention_load(v_tile, v, segment.kv_start + key, count, kv_head, sizes);
            __syncthreads();
            if (seen_begin >= seen_end) continue;  // the whole warp
            float score = -INFINITY;
            if (seen_begin <= lane && lane < seen_end)
                score = attention_score(scores, attention_dot(q_rows + warp * sizes.pitch, k_tile + lane * sizes.pitch, sizes.HS), head,
                                        kv_head, segment.first_position + row - segment.q_start, before + row - key - lane)
                            .score;
            const float new_top = fmaxf(top, warp_max(score)), p = attention_exp(score, new_top), rescale = attention_exp(top, new_top);
            sum = sum * rescale + warp_sum(p);
#pragma unroll
            for (int i = 0; i < columns; i++) sums[i] *= rescale;
            attention_add_rows(sums, p, v_tile, seen_begin, seen_end, sizes);
            top = new_top;
        }
    }
    if (row >= last) return;
    T* to = out.row(row, head, sizes.HS);
#pragma unroll
    for (int i = 0; i < columns; i++) {
        const int d = lane + i * warp_size;
        if (d >= sizes.HS) continue;
        const float open = gate_width > 0 ? attention_sigmoid(to_float(gate.row(row, head, gate_width)[gate_width > 1 ? d : 0])) : 1.0f;
        to[d] = from_float<T>(sums[i] / sum * open);
    }
    if (lane == 0) lse[row * sizes.NH + head] = top + logf(sum);
}

void simple_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                              const AttentionParams& params, Stream& stream) {
    const AttentionSizes sizes = attention_sizes(in.q, in.k);
    const dim3 grid(static_cast<unsigned>(div_ceil(sizes.T, attention_warps)), static_cast<unsigned>(sizes.NH));
    attention_dispatch(in.q.dtype, sizes.HS, [&]<class T, int columns>() {
        launch(attention_simple_forward_kernel<T, columns>, grid, dim3(attention_threads), attention_shared_bytes(attention_warps, sizes),
               stream, attention_heads<T>(out), lse.as<float>(), attention_heads<const T>(in.q), attention_heads<const T>(in.k),
               attention_heads<const T>(in.v), attention_heads<const T>(in.gate), in.gate ? static_cast<int>(in.gate.shape[2]) : 0,
               attention_scores<T>(in, params), attention_segments(segments), sizes);
    });
}

}  // namespace traincu::gpu
