// Attention's backward on tensor cores through mma.sync: kernels/attention_tiled.h says how a warp works. Deterministic, two kernels:
//   dk, dv   a block per (key tile, key head): over the segments that hold the keys, the heads of the group, the queries that see them, all
//            ascending. The warp's rows are keys: S^T and dP^T are computed, and P^T and dS^T are left operands from the registers. Sums
//            are added to dk, dv once
//   dq       a block per (query tile, head): the warp's rows are queries, over the keys that they see
// Scores and dP are computed in both: 7 products. Otherwise (dq may be added in any order) the first kernel does it all with 5: the
// warps' dS^T meet in shared memory, where this step's queries lay, and the block adds its part of dq to sums in f32 by atomics.
//
// A block has 8 warps and 128 rows; where a head is wider than 128, 64 rows, and two warps share each 16 of them: both compute the scores,
// and each sums one half of the columns. The other side comes 32 rows at a time; 16 to wide heads,
// and to keys of heads of 128, whose sums leave no registers for more. The gradient of trained factors takes the registers
// of dk or dq in walks of its own, a head's size of their columns at once: two products more, but no register that others lack.
//
// Shared memory: two tiles that stay and two stages, HS 64: 48 KB, HS 128: 80 and 96 KB, HS 256: 96 KB.
// FLOPs: 14 NH HS a visible pair, 10 where dq is added in any order. Floor: FLOPs / 770 TFLOP/s (H200); mma.sync reaches about 60 % of
// that. Fraction: not measured.
#include "kernels/attention_tiled.h"
#include "kernels/copy.h"

namespace traincu::gpu {

template <int HS, bool of_keys>
struct TiledBackward {
    static constexpr bool wide = HS > 128;
    static constexpr int chunks = HS / 8, rows = wide ? 64 : 128, step = wide || (of_keys && HS == 128) ? 16 : 32, halves = wide ? 2 : 1;
    static constexpr int groups = rows / 16, threads = groups * halves * warp_size, columns = HS / 8 / halves;  // of a warp, in eights
    static constexpr int tile = step * tiled_pitch<chunks>, block_tile = rows * tiled_pitch<chunks>;
    static constexpr int stage = 2 * tile > rows* step ? 2 * tile : rows* step;  // has room for dS
    static constexpr int elements = 2 * block_tile + 2 * stage, slice = rows + step;
};

// What both kernels read.
struct TiledSaved {
    AttentionHeads<const bf16> dout, q, k, v;
    const float *lse, *D;  // (T,NH)
};

struct TiledGradients {
    AttentionHeads<bf16> dq, dk, dv, dq_factors, dk_factors;
    int factors;     // columns of the trained factors, or 0
    float* dq_sums;  // (T,NH,HS), or null: dq is another kernel's
};

// A row's lse as the exponentials want it, and D; of a row beyond the segment what makes its P and dS zero.
inline __device__ void tiled_row(float& lse, float& D, const TiledSaved& saved, int64_t at, bool exists) {
    lse = exists ? saved.lse[at] * attention_log2e : INFINITY;
    D = exists ? saved.D[at] : 0.0f;
}

// The steps of a block of keys: segment by segment, head by head of the group, `step` queries at a time from the segment's first.
struct TiledWalk {
    const Segment* segments;
    int segment, end, group, window, step;
    int key_begin, key_end;  // rows of the block's keys
    int head = 0, query = 0, query_begin = 0, query_end = 0;

