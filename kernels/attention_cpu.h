// What the CPU twins of attention's forward and backward share: the tiles, the products of tiles, and the scores of a tile.
//
// Both work on one tile of queries of one head at a time and visit the keys in tiles. The scores of a tile are kept transposed,
// (keys, queries): the vector lanes are queries, so that the softmax, which sums over keys, never sums across lanes, and every
// product of tiles reads its right-hand side along contiguous rows. A query's result is then a fixed sequence of operations
// over its own keys in ascending order: it depends on no other query, on no other segment, on no thread, and not on the vector's width.
// Window, softcap, bias, sinks and gate are choices at run time, one for a tile: with none of them a tile costs what it did without them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/vmath.h"

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
    int64_t number;       // among the tiles of the segment and head
    int64_t rows, lanes;  // queries; filled up
    int64_t before;       // the keys that the first query sees before its own

    TilePlace() = default;
    TilePlace(const Segment& segment, int64_t kv_head, int64_t group, int64_t number) {
        const int64_t tiles_per_head = div_ceil(segment.q_len, query_tile), query = number % tiles_per_head * query_tile;
        head = kv_head * group + number / tiles_per_head;
        row = segment.q_start + query;
        this->number = query / query_tile;
        rows = std::min(query_tile, segment.q_len - query);
        lanes = round_up(rows, lane_pad);
        before = segment.kv_len - segment.q_len + query;
    }
    // The keys [begin, end) are seen.
    int64_t begin(int64_t window) const { return window > 0 ? std::max<int64_t>(0, before - window + 1) : 0; }
    int64_t end() const { return before + rows; }
    bool sees(int64_t key, int64_t keys, int64_t window) const { return key < end() && key + keys > begin(window); }
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

// What a tile of queries sees of a tile of keys: query i sees the keys j with i + shift - window < j <= i + shift.
struct Sight {
    int64_t keys, rows, lanes;
    int64_t shift, window;

    // `first_key` of the segment is the tile's first.
    Sight(const TilePlace& at, int64_t first_key, int64_t key_count, int64_t params_window)
        : keys(std::min(key_count, at.end() - first_key)),
          rows(at.rows),
          lanes(at.lanes),
          shift(at.before - first_key),
          window(params_window > 0 ? params_window : INT64_MAX / 4) {}

    // The lanes [begin, end) see key j, and the same filled up to whole registers.
    int64_t begin(int64_t j) const { return std::clamp<int64_t>(j - shift, 0, lanes); }
    int64_t end(int64_t j) const { return std::clamp<int64_t>(j - shift + window, 0, lanes); }
    int64_t lanes_begin(int64_t j) const { return begin(j) / lane_pad * lane_pad; }
    int64_t lanes_end(int64_t j) const { return round_up(end(j), lane_pad); }
    // Queries [i, i + n) see no keys but these.
    int64_t first_key(int64_t i) const { return std::max<int64_t>(0, i + shift - window + 1); }
    int64_t end_key(int64_t i, int64_t n) const { return std::min(keys, i + n + shift); }
};

// s[j][i] = or += a[j] . b[.][i] for keys j and queries i < lanes: a (keys, width), b (HS, query_tile).
// Blocks in which no query sees a key are left out.
template <class T, int W>
[[gnu::always_inline]] inline void score_product(T* s, const T* a, int64_t width, const T* b, const Sight& sight, int64_t HS, bool add) {
    constexpr int ROWS = block_rows<T, W>;
    for_column_blocks<W>(
        sight.lanes, [&](int64_t i, auto vecs) __attribute__((always_inline)) {
            constexpr int VECS = decltype(vecs)::value;
            const int64_t seen = sight.end_key(i, VECS * W);
            for (int64_t j = sight.first_key(i) / ROWS * ROWS; j < seen; j += ROWS)
                multiply<T, W, ROWS, VECS>(HS, a + j * width, width, 1, b + i, query_tile, s + j * query_tile + i, query_tile, add);
        });
}

// out[i] += sum over keys j of x[j][i] b[j]: out (rows, width), x (keys, query_tile), b (keys, width). x is zero where masked.
template <class T, int W>
[[gnu::always_inline]] inline void sum_over_keys(T* out, const T* x, const T* b, int64_t width, const Sight& sight) {
    constexpr int ROWS = block_rows<T, W>;
    for_column_blocks<W>(
        width, [&](int64_t d, auto vecs) __attribute__((always_inline)) {
            constexpr int VECS = decltype(vecs)::value;
            for (int64_t i = 0; i < sight.rows; i += ROWS) {
                const int64_t first = sight.first_key(i);
                multiply<T, W, ROWS, VECS>(sight.end_key(i, ROWS) - first, x + first * query_tile + i, 1, query_tile, b + first * width + d,
                                           width, out + i * width + d, width, true);
            }
        });
}

