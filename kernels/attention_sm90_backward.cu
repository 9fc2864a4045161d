// Attention's backward on Hopper, the same bits on every run: two kernels, each of which sums in registers what it alone writes.
//
//   dk, dv   a block is a tile of 128 keys and a key head; it goes through the queries that see them, 64 at a time, head by head of the
//            group. A warpgroup has 64 of the keys. S^T = K Q^T and dP^T = V dO^T, so that P^T and dX^T are operands in registers of
//            dV += P^T dO and dK += dX^T Q.
//   dq       a block is a query tile of 128 rows and a head; it goes through its keys, 64 at a time, from the diagonal downwards. S = Q
//   K^T,
//            dP = dO V^T, dq += dX K.
//
// A producer warpgroup brings the tiles through TMA in a ring of two stages. Rows beyond a segment's end, which are another document's or
// nobody's, are set to 0: their P is 0, but 0 inf is not. With a bias of factors, dq_factors is one more sum of the second kernel;
// dk_factors would need more registers than the first has, and is a run of its own (`of_factors`).
//
// With softcap, cap'(x) of a thread's elements waits in shared memory for its use, at places of the thread alone.
//
// FLOPs: 14 HS a pair that is seen (seven products; five of them would do if dq were added to memory by the first kernel). Bytes: as the
// forward's, q, k, v, dout and their gradients. Floor: FLOPs / 790 TFLOP/s. Fraction: not measured.
#include "kernels/attention_sm90.h"

