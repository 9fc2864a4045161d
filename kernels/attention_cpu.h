// What the CPU twins of attention's forward and backward share: the tiles, and the products of tiles.
//
// Both work on one tile of queries of one head at a time and visit the keys in tiles. The scores of a tile are kept transposed,
// (keys, queries): the vector lanes are queries, so that the softmax, which sums over keys, never sums across lanes, and every
// product of tiles reads its right-hand side along contiguous rows. A query's result is then a fixed sequence of operations
// over its own keys in ascending order: it depends on no other query, on no other segment, on no thread, and not on the vector's width.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"

namespace traincu::cpu {

constexpr int64_t query_tile = 64, key_tile = 64;
constexpr int64_t tiles_together = 4;  // tiles of queries that use a tile of keys once it is fetched
constexpr int64_t lane_pad = 16;       // rows of a tile are filled up to a multiple of this: one register of AVX-512, two of AVX2

// A (T,N,HS) view, perhaps of nothing.
template <class T>
struct Heads {
    T* data;
    int64_t stride, size;  // from one token to the next; HS
    explicit Heads(const Tensor& t) : data(t.as_or_null<std::remove_const_t<T>>()), stride(t.row_stride), size(t.shape[2]) {}
    T* row(int64_t token, int64_t head) const { return data + token * stride + head * size; }
};

// All that the scores are made of besides q and k.
template <class T>
struct Scores {
    T scale, softcap;                            // softcap: 0 = none
    int64_t window;                              // 0 = all
    const T *slopes, *relative, *dense, *sinks;  // or null
    Heads<const T> q_factors, k_factors;         // by position
    int64_t R, P;                                // rank of the factors, 0 without them; positions of dense
    Scores(const AttentionInputs& in, const AttentionParams& params)
        : scale(static_cast<T>(params.scale)),
          softcap(static_cast<T>(params.softcap)),
          window(params.window),
          slopes(in.slopes.as_or_null<T>()),
          relative(in.relative.as_or_null<T>()),
          dense(in.dense.as_or_null<T>()),
          sinks(in.sinks.as_or_null<T>()),
          q_factors(in.q_factors),
          k_factors(in.k_factors),
          R(in.q_factors.shape[2]),
          P(in.dense.shape[1]) {}
};

// Where a tile of queries lies. The tiles of the query heads that share a key head are numbered head by head.
struct TilePlace {
    int64_t head, row;    // row: of q and out
    int64_t rows, lanes;  // queries; filled up
    int64_t before;       // the keys that the first query sees before its own