// out[j] += sum over queries i of x[j][i] b[i]: out (keys, width), x (keys, query_tile), b (rows, width). x is zero where masked.
template <class T, int W>
[[gnu::always_inline]] inline void sum_over_queries(T* out, const T* x, const T* b, int64_t width, const Sight& sight) {
    constexpr int ROWS = block_rows<T, W>;
    for_column_blocks<W>(
        width, [&](int64_t d, auto vecs) __attribute__((always_inline)) {
            constexpr int VECS = decltype(vecs)::value;
            for (int64_t j = 0; j < sight.keys; j += ROWS) {
                const int64_t first = sight.begin(j), last = std::min(sight.rows, j + ROWS - 1 - sight.shift + sight.window);
                multiply<T, W, ROWS, VECS>(last - first, x + j * query_tile + first, query_tile, 1, b + first * width + d, width,
                                           out + j * width + d, width, true);
            }
        });
}

// x *= sigmoid(gate): HS numbers, and of the gate HS or one.
template <class T>
[[gnu::always_inline]] inline void open_gate(T* x, const T* gate, int64_t gates, int64_t HS) {
    if (gates == 1) {
        const T g = vsigmoid(*gate);
        for (int64_t d = 0; d < HS; d++) x[d] *= g;
        return;
    }
#pragma omp simd
    for (int64_t d = 0; d < HS; d++) x[d] *= vsigmoid(gate[d]);
}

// ------------------------------------------------------------------------------------------------------- scores of a tile

// The distances in a tile of scores: that of key j and query i is distance(i - j + keys - 1).
constexpr int64_t tile_distances = query_tile + key_tile - 1;
inline int64_t distance(const Sight& sight, int64_t n) { return sight.shift - (sight.keys - 1) + n; }

// The bias is added to scores s (keys, query_tile) of the query head `at.head`. k_factors (keys, r_width) and q_factors_t (R, query_tile)
// are the tile's; origin is the position of the tile's first key.
template <class T, int W>
[[gnu::always_inline]] inline void add_bias(T* s, const Scores<T>& scores, const TilePlace& at, const Sight& sight, const T* k_factors,
                                            int64_t r_width, const T* q_factors_t, int64_t origin) {
    if (scores.R > 0) score_product<T, W>(s, k_factors, r_width, q_factors_t, sight, scores.R, true);
    if (scores.slopes) {
        const T slope = scores.slopes[at.head];
        for (int64_t j = 0; j < sight.keys; j++) {
            T* row = s + j * query_tile;
            const int first = static_cast<int>(sight.shift - j), end = static_cast<int>(sight.lanes_end(j));
#pragma omp simd
            for (int i = static_cast<int>(sight.lanes_begin(j)); i < end; i++) row[i] -= slope * static_cast<T>(i + first);
        }
    }
    if (scores.relative) {
        T slice[tile_distances + lane_pad] = {};
        for (int64_t n = 0; n < sight.keys + sight.lanes - 1; n++)
            if (distance(sight, n) >= 0) slice[n] = scores.relative[at.head * relative_buckets + relative_bucket(distance(sight, n))];
        for (int64_t j = 0; j < sight.keys; j++) {
            T* row = s + j * query_tile;
            const T* bias = slice + sight.keys - 1 - j;
#pragma omp simd
            for (int64_t i = sight.lanes_begin(j); i < sight.lanes_end(j); i++) row[i] += bias[i];
        }
    }
    if (scores.dense)
        for (int64_t i = 0; i < sight.rows; i++) {
            const T* row = scores.dense + (at.head * scores.P + origin + sight.shift + i) * scores.P + origin;
            for (int64_t j = sight.first_key(i); j < sight.end_key(i, 1); j++) s[j * query_tile + i] += row[j];
        }
}

// s = cap(s); with `slope`, cap'(s) is kept there.
template <class T>
[[gnu::always_inline]] inline void cap_scores(T* s, T* slope, T softcap, const Sight& sight) {
    for (int64_t j = 0; j < sight.keys; j++)
#pragma omp simd
        for (int64_t i = j * query_tile + sight.lanes_begin(j); i < j * query_tile + sight.lanes_end(j); i++) {
            const T t = vtanh(s[i] / softcap);
            s[i] = softcap * t;
            if (slope) slope[i] = T(1) - t * t;
        }
}

// ENSUREs that the tensors are what kernels/attention.h says.
void check_attention(const Tensor& out, const Tensor& lse, const AttentionInputs& in, const SegmentTable& segments,
                     const AttentionParams& params, const Stream& stream);
void check_attention_gradients(const AttentionGradients& d, const Tensor& dout, const AttentionInputs& in, const AttentionScratch& scratch);

// Of bf16, by way of f32 copies (attention_widened.cpp).
void widened_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                               const AttentionParams& params, Stream& stream);
void widened_attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                                const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                                Stream& stream);

// The formulas in plain loops (attention_plain.cpp).
void plain_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                             const AttentionParams& params);
void plain_attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                              const SegmentTable& segments, const AttentionParams& params);

}  // namespace traincu::cpu