namespace traincu::gpu {

constexpr int hopper_backward_threads = 3 * hopper_threads;
constexpr int hopper_half_panel = hopper_rows * panel_row_bytes;  // bytes of (64, 64)
constexpr int hopper_backward_slice = 2 * hopper_rows;            // distances in a tile of 64 by 64, one to spare
constexpr int hopper_slopes = 32 * hopper_threads * 4;            // bytes of cap'(x) of a warpgroup's tile

struct HopperBackward {
    AttentionHeads<bf16> dq, dk, dv;
    AttentionHeads<bf16> dq_factors, dk_factors;  // or null
    const float *lse, *delta;                     // (T,NH)
    AttentionScores<bf16> scores;
    int64_t positions;  // rows of the factors
    const AttentionTile *query_tiles, *key_tiles;
    const Segment* segments;
    int NH, group;
};

// Of a warpgroup's tile of 64 by 64, x = q . k: makes them logits. Keeps cap'(x) where there is a softcap.
template <bool transposed>
__device__ void hopper_backward_logits(float (&x)[32], const AttentionScores<bf16>& scores, int head, int distance, int least_distance,
                                       int position, float* slice, float* slopes, int which, int thread) {
    hopper_scale(x, scores.scale, scores.softcap);
    if (scores.softcap > 0) {
        const float factor = 1 / scores.softcap;
#pragma unroll
        for (int i = 0; i < 32; i++) slopes[i * hopper_threads + thread] = 1 - x[i] * factor * (x[i] * factor);
    }
    if (scores.bias == AttentionBias::relative) {
        hopper_fill_slice(slice, scores.relative + head * relative_buckets, least_distance, hopper_backward_slice, thread, hopper_threads);
        named_barrier_sync(1 + which, hopper_threads);  // two slices take turns: those before the last have been read
    }
    hopper_add_bias<transposed>(x, scores, head, distance, position, slice + (distance - least_distance));
}

__device__ inline void hopper_times_slopes(float (&x)[32], const float* slopes, int thread) {
#pragma unroll
    for (int i = 0; i < 32; i++) x[i] *= slopes[i * hopper_threads + thread];
}

__device__ inline void hopper_operands(uint32_t (&a)[4][4], const float (&x)[32]) {
#pragma unroll
    for (int k = 0; k < 4; k++) hopper_operand(a[k], x, k);
}

// ---- dk, dv

// 64 queries that a key tile is seen by.
struct HopperStep {
    int head, row;  // the first query, row of the batch; head -1: no more
    int left;       // queries from there to the segment's end
    int distance;   // of the first query from the tile's first key
    int first_key;  // of the tile that is the segment's; may be negative
    int position;   // of the first query
};

// body(step, stage, parity) for all of them, in the order of their sums; then for the end.
template <class Body>
__device__ void hopper_for_queries(const HopperBackward& a, const AttentionTile& tile, int kv_head, Body&& body) {
    int count = 0;
#pragma unroll 1
    for (int head = kv_head * a.group; head < (kv_head + 1) * a.group; head++)
#pragma unroll 1
        for (int n = tile.segment; n < tile.segment + tile.segments; n++) {
            const Segment segment = a.segments[n];
            const int first_key = static_cast<int>(segment.kv_start) - tile.begin, end_key = first_key + static_cast<int>(segment.kv_len);
            if (first_key >= tile.count || end_key <= 0) continue;
            const int q_len = static_cast<int>(segment.q_len), before = end_key - q_len;  // the key beside query 0, counted in the tile
            int last = q_len;
            if (a.scores.window > 0 && a.scores.window < q_len - (tile.count - 1 - before))
                last = tile.count - 1 - before + static_cast<int>(a.scores.window);
#pragma unroll 1
            for (int q = before < 0 ? -before / hopper_rows * hopper_rows : 0; q < last; q += hopper_rows, count++)
                body(HopperStep{head, static_cast<int>(segment.q_start) + q, q_len - q, before + q, first_key,
                                static_cast<int>(segment.first_position) + q},
                     count % 2, count / 2 % 2);
        }
    body(HopperStep{-1, 0, 0, 0, 0, 0}, count % 2, count / 2 % 2);
}

template <int HS>
struct HopperKeysLayout {
    static constexpr int tile = HS / 64 * hopper_panel, half = HS / 64 * hopper_half_panel;
    static constexpr int k = 0, v = tile, q = 2 * tile, dout = q + 2 * half, slopes = dout + 2 * half, factors = slopes + 2 * hopper_slopes;
    static constexpr int factors_stage = hopper_panel + hopper_half_panel;  // those of the keys, of the queries
    static constexpr int bytes(bool softcap, bool with_factors) {
        return with_factors ? factors + 2 * factors_stage : softcap ? factors : slopes;
    }
};

struct HopperKeysBarriers {
    uint64_t *kv_full, *full, *f_full, *empty, *tail;
};

template <int HS>
__device__ void hopper_keys_produce(unsigned char* memory, float* stats, HopperStep* steps, const HopperKeysBarriers& barriers,
                                    const TensorMap* q, const TensorMap* k, const TensorMap* v, const TensorMap* dout,
                                    const HopperBackward& a, const AttentionTile& tile, int kv_head) {
    using Layout = HopperKeysLayout<HS>;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    int tails = 0;
    if (lane == 0) {
        mbarrier_arrive_expect(barriers.kv_full, 2 * Layout::tile);
        hopper_load<HS, hopper_tile>(memory + Layout::k, k, kv_head, tile.begin, barriers.kv_full);
        hopper_load<HS, hopper_tile>(memory + Layout::v, v, kv_head, tile.begin, barriers.kv_full);
    }
    hopper_for_queries(a, tile, kv_head, [&](const HopperStep& step, int stage, int parity) {
        unsigned char *q_rows = memory + Layout::q + stage * Layout::half, *dout_rows = memory + Layout::dout + stage * Layout::half;
        mbarrier_wait(barriers.empty + stage, 1 - parity);
        if (lane == 0) steps[stage] = step;
        if (step.head < 0) {
            if (lane == 0) mbarrier_arrive(barriers.full + stage), mbarrier_arrive(barriers.full + stage);
            return;
        }
        const bool tail = step.left < hopper_rows;
        uint64_t* came = tail ? barriers.tail : barriers.full + stage;
        if (lane == 0) {
            mbarrier_arrive_expect(came, 2 * Layout::half);
            hopper_load<HS, hopper_rows>(q_rows, q, step.head, step.row, came);
            hopper_load<HS, hopper_rows>(dout_rows, dout, step.head, step.row, came);
        }
        for (int r = lane; r < hopper_rows; r += warp_size) {  // lse in base 2; of rows that are not the segment's, P = 0
            const int64_t at = int64_t{step.row + r} * a.NH + step.head;
            float* to = stats + stage * 2 * hopper_rows + r;
            to[0] = r < step.left ? a.lse[at] * attention_log2e : INFINITY;
            to[hopper_rows] = r < step.left ? a.delta[at] : 0.0f;
        }
        if (tail) {
            mbarrier_wait(barriers.tail, tails++ % 2);
            hopper_clear_rows<HS, hopper_rows>(q_rows, step.left, lane);
            hopper_clear_rows<HS, hopper_rows>(dout_rows, step.left, lane);
            fence_proxy_async();
        }
        __syncwarp();
        if (lane == 0) {
            if (tail) mbarrier_arrive(barriers.full + stage);
            mbarrier_arrive(barriers.full + stage);
        }
    });
}

template <int HS>
__device__ void hopper_keys_produce_factors(unsigned char* memory, const HopperKeysBarriers& barriers, const HopperBackward& a,
                                            const AttentionTile& tile, int kv_head) {
    using Layout = HopperKeysLayout<HS>;
    const int threads = hopper_threads - warp_size, thread = static_cast<int>(threadIdx.x) - warp_size;
    hopper_for_queries(a, tile, kv_head, [&](const HopperStep& step, int stage, int parity) {
        if (step.head < 0) return;
        unsigned char* keys = memory + Layout::factors + stage * Layout::factors_stage;
        mbarrier_wait(barriers.empty + stage, 1 - parity);
        hopper_load_factors(keys, a.scores.k_factors, step.position - step.distance, a.positions, hopper_tile, kv_head, a.scores.R, 8,
                            thread, threads);
        hopper_load_factors(keys + hopper_panel, a.scores.q_factors, step.position, a.positions, hopper_rows, step.head, a.scores.R, 8,
                            thread, threads);
        fence_proxy_async();
        mbarrier_arrive(barriers.f_full + stage);
    });
}

// to (rows, columns) += factor x, of a warpgroup's rows from `row` on that are below `count`.
template <int n>
__device__ void hopper_add_to_rows(const AttentionHeads<bf16>& to, const float (&x)[n], float factor, int64_t first_row, int row, int count,
                                   int head, int width, int column) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (row + 8 * r >= count) continue;
        bf16* at = to.row(first_row + row + 8 * r, head, width) + column;
#pragma unroll
        for (int j = 0; j < n / 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (8 * j + column + e < width)
                    at[8 * j + e] = from_float<bf16>(fmaf(factor, x[4 * j + 2 * r + e], to_float(at[8 * j + e])));
    }
}

