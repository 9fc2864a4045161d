// What the Hopper kernels of attention share: the tile that a block works on, how scores become logits, small copies. bf16, heads of 64 or
// 128 columns.
//
// A warpgroup (128 threads) holds a (64,n) tile of scores as wgmma leaves it: x[4 j + 2 r + e] of a thread is row 16 warp + g + 8 r, column
// 8 j + c + e, with g = lane / 4, c = 2 (lane % 4). Rows are queries and columns keys; in the transposed tiles of the backward rows are
// keys. Either way an element's distance i' - j follows from the distance of the thread's first element by a constant.
//
// Logits are kept in natural units, divided by `unit`: without bias or softcap the products q . k themselves, unit = scale, so that the
// scaling costs nothing (exp2 takes unit log2(e) as the factor of one FMA); else the finished score, unit = 1.
#pragma once

#include "kernels/attention_gpu.h"
#include "kernels/hopper.h"

namespace traincu::gpu {

constexpr int hopper_threads = 128;                          // of a warpgroup
constexpr int hopper_rows = 64;                              // of a warpgroup's tile
constexpr int hopper_tile = attention_tile_rows;             // keys, and queries, of a block's tile
constexpr int hopper_panel = hopper_tile * panel_row_bytes;  // bytes of (128, 64)
constexpr int hopper_largest_rank = 64;                      // factors: one panel

// A query tile and where its keys lie. Keys count within the segment.
struct HopperQueries {
    int row, count;           // rows of the batch
    int before;               // the key beside the first query
    int kv_start, kv_len;     // rows of k and v
    int position;             // of the first query in its document
    int first_key, last_key;  // tiles of `keys` keys that a query of this tile sees

