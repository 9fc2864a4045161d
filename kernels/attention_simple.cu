// Attention's forward on the GPU, the simple kernel: kernels/attention_simple.h says how the threads share the work. Grid: 8 query rows by
// head.
//
// FLOPs: 4 NH HS a visible pair of query and key. Bytes: keys and values are read once for every 8 query rows, mostly from L2. Bound by
// shared memory: each 4 multiply-adds of a lane read 16 bytes of a key. Floor: FLOPs / 12 TFLOP/s (H200). Fraction: not measured.
#include "kernels/attention_simple.h"

namespace traincu::gpu {

template <class T, int columns>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_simple_forward_kernel(AttentionHeads<T> out, float* lse, AttentionHeads<const T> q, AttentionHeads<const T> k,
                                    AttentionHeads<const T> v, AttentionSegments segments, AttentionSizes sizes, float scale) {
    float* q_rows = shared<float>();                         // (8, pitch)
    float* k_tile = q_rows + attention_warps * sizes.pitch;  // (32, pitch)
    float* v_tile = k_tile + attention_tile * sizes.pitch;   // (32, pitch)
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t head = blockIdx.y, kv_head = head / sizes.group;
    const int64_t first = (int64_t{gridDim.x} - 1 - blockIdx.x) * attention_warps;  // late rows see most keys: they start first
    const int64_t last = first + attention_warps < sizes.T ? first + attention_warps : sizes.T, row = first + warp;
    attention_load(q_rows, q, first, static_cast<int>(last - first), head, sizes, scale);

    // The block's rows, segment by segment; warps whose row lies in another one help to load.
    for (int64_t begin = first, end; begin < last; begin = end) {
        const Segment segment = segments.of_query(begin);
        end = segment.q_start + segment.q_len < last ? segment.q_start + segment.q_len : last;
        const int64_t before = segment.kv_len - segment.q_len - segment.q_start;  // row t sees the keys up to before + t
        const bool mine = begin <= row && row < end;
        const int64_t seen = mine ? before + row + 1 : 0;
        float top = -INFINITY, sum = 0, sums[columns] = {};
        for (int64_t key = 0; key < before + end; key += attention_tile) {
            const int64_t left = before + end - key, left_mine = seen - key;
            const int count = left < attention_tile ? static_cast<int>(left) : attention_tile;
            const int visible = left_mine < count ? static_cast<int>(left_mine) : count;
            __syncthreads();  // the tiles before have been read
            attention_load(k_tile, k, segment.kv_start + key, count, kv_head, sizes);
            attention_load(v_tile, v, segment.kv_start + key, count, kv_head, sizes);
            __syncthreads();
            if (visible <= 0) continue;  // the whole warp
            const float score =
                lane < visible ? attention_dot(q_rows + warp * sizes.pitch, k_tile + lane * sizes.pitch, sizes.HS) : -INFINITY;
            const float new_top = fmaxf(top, warp_max(score)), p = attention_exp(score, new_top), rescale = attention_exp(top, new_top);
            sum = sum * rescale + warp_sum(p);
#pragma unroll
            for (int i = 0; i < columns; i++) sums[i] *= rescale;
            attention_add_rows(sums, p, v_tile, 0, visible, sizes);
            top = new_top;
        }
        if (mine) {
            T* to = out.row(row, head, sizes.HS);
#pragma unroll
            for (int i = 0; i < columns; i++)
                if (lane + i * warp_size < sizes.HS) to[lane + i * warp_size] = from_float<T>(sums[i] / sum);
            if (lane == 0) lse[row * sizes.NH + head] = top + logf(sum);
        }
    }
}

void simple_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                              const AttentionParams& params, Stream& stream) {
    const AttentionSizes sizes = attention_sizes(in.q, in.k);
    const dim3 grid(static_cast<unsigned>(div_ceil(sizes.T, attention_warps)), static_cast<unsigned>(sizes.NH));
    attention_dispatch(in.q.dtype, sizes.HS, [&]<class T, int columns>() {
        launch(attention_simple_forward_kernel<T, columns>, grid, dim3(attention_threads), attention_shared_bytes(attention_warps, sizes),
               stream, attention_heads<T>(out), lse.as<float>(), attention_heads<const T>(in.q), attention_heads<const T>(in.k),
               attention_heads<const T>(in.v), attention_segments(segments), sizes, static_cast<float>(params.scale));
    });
}

}  // namespace traincu::gpu
