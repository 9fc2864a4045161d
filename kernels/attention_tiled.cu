// Attention's forward on tensor cores through mma.sync: kernels/attention_tiled.h says how a warp works. Grid: query tiles times heads, the
// longest first; a block takes 128 query rows with 8 warps (64 with 4 where a head is wider than 128: what a warp sums is then 128
// registers), and walks over the keys from the first that its rows see, 64 (16) at a time.
//
// A row's maximum is found by two shuffles among the four lanes that share it; its sum stays apart in them until the end. Exponentials are
// base 2: where the product is all there is to the score, exp(scale (x - top)) is one fused multiply-add and one exp2. Only tiles that
// cross the diagonal or the window's edge are masked. The queries' fragments stay in registers; from 128 columns on in shared memory.
//
// Shared memory: two stages of K and V, HS 64: 32 KB; with the queries, HS 128: 96 KB, HS 256: 64 KB.
// FLOPs: 4 NH HS a visible pair of query and key. Bytes: keys and values once for every 128 query rows of a head, from L2. Floor: FLOPs /
// 770 TFLOP/s (H200); mma.sync reaches about 60 % of that. Fraction: not measured.
#include "kernels/attention_tiled.h"

namespace traincu::gpu {

template <int HS>
struct TiledForward {
    static constexpr bool wide = HS > 128, q_in_registers = HS < 128;
    static constexpr int chunks = HS / 8, rows = wide ? 64 : 128, step = wide ? 16 : 64, threads = rows / 16 * warp_size;
    static constexpr int tile = step * tiled_pitch<chunks>, stage = 2 * tile;  // elements of a tile of K or V; of both
    static constexpr int elements = 2 * stage + (q_in_registers ? 0 : rows * tiled_pitch<chunks>);
    static_assert(!q_in_registers || rows == 2 * step);  // these come in through the second stage
    static constexpr int slice = rows + step;            // distances in a block's tile
};

template <int HS>
__global__ void __launch_bounds__(TiledForward<HS>::threads)
    attention_tiled_forward_kernel(AttentionHeads<bf16> out, float* lse, AttentionHeads<const bf16> q, AttentionHeads<const bf16> k,
                                   AttentionHeads<const bf16> v, AttentionHeads<const bf16> gate, TiledTable table,
                                   AttentionScores<bf16> scores, TiledSizes sizes) {
    using Shape = TiledForward<HS>;
    constexpr int chunks = Shape::chunks, step = Shape::step, steps = step / 8, columns = HS / 8, parts = attention_tile_rows / Shape::rows;
    bf16* ring = shared<bf16>();
    bf16* q_tile = ring + (Shape::q_in_registers ? 1 : 2) * Shape::stage;
    float* slices = shared_array<float, 2 * Shape::slice>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t head = blockIdx.x % static_cast<unsigned>(sizes.NH), kv_head = head / sizes.group;
    const int64_t at = blockIdx.x / static_cast<unsigned>(sizes.NH);
    const AttentionTile tile = table.tiles[at / parts];
    const int part = static_cast<int>(at % parts) * Shape::rows, count = tile.count - part < Shape::rows ? tile.count - part : Shape::rows;
    if (count <= 0) return;
    const Segment segment = table.segments[tile.segment];
    const int64_t first = tile.begin + part;                      // row of the first query
    const int query = static_cast<int>(first - segment.q_start);  // the same within the segment
    const int beside = static_cast<int>(segment.kv_len - segment.q_len) + query, window = tiled_window(scores);
    const int begin = beside >= window ? (beside - window + 1) / step * step : 0, end = beside + count;
    const int64_t position = segment.first_position + query;

    auto load_step = [&](int key, int stage) {
        bf16* to = ring + stage * Shape::stage;
        const int left = static_cast<int>(segment.kv_len) - key;
        tiled_load<step, chunks, Shape::threads>(to, k, segment.kv_start + key, left, kv_head, sizes.HS);
        tiled_load<step, chunks, Shape::threads>(to + Shape::tile, v, segment.kv_start + key, left, kv_head, sizes.HS);
        tiled_load_slice(slices + stage * Shape::slice, scores, head, beside - (key + step - 1), Shape::slice);
        cp_async_commit();
    };
    tiled_load<Shape::rows, chunks, Shape::threads>(q_tile, q, first, count, head, sizes.HS);
    load_step(begin, 0);
    uint32_t q_parts[Shape::q_in_registers ? HS / 16 : 1][4];
    if constexpr (Shape::q_in_registers) {
        cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < HS / 16; i++) tiled_left<chunks>(q_parts[i], q_tile, warp * 16, i * 16);
    }