    TilePlace() = default;
    TilePlace(const Segment& segment, int64_t kv_head, int64_t group, int64_t number) {
        const int64_t tiles_per_head = div_ceil(segment.q_len, query_tile), query = number % tiles_per_head * query_tile;
        head = kv_head * group + number / tiles_per_head;
        row = segment.q_start + query;
        rows = std::min(query_tile, segment.q_len - query);
        lanes = round_up(rows, lane_pad);
        before = segment.kv_len - segment.q_len + query;
    }
    int64_t end() const { return before + rows; }  // of the keys that are seen
};

// Zeroed memory for the tiles of one thread, each on a cache line of its own.
template <class T>
class TileMemory {
public:
    explicit TileMemory(int64_t numbers) : memory_(static_cast<size_t>(numbers + line)) {
        next_ = memory_.data();
        while (reinterpret_cast<uintptr_t>(next_) % 64) next_++;
    }
    T* take(int64_t rows, int64_t cols) {
        T* tile = next_;
        next_ += tile_size(rows, cols);
        return tile;
    }
    static constexpr int64_t tile_size(int64_t rows, int64_t cols) { return rows * round_up(cols, lane_pad); }

private:
    static constexpr int64_t line = 64 / sizeof(T);
    std::vector<T> memory_;
    T* next_;
};

// to (rows, width) = factor * `rows` rows of HS numbers, `stride` apart; columns [HS, width) stay zero.
template <class T>
[[gnu::always_inline]] inline void copy_rows(T* to, int64_t width, const T* from, int64_t stride, int64_t rows, int64_t HS, T factor = 1) {
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
        for (int64_t d = 0; d < HS; d++) to[r * width + d] = factor * from[r * stride + d];
}

// to (HS, query_tile) = factor * `rows` rows of HS numbers, transposed, zeros for the lanes [rows, lanes). Four rows at a time.
template <class T>
[[gnu::always_inline]] inline void transpose_rows(T* to, const T* from, int64_t stride, int64_t rows, int64_t lanes, int64_t HS,
                                                  T factor = 1) {
    for (int64_t i = 0; i < lanes; i += 4) {
        if (i + 4 <= rows) {
            const T *a = from + i * stride, *b = a + stride, *c = b + stride, *d = c + stride;
            for (int64_t n = 0; n < HS; n++) {
                const T four[4] = {factor * a[n], factor * b[n], factor * c[n], factor * d[n]};
                std::memcpy(to + n * query_tile + i, four, sizeof four);
            }
        } else {
            for (int64_t n = 0; n < HS; n++)
                for (int64_t l = i; l < i + 4; l++) to[n * query_tile + l] = l < rows ? factor * from[l * stride + n] : T(0);
        }
    }
}

// ------------------------------------------------------------------------------------------------------- products of tiles

// W numbers in one register. Loads and stores are memcpy: one instruction each.
template <class T, int W>
struct Vector {
    typedef T Register __attribute__((vector_size(W * sizeof(T))));
};

// Bytes of a register of the instruction set that everything is compiled for.
#if defined(__AVX__)
constexpr int plain_bytes = 32;
#else
constexpr int plain_bytes = 16;
#endif

// Rows of the block of sums that is held in registers; it is two registers wide. They divide query_tile and key_tile.
template <class T, int W>
constexpr int block_rows = W * sizeof(T) == 64 ? 8 : 4;

// c (ROWS, VECS * W) = or += sum over steps of a[row * a_row + step * a_step] * b[step * b_stride + column]: the sums are registers.
template <class T, int W, int ROWS, int VECS>
[[gnu::always_inline]] inline void multiply(int64_t steps, const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_stride, T* c,
                                            int64_t c_stride, bool add) {
    using Register = typename Vector<T, W>::Register;
    Register sum[ROWS][VECS] = {};
    const T* row[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) row[r] = a + r * a_row;
    for (int64_t s = 0; s < steps; s++, b += b_stride) {
        Register line[VECS];
#pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) std::memcpy(&line[v], b + v * W, sizeof line[v]);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            Register factor = row[r][s * a_step] - Register{};  // the same number in every lane
#pragma GCC unroll 8
            for (int v = 0; v < VECS; v++) sum[r][v] += factor * line[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) {
            T* out = c + r * c_stride + v * W;
            Register total = sum[r][v];
            if (add) {
                std::memcpy(&total, out, sizeof total);
                total += sum[r][v];
            }
            std::memcpy(out, &total, sizeof total);
        }
}

// Calls body(first column, two registers or one) for blocks of columns that cover [0, cols), a multiple of lane_pad.
template <int W, class Body>
[[gnu::always_inline]] inline void for_column_blocks(int64_t cols, Body body) {
    int64_t c = 0;
    for (; c + 2 * W <= cols; c += 2 * W) body(c, std::integral_constant<int, 2>{});
    for (; c < cols; c += W) body(c, std::integral_constant<int, 1>{});
}

// In the three products, `shift` is the causal mask: query i of the tile sees the keys j <= i + shift of the tile.

// s[j][i] = a[j] . b[.][i] for keys j and queries i < lanes: a (keys, width), b (HS, query_tile).
// Blocks in which no query sees a key are left out.
template <class T, int W>
[[gnu::always_inline]] inline void score_product(T* s, const T* a, int64_t width, const T* b, int64_t keys, int64_t lanes, int64_t HS,
                                                 int64_t shift) {
    constexpr int ROWS = block_rows<T, W>;
    for_column_blocks<W>(
        lanes, [&](int64_t i, auto vecs) __attribute__((always_inline)) {
            constexpr int VECS = decltype(vecs)::value;
            const int64_t seen = std::min(keys, i + VECS * W + shift);
            for (int64_t j = 0; j < seen; j += ROWS)
                multiply<T, W, ROWS, VECS>(HS, a + j * width, width, 1, b + i, query_tile, s + j * query_tile + i, query_tile, false);
        });
}

// out[i] += sum over keys j of x[j][i] b[j]: out (rows, width), x (keys, query_tile), b (keys, width). x is zero where masked.
template <class T, int W>
[[gnu::always_inline]] inline void sum_over_keys(T* out, const T* x, const T* b, int64_t width, int64_t keys, int64_t rows, int64_t shift) {
    constexpr int ROWS = block_rows<T, W>;
    for_column_blocks<W>(
        width, [&](int64_t d, auto vecs) __attribute__((always_inline)) {
            constexpr int VECS = decltype(vecs)::value;
            for (int64_t i = 0; i < rows; i += ROWS)
                multiply<T, W, ROWS, VECS>(std::min(keys, i + ROWS + shift), x + i, 1, query_tile, b + d, width, out + i * width + d, width,
                                           true);
        });
}

// out[j] += sum over queries i of x[j][i] b[i]: out (keys, width), x (keys, query_tile), b (rows, width). x is zero where masked.
template <class T, int W>
[[gnu::always_inline]] inline void sum_over_queries(T* out, const T* x, const T* b, int64_t width, int64_t keys, int64_t rows,
                                                    int64_t shift) {
    constexpr int ROWS = block_rows<T, W>;
    for_column_blocks<W>(
        width, [&](int64_t d, auto vecs) __attribute__((always_inline)) {
            constexpr int VECS = decltype(vecs)::value;
            for (int64_t j = 0; j < keys; j += ROWS) {
                const int64_t first = std::max<int64_t>(0, j - shift);  // the first query that sees key j
                multiply<T, W, ROWS, VECS>(rows - first, x + j * query_tile + first, query_tile, 1, b + first * width + d, width,
                                           out + j * width + d, width, true);
            }
        });
}

// The lanes [0, n) of key j do not see it; n = 0 where the whole tile is seen.
inline int64_t masked_lanes(int64_t j, int64_t shift, int64_t lanes) { return std::clamp<int64_t>(j - shift, 0, lanes); }

// ENSUREs that the tensors are what kernels/attention.h says.
void check_attention(const Tensor& out, const Tensor& lse, const AttentionInputs& in, const SegmentTable& segments,
                     const AttentionParams& params, const Stream& stream);
void check_attention_gradients(const AttentionGradients& d, const Tensor& dout, const AttentionInputs& in, const AttentionScratch& scratch);

// The formulas in plain loops (attention_plain.cpp).
void plain_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                             const AttentionParams& params);
void plain_attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                              const SegmentTable& segments, const AttentionParams& params);

}  // namespace traincu::cpu