template <int HS, bool of_factors>
__device__ void hopper_keys_consume(unsigned char* memory, const float* stats, const HopperStep* steps, float* slices,
                                    const HopperKeysBarriers& barriers, const HopperBackward& a, const AttentionTile& tile, int kv_head,
                                    int which) {
    using Layout = HopperKeysLayout<HS>;
    constexpr int columns = of_factors ? 64 : HS;
    const int thread = static_cast<int>(threadIdx.x) % hopper_threads, lane = thread % warp_size;
    const int first_row = hopper_rows * which, row = first_row + thread / warp_size * 16 + lane / 4, column = 2 * (lane % 4);
    const AttentionScores<bf16>& scores = a.scores;
    const bool plain = scores.bias == AttentionBias::none && scores.softcap == 0 && scores.scale > 0;
    const float unit_log2e = (plain ? scores.scale : 1.0f) * attention_log2e;
    const unsigned char *k = memory + Layout::k + first_row * panel_row_bytes, *v = memory + Layout::v + first_row * panel_row_bytes;
    float* slopes = reinterpret_cast<float*>(memory + Layout::slopes + which * hopper_slopes);

    float s[32], dp[32], dk[columns / 2] = {}, dv[of_factors ? 1 : HS / 2] = {};
    uint32_t p[4][4], dx[4][4];
    mbarrier_wait(barriers.kv_full, 0);
#pragma unroll 1
    for (int i = 0;; i++) {
        const int stage = i % 2, parity = i / 2 % 2;
        mbarrier_wait(barriers.full + stage, parity);
        const HopperStep& step = steps[stage];
        if (step.head < 0) break;
        const unsigned char *q = memory + Layout::q + stage * Layout::half, *dout = memory + Layout::dout + stage * Layout::half;
        const unsigned char* factors = memory + Layout::factors + stage * Layout::factors_stage;
        wgmma_fence(s, dp);
        hopper_product<hopper_rows, HS, hopper_tile, hopper_rows>(s, k, q, false);
        hopper_product<hopper_rows, HS, hopper_tile, hopper_rows>(dp, v, dout, false);
        wgmma_commit();
        wgmma_wait<0>(s, dp);

        const int distance = step.distance + column - row, least = step.distance - (first_row + hopper_rows - 1);
        if (!plain) {
            float* slice = slices + (2 * which + stage) * hopper_backward_slice;
            hopper_backward_logits<true>(s, scores, step.head, distance, least, step.position + column, slice, slopes, which, thread);
        }
        if (scores.bias == AttentionBias::factors) {
            mbarrier_wait(barriers.f_full + stage, parity);
            hopper_add_factors<hopper_rows>(s, factors + first_row * panel_row_bytes, factors + hopper_panel, scores.R);
            wgmma_wait<0>(s);
        }
        if (least < 0 || (scores.window > 0 && least + 2 * hopper_rows - 2 >= scores.window)) hopper_mask<true>(s, distance, scores.window);
        if (step.first_key > first_row)  // the tile begins before the segment's keys
#pragma unroll
            for (int x = 0; x < 32; x++)
                if (row + x / 2 % 2 * 8 < step.first_key) s[x] = -INFINITY;

        const float* of_query = stats + stage * 2 * hopper_rows + column;
#pragma unroll
        for (int x = 0; x < 32; x++) {
            const int query = x / 4 * 8 + x % 2;
            s[x] = exp2_approximate(fmaf(s[x], unit_log2e, -of_query[query]));
            dp[x] = s[x] * (dp[x] - of_query[hopper_rows + query]);
        }
        if constexpr (of_factors) {
            hopper_operands(dx, dp);
            wgmma_fence(dk, dx[0], dx[1], dx[2], dx[3]);
            hopper_product_of_registers<64, hopper_rows>(dk, dx, factors + hopper_panel);
            wgmma_commit();
            wgmma_wait<0>(dk);
        } else {
            if (scores.softcap > 0) hopper_times_slopes(dp, slopes, thread);
            hopper_operands(p, s);
            hopper_operands(dx, dp);
            wgmma_fence(dv, dk, p[0], p[1], p[2], p[3], dx[0], dx[1], dx[2], dx[3]);
            hopper_product_of_registers<HS, hopper_rows>(dv, p, dout);
            hopper_product_of_registers<HS, hopper_rows>(dk, dx, q);
            wgmma_commit();
            wgmma_wait<0>(dv, dk);
        }
        __syncwarp();
        if (lane == 0) mbarrier_arrive(barriers.empty + stage);
    }

    if constexpr (of_factors) {
        hopper_add_to_rows(a.dk_factors, dk, 1.0f, tile.begin, row, tile.count, kv_head, scores.R, column);
    } else {
        hopper_add_to_rows(a.dk, dk, scores.scale, tile.begin, row, tile.count, kv_head, HS, column);
        hopper_add_to_rows(a.dv, dv, 1.0f, tile.begin, row, tile.count, kv_head, HS, column);
    }
}