    __device__ bool done() const { return segment >= end; }
    // Goes to the segment, or the next one that has queries that see the keys.
    __device__ void enter() {
        for (; segment < end; segment++) {
            const Segment s = segments[segment];
            const int before = static_cast<int>(s.kv_len - s.q_len), q_len = static_cast<int>(s.q_len);
            const int first = key_begin - static_cast<int>(s.kv_start), kv_len = static_cast<int>(s.kv_len);
            const int last = key_end - static_cast<int>(s.kv_start) < kv_len ? key_end - static_cast<int>(s.kv_start) : kv_len;
            if (first >= kv_len || last <= 0) continue;
            query_begin = first > before ? (first - before) / step * step : 0;
            query_end = last - 1 - before < q_len - window ? last - 1 - before + window : q_len;  // no sum that could overflow
            head = 0, query = query_begin;
            if (query_begin < query_end) return;
        }
    }
    __device__ void next() {
        query += step;
        if (query < query_end) return;
        query = query_begin;
        if (++head < group) return;
        segment++;
        enter();
    }
};

// The step that lies in a stage.
struct TiledStep {
    int head;        // of the queries
    int query, key;  // the first ones, within the segment; the key is the block's, perhaps before the segment's first
    int q_len, kv_len;
    int64_t q_start, first_position;
};

// dP - D, of each element's query by row_of(n, e): before the scores are there, so that cap' can join it at once.
template <int steps, class Row>
__device__ void tiled_subtract(float (&dP)[steps][4], const float* D, Row&& row_of) {
#pragma unroll
    for (int n = 0; n < steps; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) dP[n][e] -= D[row_of(n, e)];
}

template <int steps>
__device__ void tiled_scale_by(float (&x)[steps][4], const float (&factor)[steps][4]) {
#pragma unroll
    for (int n = 0; n < steps; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) x[n][e] *= factor[n][e];
}

template <int columns>
__device__ void tiled_clear(float (&sums)[columns][4]) {
#pragma unroll
    for (int n = 0; n < columns; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[n][e] = 0;
}

// to (16 rows of a head, from column `col` on) = or += factor * sums; `rows` of the rows and `width` columns exist.
template <bool add, int columns>
__device__ void tiled_store(const AttentionHeads<bf16>& to, int64_t first, int rows, int64_t head, int width, int col, float factor,
                            const float (&sums)[columns][4]) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = half * 8 + lane / 4;
        if (row >= rows) continue;
        bf16* place = to.row(first + row, head, width) + col + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < columns; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if (col + n * 8 + lane % 4 * 2 + e >= width) break;
                bf16& x = place[n * 8 + e];
                x = from_float<bf16>(add ? fmaf(factor, sums[n][half * 2 + e], to_float(x)) : factor * sums[n][half * 2 + e]);
            }
    }
}