    __device__ HopperQueries(const AttentionTile& tile, const Segment* segments, int64_t window, int keys) {
        const Segment segment = segments[tile.segment];
        const int64_t offset = tile.begin - segment.q_start;
        row = tile.begin, count = tile.count;
        before = static_cast<int>(segment.kv_len - segment.q_len + offset);
        kv_start = static_cast<int>(segment.kv_start), kv_len = static_cast<int>(segment.kv_len);
        position = static_cast<int>(segment.first_position + offset);
        first_key = window > 0 && before >= window ? static_cast<int>((before - window + 1) / keys) : 0;
        last_key = (before + count - 1) / keys;
    }
};

// The distance of element 4 j + 2 r + e from that of element 0.
template <bool transposed>
__device__ constexpr int hopper_step(int x) {
    const int along = x / 4 * 8 + x % 2, across = x / 2 % 2 * 8;
    return transposed ? along - across : across - along;
}

// x = cap(scale x)
template <int n>
__device__ void hopper_scale(float (&x)[n], float scale, float softcap) {
    if (softcap > 0) {
        const float inside = scale / softcap;
#pragma unroll
        for (int i = 0; i < n; i++) x[i] = softcap * tanhf(x[i] * inside);
    } else {
#pragma unroll
        for (int i = 0; i < n; i++) x[i] *= scale;
    }
}

// Adds the bias, all but that of factors (a product). Of the thread's first element: the distance, the query's position, and the distance's
// place in a slice of the relative bias.
template <bool transposed, int n>
__device__ void hopper_add_bias(float (&x)[n], const AttentionScores<bf16>& scores, int head, int distance, int position,
                                const float* slice) {
    if (scores.bias == AttentionBias::alibi) {
        const float slope = -scores.slopes[head];
#pragma unroll
        for (int i = 0; i < n; i++) x[i] = fmaf(slope, static_cast<float>(distance + hopper_step<transposed>(i)), x[i]);
    } else if (scores.bias == AttentionBias::relative) {
#pragma unroll
        for (int i = 0; i < n; i++) {
            if (i % 16 == 0) __syncwarp();  // at most 16 loads under way: each needs a register
            x[i] += slice[hopper_step<transposed>(i)];
        }
    } else if (scores.bias == AttentionBias::dense) {
        const bf16* from = scores.dense + (head * scores.P + position) * scores.P + position - distance;
#pragma unroll
        for (int i = 0; i < n; i++) {
            if (i % 16 == 0) __syncwarp();
            const int along = i / 4 * 8 + i % 2, across = i / 2 % 2 * 8;
            const bool exists = distance + hopper_step<transposed>(i) >= 0 && position + (transposed ? along : across) < scores.P;
            const bf16* at = transposed ? from + along * scores.P + across : from + across * scores.P + along;
            if (exists) x[i] += to_float(*at);
        }
    }
}

// -inf where the query does not see the key.
template <bool transposed, int n>
__device__ void hopper_mask(float (&x)[n], int distance, int64_t window) {
    const int end = window > 0 && window < (1 << 30) ? static_cast<int>(window) : 1 << 30;
#pragma unroll
    for (int i = 0; i < n; i++) {
        const int d = distance + hopper_step<transposed>(i);
        if (d < 0 || d >= end) x[i] = -INFINITY;
    }
}

// The values of the relative bias at the distances [begin, begin + count), by the `threads` threads from 0 on.
inline __device__ void hopper_fill_slice(float* slice, const bf16* table, int begin, int count, int thread, int threads) {
#pragma unroll 1
    for (int i = thread; i < count; i += threads) slice[i] = begin + i < 0 ? 0.0f : to_float(table[attention_bucket(begin + i)]);
}

// Rows [first, first + tile_rows) of a head's factors as a panel, `packs` times 8 columns of it: columns from R on, and rows that do not
// exist, are 0.
inline __device__ void hopper_load_factors(unsigned char* panel, const AttentionHeads<const bf16>& factors, int64_t first, int64_t rows,
                                           int tile_rows, int head, int R, int packs, int thread, int threads) {
#pragma unroll 1
    for (int i = thread; i < tile_rows * packs; i += threads) {
        const int row = i / packs, column = i % packs * 8;
        Pack<bf16> pack{};
        if (first + row >= 0 && first + row < rows) {
            const bf16* from = factors.row(first + row, head, R);
            if (factors.aligned && column + 8 <= R)
                pack = load16(from + column);
            else
                for (int e = 0; e < 8; e++)
                    if (column + e < R) pack[e] = from[column + e];
        }
        store16(reinterpret_cast<bf16*>(panel + swizzled(row, column * 2)), pack);
    }
}

// Operand A of step k of a product, from a (64,n) tile in the layout of sums: columns 16 k to 16 k + 15.
template <int n>
__device__ void hopper_operand(uint32_t (&a)[4], const float (&x)[n], int k) {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = pack_bf16x2(x[8 * k + 2 * i], x[8 * k + 2 * i + 1]);
}

// d (64,n) (+)= 64 rows of a times the n rows of b, over `columns` of both. Both lie in panels, of so many rows.
template <int n, int columns, int a_rows, int b_rows>
__device__ void hopper_product(float (&d)[n / 2], const unsigned char* a, const unsigned char* b, bool accumulate) {
    const uint64_t at = wgmma_operand(a, 0), bt = wgmma_operand(b, 0);
#pragma unroll
    for (int k = 0; k < columns / 16; k++)
        wgmma_m64k16<n, false, false>(d, wgmma_advance(at, k / 4 * a_rows * panel_row_bytes + k % 4 * 32),
                                      wgmma_advance(bt, k / 4 * b_rows * panel_row_bytes + k % 4 * 32), accumulate || k > 0);
}

// s += the products of the factors, R columns padded with zeros to a multiple of 16.
template <int n>
__device__ void hopper_add_factors(float (&s)[n / 2], const unsigned char* a, const unsigned char* b, int R) {
    const uint64_t at = wgmma_operand(a, 0), bt = wgmma_operand(b, 0);
    wgmma_fence(s);
#pragma unroll 1
    for (int r = 0; r < R; r += 16) wgmma_m64k16<n, false, false>(s, wgmma_advance(at, 2 * r), wgmma_advance(bt, 2 * r), true);
    wgmma_commit();
}

// d (64,n) += a b, a (64, 16 steps) in registers, b's rows (16 steps, n) in panels of so many rows.
template <int n, int rows, int steps>
__device__ void hopper_product_of_registers(float (&d)[n / 2], const uint32_t (&a)[steps][4], const unsigned char* b) {
    const uint64_t bt = wgmma_operand(b, rows * panel_row_bytes);
#pragma unroll
    for (int k = 0; k < steps; k++) wgmma_m64k16<n, true>(d, a[k], wgmma_advance(bt, 16 * k * panel_row_bytes), true);
}

// A (rows, heads, HS) view for TMA: boxes of `rows` rows by 64 columns of a head. Coordinates: column, head, row.
inline TensorMap hopper_map(const Tensor& t, int rows) {
    return tensor_map(t.data, t.dtype, {t.shape[2], t.shape[1], t.shape[0]}, {t.shape[2] * 2, t.row_stride * 2}, {64, 1, rows});
}
template <int HS, int rows>
__device__ void hopper_load(unsigned char* panels, const TensorMap* map, int head, int row, uint64_t* barrier) {
#pragma unroll
    for (int p = 0; p < HS / 64; p++) tma_load(panels + p * rows * panel_row_bytes, map, 64 * p, head, row, barrier);
}

// Rows from `first` on become 0: by a warp, which then signals it to the reader.
template <int HS, int rows>
__device__ void hopper_clear_rows(unsigned char* panels, int first, int lane) {
    for (int piece = first * 8 + lane; piece < rows * 8; piece += warp_size)
        for (int p = 0; p < HS / 64; p++) store16(reinterpret_cast<bf16*>(panels + p * rows * panel_row_bytes + piece * 16), Pack<bf16>{});
}

// Two neighbours of a row; `aligned`: at a multiple of 4 bytes.
inline __device__ void hopper_store2(bf16* to, float a, float b, bool aligned) {
    if (aligned)
        *reinterpret_cast<uint32_t*>(to) = pack_bf16x2(a, b);
    else
        to[0] = from_float<bf16>(a), to[1] = from_float<bf16>(b);
}

}  // namespace traincu::gpu