template <int HS, bool of_factors>
__global__ void __launch_bounds__(hopper_backward_threads, 1)
    attention_sm90_dkv_kernel(HopperBackward a, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                              const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap dout, int NKV) {
    unsigned char* memory = shared<unsigned char>();
    uint64_t(&b)[8] = shared_array<uint64_t, 8>();
    float(&stats)[4 * hopper_rows] = shared_array<float, 4 * hopper_rows>();  // per stage lse and D of 64 queries
    HopperStep(&steps)[2] = shared_array<HopperStep, 2>();
    float(&slices)[4 * hopper_backward_slice] = shared_array<float, 4 * hopper_backward_slice, 1>();
    const HopperKeysBarriers barriers{b, b + 2, b + 4, b + 6, b + 1};
    const int kv_head = static_cast<int>(blockIdx.x) % NKV;
    const AttentionTile tile = a.key_tiles[blockIdx.x / static_cast<unsigned>(NKV)];
    const int consumers = tile.count > hopper_rows ? 2 : 1;
    if (threadIdx.x == 0) {
        mbarrier_init(barriers.kv_full, 1), mbarrier_init(barriers.tail, 1);
        for (int s = 0; s < 2; s++) {
            mbarrier_init(barriers.full + s, 2), mbarrier_init(barriers.f_full + s, hopper_threads - warp_size);
            mbarrier_init(barriers.empty + s, 4 * consumers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int warpgroup = static_cast<int>(threadIdx.x) / hopper_threads;
    if (warpgroup == 0) {
        registers_release<56>();
        if (threadIdx.x < warp_size)
            hopper_keys_produce<HS>(memory, stats, steps, barriers, &q, &k, &v, &dout, a, tile, kv_head);
        else if (a.scores.bias == AttentionBias::factors)
            hopper_keys_produce_factors<HS>(memory, barriers, a, tile, kv_head);
    } else {
        registers_claim<224>();
        if (warpgroup <= consumers)
            hopper_keys_consume<HS, of_factors>(memory, stats, steps, slices, barriers, a, tile, kv_head, warpgroup - 1);
    }
}

// ---- dq

template <int HS>
struct HopperQueriesLayout {
    static constexpr int tile = HS / 64 * hopper_panel, half = HS / 64 * hopper_half_panel;
    static constexpr int q = 0, dout = tile, k = 2 * tile, v = k + 2 * half, slopes = v + 2 * half, factors = slopes + 2 * hopper_slopes;
    static constexpr int k_factors = factors + hopper_panel;  // behind those of the queries
    static constexpr int bytes(bool softcap, bool with_factors) {
        return with_factors ? k_factors + 2 * hopper_half_panel : softcap ? factors : slopes;
    }
};

struct HopperQueriesBarriers {
    uint64_t *q_full, *full, *f_full, *empty, *tail;
};

template <int HS>
__device__ void hopper_queries_produce(unsigned char* memory, const HopperQueriesBarriers& barriers, const TensorMap* q, const TensorMap* k,
                                       const TensorMap* v, const TensorMap* dout, const HopperQueries& queries, int head, int kv_head) {
    using Layout = HopperQueriesLayout<HS>;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    if (lane == 0) {
        mbarrier_arrive_expect(barriers.q_full, 2 * Layout::tile);
        hopper_load<HS, hopper_tile>(memory + Layout::q, q, head, queries.row, barriers.q_full);
        hopper_load<HS, hopper_tile>(memory + Layout::dout, dout, head, queries.row, barriers.q_full);
    }
#pragma unroll 1
    for (int n = queries.last_key, i = 0; n >= queries.first_key; n--, i++) {
        const int stage = i % 2, key = n * hopper_rows, left = queries.kv_len - key;
        unsigned char *k_rows = memory + Layout::k + stage * Layout::half, *v_rows = memory + Layout::v + stage * Layout::half;
        uint64_t* came = left < hopper_rows ? barriers.tail : barriers.full + stage;
        mbarrier_wait(barriers.empty + stage, (i / 2 + 1) % 2);
        if (lane == 0) {
            mbarrier_arrive_expect(came, 2 * Layout::half);
            hopper_load<HS, hopper_rows>(k_rows, k, kv_head, queries.kv_start + key, came);
            hopper_load<HS, hopper_rows>(v_rows, v, kv_head, queries.kv_start + key, came);
        }
        if (left < hopper_rows) {  // the segment's last tile, the first that is visited
            mbarrier_wait(barriers.tail, 0);
            hopper_clear_rows<HS, hopper_rows>(k_rows, left, lane);
            hopper_clear_rows<HS, hopper_rows>(v_rows, left, lane);
            fence_proxy_async();
            __syncwarp();
            if (lane == 0) mbarrier_arrive(barriers.full + stage);
        }
    }
}

template <int HS>
__device__ void hopper_queries_produce_factors(unsigned char* memory, const HopperQueriesBarriers& barriers, const HopperBackward& a,
                                               const HopperQueries& queries, int head, int kv_head) {
    using Layout = HopperQueriesLayout<HS>;
    const int threads = hopper_threads - warp_size, thread = static_cast<int>(threadIdx.x) - warp_size;
    hopper_load_factors(memory + Layout::factors, a.scores.q_factors, queries.position, a.positions, hopper_tile, head, a.scores.R, 8,
                        thread, threads);
    const int64_t first = queries.position - queries.before;  // of the segment's first key
#pragma unroll 1
    for (int n = queries.last_key, i = 0; n >= queries.first_key; n--, i++) {
        const int stage = i % 2;
        mbarrier_wait(barriers.empty + stage, (i / 2 + 1) % 2);
        hopper_load_factors(memory + Layout::k_factors + stage * hopper_half_panel, a.scores.k_factors, first + n * hopper_rows,
                            a.positions, hopper_rows, kv_head, a.scores.R, 8, thread, threads);
        fence_proxy_async();
        mbarrier_arrive(barriers.f_full + stage);
    }
}

template <int HS>
__device__ void hopper_queries_consume(unsigned char* memory, float* slices, const HopperQueriesBarriers& barriers, const HopperBackward& a,
                                       const HopperQueries& queries, int head, int which) {
    using Layout = HopperQueriesLayout<HS>;
    const int thread = static_cast<int>(threadIdx.x) % hopper_threads, lane = thread % warp_size;
    const int first_row = hopper_rows * which, row = first_row + thread / warp_size * 16 + lane / 4, column = 2 * (lane % 4);
    const AttentionScores<bf16>& scores = a.scores;
    const bool plain = scores.bias == AttentionBias::none && scores.softcap == 0 && scores.scale > 0;
    const float unit_log2e = (plain ? scores.scale : 1.0f) * attention_log2e;
    const unsigned char *q = memory + Layout::q + first_row * panel_row_bytes, *dout = memory + Layout::dout + first_row * panel_row_bytes;
    float* slopes = reinterpret_cast<float*>(memory + Layout::slopes + which * hopper_slopes);

    float s[32], dp[32], dq[HS / 2] = {}, dq_factors[32] = {}, lse[2], delta[2];
    uint32_t dx[4][4];
#pragma unroll
    for (int r = 0; r < 2; r++) {  // of rows that are not the segment's, P = 0
        const bool mine = row + 8 * r < queries.count;
        const int64_t at = int64_t{queries.row + row + 8 * r} * a.NH + head;
        lse[r] = mine ? a.lse[at] * attention_log2e : INFINITY, delta[r] = mine ? a.delta[at] : 0.0f;
    }
    mbarrier_wait(barriers.q_full, 0);
#pragma unroll 1
    for (int n = queries.last_key, i = 0; n >= queries.first_key; n--, i++) {
        const int stage = i % 2, parity = i / 2 % 2, key = n * hopper_rows;
        const unsigned char *k = memory + Layout::k + stage * Layout::half, *v = memory + Layout::v + stage * Layout::half;
        const unsigned char* k_factors = memory + Layout::k_factors + stage * hopper_half_panel;
        mbarrier_wait(barriers.full + stage, parity);
        wgmma_fence(s, dp);
        hopper_product<hopper_rows, HS, hopper_tile, hopper_rows>(s, q, k, false);
        hopper_product<hopper_rows, HS, hopper_tile, hopper_rows>(dp, dout, v, false);
        wgmma_commit();
        wgmma_wait<0>(s, dp);

        const int distance = queries.before + row - (key + column), least = queries.before + first_row - (key + hopper_rows - 1);
        if (!plain) {
            float* slice = slices + (2 * which + stage) * hopper_backward_slice;
            hopper_backward_logits<false>(s, scores, head, distance, least, queries.position + row, slice, slopes, which, thread);
        }
        if (scores.bias == AttentionBias::factors) {
            mbarrier_wait(barriers.f_full + stage, parity);
            hopper_add_factors<hopper_rows>(s, memory + Layout::factors + first_row * panel_row_bytes, k_factors, scores.R);
            wgmma_wait<0>(s);
        }
        if (least < 0 || (scores.window > 0 && least + 2 * hopper_rows - 2 >= scores.window))
            hopper_mask<false>(s, distance, scores.window);
#pragma unroll
        for (int x = 0; x < 32; x++) dp[x] = exp2_approximate(fmaf(s[x], unit_log2e, -lse[x / 2 % 2])) * (dp[x] - delta[x / 2 % 2]);
        if (a.dq_factors.data) {
            hopper_operands(dx, dp);
            wgmma_fence(dq_factors, dx[0], dx[1], dx[2], dx[3]);
            hopper_product_of_registers<64, hopper_rows>(dq_factors, dx, k_factors);
            wgmma_commit();
            wgmma_wait<0>(dq_factors);
        }
        if (scores.softcap > 0) hopper_times_slopes(dp, slopes, thread);
        hopper_operands(dx, dp);
        wgmma_fence(dq, dx[0], dx[1], dx[2], dx[3]);
        hopper_product_of_registers<HS, hopper_rows>(dq, dx, k);
        wgmma_commit();
        wgmma_wait<0>(dq);
        __syncwarp();
        if (lane == 0) mbarrier_arrive(barriers.empty + stage);
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (row + 8 * r >= queries.count) continue;
        const int64_t token = queries.row + row + 8 * r;
        bf16* to = a.dq.row(token, head, HS) + column;
#pragma unroll
        for (int j = 0; j < HS / 8; j++)
            hopper_store2(to + 8 * j, dq[4 * j + 2 * r] * scores.scale, dq[4 * j + 2 * r + 1] * scores.scale, a.dq.aligned);
        if (!a.dq_factors.data) continue;
        bf16* factors = a.dq_factors.row(token, head, scores.R);
#pragma unroll
        for (int j = 0; j < 8; j++)
            for (int e = 0; e < 2; e++)
                if (8 * j + column + e < scores.R) factors[8 * j + column + e] = from_float<bf16>(dq_factors[4 * j + 2 * r + e]);
    }
}

template <int HS>
__global__ void __launch_bounds__(hopper_backward_threads, 1)
    attention_sm90_dq_kernel(HopperBackward a, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                             const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap dout) {
    unsigned char* memory = shared<unsigned char>();
    uint64_t(&b)[8] = shared_array<uint64_t, 8>();
    float(&slices)[4 * hopper_backward_slice] = shared_array<float, 4 * hopper_backward_slice, 1>();
    const HopperQueriesBarriers barriers{b, b + 2, b + 4, b + 6, b + 1};
    const int head = static_cast<int>(blockIdx.x) % a.NH, kv_head = head / a.group;
    const HopperQueries queries(a.query_tiles[blockIdx.x / static_cast<unsigned>(a.NH)], a.segments, a.scores.window, hopper_rows);
    const int consumers = queries.count > hopper_rows ? 2 : 1;
    if (threadIdx.x == 0) {
        mbarrier_init(barriers.q_full, 1), mbarrier_init(barriers.tail, 1);
        for (int s = 0; s < 2; s++) {
            mbarrier_init(barriers.full + s, 1), mbarrier_init(barriers.f_full + s, hopper_threads - warp_size);
            mbarrier_init(barriers.empty + s, 4 * consumers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int warpgroup = static_cast<int>(threadIdx.x) / hopper_threads;
    if (warpgroup == 0) {
        registers_release<40>();
        if (threadIdx.x < warp_size)
            hopper_queries_produce<HS>(memory, barriers, &q, &k, &v, &dout, queries, head, kv_head);
        else if (a.scores.bias == AttentionBias::factors)
            hopper_queries_produce_factors<HS>(memory, barriers, a, queries, head, kv_head);
    } else {
        registers_claim<232>();
        if (warpgroup <= consumers) hopper_queries_consume<HS>(memory, slices, barriers, a, queries, head, warpgroup - 1);
    }
}

void hopper_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                               const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                               Stream& stream) {
    const int64_t NH = in.q.shape[1], HS = in.q.shape[2], NKV = in.k.shape[1];
    ENSURE(attention_heads<bf16>(dout).aligned);
    const HopperBackward a{attention_heads<bf16>(d.dq),
                           attention_heads<bf16>(d.dk),
                           attention_heads<bf16>(d.dv),
                           attention_heads<bf16>(d.dq_factors),
                           attention_heads<bf16>(d.dk_factors),
                           lse.as<float>(),
                           scratch.delta.as<float>(),
                           attention_scores<bf16>(in, params),
                           in.q_factors ? in.q_factors.rows() : 0,
                           static_cast<const AttentionTile*>(segments.query_tiles.data),
                           static_cast<const AttentionTile*>(segments.key_tiles.data),
                           static_cast<const Segment*>(segments.device.data),
                           static_cast<int>(NH),
                           static_cast<int>(NH / NKV)};
    const bool softcap = params.softcap > 0, factors = a.scores.bias == AttentionBias::factors;
    const dim3 key_blocks(static_cast<unsigned>(segments.key_tiles.rows() * NKV)),
        query_blocks(static_cast<unsigned>(segments.query_tiles.rows() * NH));
    const auto run = [&]<int columns>() {
        const auto of_keys = [&](auto kernel) {
            launch(kernel, key_blocks, dim3(hopper_backward_threads), HopperKeysLayout<columns>::bytes(softcap, factors), stream, a,
                   hopper_map(in.q, hopper_rows), hopper_map(in.k, hopper_tile), hopper_map(in.v, hopper_tile),
                   hopper_map(dout, hopper_rows), static_cast<int>(NKV));
        };
        of_keys(attention_sm90_dkv_kernel<columns, false>);
        if (d.dk_factors) of_keys(attention_sm90_dkv_kernel<columns, true>);
        launch(attention_sm90_dq_kernel<columns>, query_blocks, dim3(hopper_backward_threads),
               HopperQueriesLayout<columns>::bytes(softcap, factors), stream, a, hopper_map(in.q, hopper_tile),
               hopper_map(in.k, hopper_rows), hopper_map(in.v, hopper_rows), hopper_map(dout, hopper_tile));
    };
    if (HS == 64)
        run.operator()<64>();
    else
        run.operator()<128>();
}

}  // namespace traincu::gpu