template <int HS>
__global__ void __launch_bounds__(TiledBackward<HS, true>::threads)
    attention_tiled_dkv_kernel(TiledGradients d, TiledSaved saved, TiledTable table, AttentionScores<bf16> scores, TiledSizes sizes) {
    using Shape = TiledBackward<HS, true>;
    constexpr int chunks = Shape::chunks, step = Shape::step, steps = step / 8, parts = attention_tile_rows / Shape::rows;
    bf16* k_tile = shared<bf16>();
    bf16* v_tile = k_tile + Shape::block_tile;
    bf16* ring = v_tile + Shape::block_tile;
    float* slices = shared_array<float, 2 * Shape::slice>();
    float* rows_lse = shared_array<float, 2 * step, 1>();
    float* rows_D = shared_array<float, 2 * step, 2>();
    TiledStep* in_stage = shared_array<TiledStep, 2>();
    const int thread = static_cast<int>(threadIdx.x), warp = thread / warp_size, lane = thread % warp_size;
    const int row = warp % Shape::groups * 16, col = warp / Shape::groups * Shape::columns * 8;  // of the warp's keys and sums
    const int NKV = sizes.NH / sizes.group;
    const int64_t kv_head = blockIdx.x % static_cast<unsigned>(NKV), at = blockIdx.x / static_cast<unsigned>(NKV);
    const AttentionTile tile = table.tiles[at / parts];
    const int part = static_cast<int>(at % parts) * Shape::rows, count = tile.count - part < Shape::rows ? tile.count - part : Shape::rows;
    if (count <= 0) return;
    const int64_t first = tile.begin + part;  // row of the first key
    const int window = tiled_window(scores);
    const float unit = tiled_unit(scores);
    tiled_load<Shape::rows, chunks, Shape::threads>(k_tile, saved.k, first, count, kv_head, sizes.HS);
    tiled_load<Shape::rows, chunks, Shape::threads>(v_tile, saved.v, first, count, kv_head, sizes.HS);

    auto load_step = [&](const TiledWalk& place, int stage) {
        const Segment s = table.segments[place.segment];
        const int64_t head = kv_head * sizes.group + place.head, begin = s.q_start + place.query;
        const int left = static_cast<int>(s.q_len) - place.query, key = static_cast<int>(first - s.kv_start);
        bf16* to = ring + stage * Shape::stage;
        tiled_load<step, chunks, Shape::threads>(to, saved.q, begin, left, head, sizes.HS);
        tiled_load<step, chunks, Shape::threads>(to + Shape::tile, saved.dout, begin, left, head, sizes.HS);
        if (thread < step)
            tiled_row(rows_lse[stage * step + thread], rows_D[stage * step + thread], saved, (begin + thread) * sizes.NH + head,
                      thread < left);
        const int beside = static_cast<int>(s.kv_len - s.q_len) + place.query;
        tiled_load_slice(slices + stage * Shape::slice, scores, head, beside - (key + Shape::rows - 1), Shape::slice);
        if (thread == 0)
            in_stage[stage] = {static_cast<int>(head), place.query, key, static_cast<int>(s.q_len), static_cast<int>(s.kv_len), s.q_start,
                               s.first_position};
        cp_async_commit();
    };

    for (int walk = 0; walk == 0 || (walk - 1) * HS < d.factors; walk++) {
        const int r = (walk - 1) * HS + col;  // of a further walk: the factors' columns that it sums
        float dk[Shape::columns][4] = {}, dv[Shape::columns][4] = {};
        TiledWalk next{table.segments, tile.segment, tile.segment + tile.segments, sizes.group,
                       window,         step,         static_cast<int>(first),      static_cast<int>(first) + count};
        next.enter();
        __syncthreads();  // the walk before has read its last step
        bool more = !next.done();
        if (more) load_step(next, 0), next.next();
        for (int stage = 0; more; stage ^= 1) {
            cp_async_wait<0>();
            __syncthreads();  // this step's rows are there, and all are done with those before, whose place is next
            more = !next.done();
            if (more) load_step(next, stage ^ 1), next.next();
            bf16 *q_tile = ring + stage * Shape::stage, *dout_tile = q_tile + Shape::tile;
            const TiledStep& now = in_stage[stage];
            const int before = now.kv_len - now.q_len;
            const TiledPairs<false> pairs{before + now.query, now.key + row};
            float s[steps][4], dS[steps][4] = {};
            const bool seen = !pairs.empty(step, window);
            if (seen) {
                const TiledFactors keys{scores.k_factors, now.first_position - before, kv_head, now.kv_len, scores.R};
                const TiledFactors queries{scores.q_factors, now.first_position, now.head, now.q_len, scores.R};
                auto query_of = [&](int n, int e) { return stage * step + n * 8 + lane % 4 * 2 + e % 2; };
                tiled_scores<chunks>(dS, v_tile, row, dout_tile);
                tiled_subtract(dS, rows_D, query_of);
                tiled_scores<chunks>(s, k_tile, row, q_tile);
                if (!tiled_plain(scores)) {
                    tiled_cap(s, scores, [&](int n, int e, float slope) {
                        if (walk == 0) dS[n][e] *= slope;  // factors are added behind the cap
                    });
                    if (scores.bias == AttentionBias::factors)
                        tiled_add_factors(s, keys, now.key + row, queries, now.query);
                    else
                        tiled_add_bias(s, pairs, scores, now.head, now.first_position + now.query, slices + stage * Shape::slice,
                                       before + now.query - (now.key + Shape::rows - 1));
                }
                if (!pairs.whole(step, window)) tiled_mask(s, pairs, window);
#pragma unroll
                for (int n = 0; n < steps; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) s[n][e] = exp2f(fmaf(s[n][e], unit, -rows_lse[query_of(n, e)]));
                if (walk == 0) tiled_add_rows<chunks>(dv, s, dout_tile, col);
                tiled_scale_by(dS, s);
                if (walk > 0)
                    tiled_add_factor_rows(dk, dS, queries, now.query, r);
                else
                    tiled_add_rows<chunks>(dk, dS, q_tile, col);
            }
            if (!d.dq_sums) continue;

            // This block's part of dq (step, HS): dS^T (keys, queries) takes the place of the queries.
            __syncthreads();  // which all have read
            if (col == 0) {
#pragma unroll
                for (int n = 0; n < steps; n++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        *reinterpret_cast<uint32_t*>(q_tile + tiled_place<steps>(row + half * 8 + lane / 4, n) + lane % 4 * 2) =
                            pack_bf16x2(dS[n][half * 2], dS[n][half * 2 + 1]);
            }
            __syncthreads();
            constexpr int across = HS / 16;
            for (int unit_at = warp; unit_at < step / 16 * across; unit_at += Shape::threads / warp_size) {
                const int query = unit_at / across * 16, dq_col = unit_at % across * 16;
                float dq[2][4] = {};
                for (int k = 0; k < Shape::rows; k += 16) {
                    uint32_t a[4], b[4];
                    tiled_left_transposed<steps>(a, q_tile, k, query);
                    tiled_right_transposed<chunks>(b, k_tile, k, dq_col);
                    mma_m16n8k16<bf16>(dq[0], a, {b[0], b[1]});
                    mma_m16n8k16<bf16>(dq[1], a, {b[2], b[3]});
                }
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int i = now.query + query + e / 2 * 8 + lane / 4, column = dq_col + n * 8 + lane % 4 * 2 + e % 2;
                        if (i < now.q_len && column < sizes.HS)
                            atomicAdd(d.dq_sums + ((now.q_start + i) * sizes.NH + now.head) * sizes.HS + column, dq[n][e]);
                    }
            }
        }
        if (walk > 0) {
            tiled_store<true>(d.dk_factors, first + row, count - row, kv_head, d.factors, r, 1.0f, dk);
            continue;
        }
        tiled_store<true>(d.dk, first + row, count - row, kv_head, sizes.HS, col, scores.scale, dk);
        tiled_store<true>(d.dv, first + row, count - row, kv_head, sizes.HS, col, 1.0f, dv);
    }
}