    // Row g of the warp's in [0], row g + 8 in [1].
    const float unit = tiled_unit(scores);
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, sums[columns][4] = {};  // top: times unit
    for (int key = begin, stage = 0; key < end; key += step, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // this step's rows are there, and all are done with those before, whose place is next
        if (key + step < end) load_step(key + step, stage ^ 1);
        const bf16 *k_tile = ring + stage * Shape::stage, *v_tile = k_tile + Shape::tile;
        const TiledPairs<true> pairs{beside + warp * 16, key};
        if (pairs.empty(step, window)) continue;  // nothing that this warp's rows see: P would be zero

        float s[steps][4] = {};
        if constexpr (Shape::q_in_registers) {
#pragma unroll
            for (int i = 0; i < HS / 16; i++) tiled_multiply<chunks>(s, q_parts[i], k_tile, i * 16);
        } else {
            tiled_scores<chunks>(s, q_tile, warp * 16, k_tile);
        }
        if (!tiled_plain(scores)) {
            tiled_cap(s, scores, [](int, int, float) {});
            if (scores.bias == AttentionBias::factors) {
                const int64_t shift = position - beside;  // position of key 0
                const TiledFactors left{scores.q_factors, position, head, count, scores.R};
                const TiledFactors right{scores.k_factors, shift, kv_head, static_cast<int>(segment.kv_len), scores.R};
                tiled_add_factors(s, left, warp * 16, right, key);
            } else {
                tiled_add_bias(s, pairs, scores, head, position + warp * 16, slices + stage * Shape::slice, beside - (key + step - 1));
            }
        }
        if (!pairs.whole(step, window)) tiled_mask(s, pairs, window);

#pragma unroll
        for (int half = 0; half < 2; half++) {
            float highest = -INFINITY;
#pragma unroll
            for (int n = 0; n < steps; n++) highest = fmaxf(highest, fmaxf(s[n][half * 2], s[n][half * 2 + 1]));
            highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, 2));
            const float new_top = fmaxf(top[half], highest * unit);
            const float reference = new_top == -INFINITY ? 0.0f : new_top;  // nothing seen yet: P = 0, not NaN
            const float rescale = exp2f(top[half] - reference);
            top[half] = new_top, sum[half] *= rescale;
#pragma unroll
            for (int n = 0; n < columns; n++) sums[n][half * 2] *= rescale, sums[n][half * 2 + 1] *= rescale;
#pragma unroll
            for (int n = 0; n < steps; n++)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; e++) s[n][e] = exp2f(fmaf(s[n][e], unit, -reference)), sum[half] += s[n][e];
        }
        tiled_add_rows<chunks>(sums, s, v_tile, 0);
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = sum[half];
        total += __shfl_xor_sync(all_lanes, total, 1);
        total += __shfl_xor_sync(all_lanes, total, 2);
        const int row = warp * 16 + half * 8 + lane / 4;
        if (row >= count) continue;
        float factor = 1.0f, reference = top[half];
        if (scores.sinks) {
            const float sink = to_float(scores.sinks[head]) * attention_log2e;
            reference = fmaxf(reference, sink), factor = exp2f(top[half] - reference);
            total = fmaf(total, factor, exp2f(sink - reference));
        }
        factor /= total;
        if (lane % 4 == 0) lse[(first + row) * sizes.NH + head] = fmaf(reference, 1 / attention_log2e, logf(total));
        bf16* to = out.row(first + row, head, sizes.HS);
        const bf16* z = sizes.gate_width > 0 ? gate.row(first + row, head, sizes.gate_width) : nullptr;
        auto open = [&](int col) {  // the gate's part of column col's factor
            return z ? attention_sigmoid(to_float(z[sizes.gate_width == 1 ? 0 : col])) : 1.0f;
        };
#pragma unroll
        for (int n = 0; n < columns; n++) {
            const int col = n * 8 + lane % 4 * 2;
            if (n * 8 >= sizes.HS) break;
            *reinterpret_cast<uint32_t*>(to + col) =
                pack_bf16x2(sums[n][half * 2] * factor * open(col), sums[n][half * 2 + 1] * factor * open(col + 1));
        }
    }
}

bool tiled_attention_takes(const AttentionInputs& in) {
    return in.q.dtype == Dtype::bf16 && in.q.shape[2] <= attention_largest_head && attention_heads<const bf16>(in.q).aligned &&
           attention_heads<const bf16>(in.k).aligned && attention_heads<const bf16>(in.v).aligned;
}

void tiled_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments, const AttentionParams& params,
                             Stream& stream) {
    ENSURE(tiled_attention_takes(in) && attention_heads<bf16>(out).aligned && params.scale > 0);
    const int64_t NH = in.q.shape[1];
    const TiledTable table = tiled_table(segments.query_tiles, segments);
    const TiledSizes sizes{static_cast<int>(NH), static_cast<int>(NH / in.k.shape[1]), static_cast<int>(in.q.shape[2]),
                           in.gate ? static_cast<int>(in.gate.shape[2]) : 0};
    tiled_dispatch(sizes.HS, [&]<int HS>() {
        using Shape = TiledForward<HS>;
        const int64_t blocks = segments.query_tiles.rows() * (attention_tile_rows / Shape::rows) * NH;
        launch(attention_tiled_forward_kernel<HS>, dim3(static_cast<unsigned>(blocks)), dim3(Shape::threads),
               Shape::elements * int64_t{sizeof(bf16)}, stream, attention_heads<bf16>(out), lse.as<float>(),
               attention_heads<const bf16>(in.q), attention_heads<const bf16>(in.k), attention_heads<const bf16>(in.v),
               attention_heads<const bf16>(in.gate), table, attention_scores<bf16>(in, params), sizes);
    });
}

}  // namespace traincu::gpu