template <int HS>
__global__ void __launch_bounds__(TiledBackward<HS, false>::threads)
    attention_tiled_dq_kernel(TiledGradients d, TiledSaved saved, TiledTable table, AttentionScores<bf16> scores, TiledSizes sizes) {
    using Shape = TiledBackward<HS, false>;
    constexpr int chunks = Shape::chunks, step = Shape::step, steps = step / 8, parts = attention_tile_rows / Shape::rows;
    bf16* q_tile = shared<bf16>();
    bf16* dout_tile = q_tile + Shape::block_tile;
    bf16* ring = dout_tile + Shape::block_tile;
    float* slices = shared_array<float, 2 * Shape::slice>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int row = warp % Shape::groups * 16, col = warp / Shape::groups * Shape::columns * 8;  // of the warp's queries and sums
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
    const float unit = tiled_unit(scores);
    tiled_load<Shape::rows, chunks, Shape::threads>(q_tile, saved.q, first, count, head, sizes.HS);
    tiled_load<Shape::rows, chunks, Shape::threads>(dout_tile, saved.dout, first, count, head, sizes.HS);
    float lse[2], D[2];  // of the lane's rows
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = row + half * 8 + lane / 4;
        tiled_row(lse[half], D[half], saved, (first + i) * sizes.NH + head, i < count);
    }
    auto load_step = [&](int key, int stage) {
        bf16* to = ring + stage * Shape::stage;
        const int left = static_cast<int>(segment.kv_len) - key;
        tiled_load<step, chunks, Shape::threads>(to, saved.k, segment.kv_start + key, left, kv_head, sizes.HS);
        tiled_load<step, chunks, Shape::threads>(to + Shape::tile, saved.v, segment.kv_start + key, left, kv_head, sizes.HS);
        tiled_load_slice(slices + stage * Shape::slice, scores, head, beside - (key + step - 1), Shape::slice);
        cp_async_commit();
    };

    for (int walk = 0; walk == 0 || (walk - 1) * HS < d.factors; walk++) {
        const int r = (walk - 1) * HS + col;  // of a further walk: the factors' columns that it sums
        float dq[Shape::columns][4] = {};
        __syncthreads();  // the walk before has read its last step
        load_step(begin, 0);
        for (int key = begin, stage = 0; key < end; key += step, stage ^= 1) {
            cp_async_wait<0>();
            __syncthreads();  // this step's rows are there, and all are done with those before, whose place is next
            if (key + step < end) load_step(key + step, stage ^ 1);
            const bf16 *k_tile = ring + stage * Shape::stage, *v_tile = k_tile + Shape::tile;
            const TiledPairs<true> pairs{beside + row, key};
            if (pairs.empty(step, window)) continue;
            float s[steps][4], dS[steps][4];
            const TiledFactors queries{scores.q_factors, position, head, count, scores.R};
            const TiledFactors keys{scores.k_factors, position - beside, kv_head, static_cast<int>(segment.kv_len), scores.R};
            tiled_scores<chunks>(dS, dout_tile, row, v_tile);
            tiled_subtract(dS, D, [](int, int e) { return e / 2; });
            tiled_scores<chunks>(s, q_tile, row, k_tile);
            if (!tiled_plain(scores)) {
                tiled_cap(s, scores, [&](int n, int e, float slope) {
                    if (walk == 0) dS[n][e] *= slope;  // factors are added behind the cap
                });
                if (scores.bias == AttentionBias::factors)
                    tiled_add_factors(s, queries, row, keys, key);
                else
                    tiled_add_bias(s, pairs, scores, head, position + row, slices + stage * Shape::slice, beside - (key + step - 1));
            }
            if (!pairs.whole(step, window)) tiled_mask(s, pairs, window);
#pragma unroll
            for (int n = 0; n < steps; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) s[n][e] = exp2f(fmaf(s[n][e], unit, -lse[e / 2]));
            tiled_scale_by(dS, s);
            if (walk > 0)
                tiled_add_factor_rows(dq, dS, keys, key, r);
            else
                tiled_add_rows<chunks>(dq, dS, k_tile, col);
        }
        if (walk > 0)
            tiled_store<false>(d.dq_factors, first + row, count - row, head, d.factors, r, 1.0f, dq);
        else
            tiled_store<false>(d.dq, first + row, count - row, head, sizes.HS, col, scores.scale, dq);
    }
}

constexpr int tiled_convert_threads = 256;

// dq = scale * sums (T,NH,HS), 8 numbers a thread.
__global__ void __launch_bounds__(tiled_convert_threads)
    attention_tiled_convert_kernel(AttentionHeads<bf16> dq, const float* sums, int64_t count, float scale, TiledSizes sizes) {
    const int64_t at = (int64_t{blockIdx.x} * tiled_convert_threads + threadIdx.x) * 8, head = at / sizes.HS;
    if (at >= count) return;
    Pack<bf16> pack;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const Pack<float> four = load16_streaming(sums + at + i);
#pragma unroll
        for (int j = 0; j < 4; j++) pack[i + j] = from_float<bf16>(scale * four[j]);
    }
    store16(dq.row(head / sizes.NH, head % sizes.NH, sizes.HS) + at % sizes.HS, pack);
}

void tiled_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                              const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                              Stream& stream) {
    ENSURE(tiled_attention_takes(in) && params.scale > 0);
    for (const Tensor& t : {dout, d.dq, d.dk, d.dv}) ENSURE(attention_heads<bf16>(t).aligned);
    const int64_t NH = in.q.shape[1], NKV = in.k.shape[1], sums = in.q.rows() * NH * in.q.shape[2];
    const TiledSizes sizes{static_cast<int>(NH), static_cast<int>(NH / NKV), static_cast<int>(in.q.shape[2]), 0};
    const AttentionScores<bf16> scores = attention_scores<bf16>(in, params);
    // The factors' gradients of the queries have no place among the sums: they come with dq's own kernel.
    const bool any_order = !params.deterministic && scratch.dq && !d.dq_factors;
    const TiledGradients gradients{attention_heads<bf16>(d.dq),
                                   attention_heads<bf16>(d.dk),
                                   attention_heads<bf16>(d.dv),
                                   attention_heads<bf16>(d.dq_factors),
                                   attention_heads<bf16>(d.dk_factors),
                                   d.dq_factors ? static_cast<int>(d.dq_factors.shape[2]) : 0,
                                   any_order ? scratch.dq.as<float>() : nullptr};
    const TiledSaved saved{attention_heads<const bf16>(dout),
                           attention_heads<const bf16>(in.q),
                           attention_heads<const bf16>(in.k),
                           attention_heads<const bf16>(in.v),
                           lse.as<float>(),
                           scratch.delta.as<float>()};
    if (any_order) gpu::zero(scratch.dq, stream);
    tiled_dispatch(sizes.HS, [&]<int HS>() {
        auto start = [&]<class Shape>(Shape, auto kernel, const Tensor& tiles, int64_t heads) {
            const int64_t blocks = tiles.rows() * (attention_tile_rows / Shape::rows) * heads;
            launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(Shape::threads), Shape::elements * int64_t{sizeof(bf16)}, stream,
                   gradients, saved, tiled_table(tiles, segments), scores, sizes);
        };
        start(TiledBackward<HS, true>(), attention_tiled_dkv_kernel<HS>, segments.key_tiles, NKV);
        if (!any_order) start(TiledBackward<HS, false>(), attention_tiled_dq_kernel<HS>, segments.query_tiles, NH);
    });
    if (any_order)
        launch(attention_tiled_convert_kernel, dim3(static_cast<unsigned>(div_ceil(sums, 8 * tiled_convert_threads))),
               dim3(tiled_convert_threads), 0, stream, gradients.dq, gradients.dq_sums, sums, scores.scale, sizes);
}

}  // namespace traincu::gpu
