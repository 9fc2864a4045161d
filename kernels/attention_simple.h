// What the simple kernels share (attention_simple.cu, attention_simple_backward.cu, attention_relative.cu): one warp per row, no tensor
// cores. They take every head size up to 256, f32 and bf16, and any layout: what the faster kernels are compared with.
//
// A block has 8 warps. Each owns a row (of queries, or of keys in the backward of keys and values), and all share tiles of 32 rows of what
// the rows are compared with, in shared memory, as f32. A lane first works on a row of the tile: it computes the whole product of the
// warp's row with that row, so that no product is summed across lanes. Then the lanes turn to columns: lane l owns columns l, l + 32, ...
// of the result and adds the tile's rows one by one, each with its factor from the lane that computed it. So every element is a fixed
// sequence of operations over the rows of its own segment in ascending order: packed or alone, whole or in slices, it has the same bits.
#pragma once

#include <algorithm>

#include "kernels/attention_gpu.h"

namespace traincu::gpu {

constexpr int attention_warps = 8, attention_tile = warp_size, attention_threads = attention_warps * warp_size;

struct AttentionSizes {
    int64_t T, Tk;  // rows of queries, of keys
    int NH, group;  // query heads; of them per key head
    int HS;
    int pitch;  // floats between rows in shared memory: at least HS filled up to 4; an odd number of 16-byte chunks, so that 8 lanes that
                // read the same chunk of 8 rows meet all banks
};

struct AttentionSegments {
    const Segment* table;  // ascending by q_start
    int64_t count;
    bool keys_ascend;  // kv_start and the ends of the keys too

    __device__ Segment of_query(int64_t row) const {
        int64_t low = 0, high = count;  // the last one that begins at or before the row is in [low, high)
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            if (table[middle].q_start <= row)
                low = middle;
            else
                high = middle;
        }
        return table[low];
    }
    // Before this one none holds the key or a later one.
    __device__ int64_t first_of_key(int64_t key) const {
        int64_t low = 0, high = keys_ascend ? count : 0;  // the first one that ends beyond the key is in [low, high]
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (table[middle].kv_start + table[middle].kv_len <= key)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
};

// tile (count, pitch) = factor * rows [row, row + count) of a head, zeros from HS to the next multiple of 4. All threads of the block.
template <class T>
__device__ void attention_load(float* tile, const AttentionHeads<const T>& from, int64_t row, int count, int64_t head,
                               const AttentionSizes& sizes, float factor = 1.0f) {
    const int thread = static_cast<int>(threadIdx.x);
    if (from.aligned) {
        const int packs = sizes.HS / Pack<T>::size;
        for (int at = thread; at < count * packs; at += attention_threads) {
            const int r = at / packs, d = at % packs * Pack<T>::size;
            const Pack<T> pack = load16(from.row(row + r, head, sizes.HS) + d);
#pragma unroll
            for (int i = 0; i < Pack<T>::size; i++) tile[r * sizes.pitch + d + i] = factor * to_float(pack[i]);
        }
    } else {
        const int width = (sizes.HS + 3) / 4 * 4;
        for (int at = thread; at < count * width; at += attention_threads) {
            const int r = at / width, d = at % width;
            tile[r * sizes.pitch + d] = d < sizes.HS ? factor * to_float(from.row(row + r, head, sizes.HS)[d]) : 0.0f;
        }
    }
}

// The product of two rows in shared memory, ascending.
inline __device__ float attention_dot(const float* a, const float* b, int HS) {
    float sum = 0;
    for (int d = 0; d < HS; d += 4) {
        const Pack<float> x = load16(a + d), y = load16(b + d);
#pragma unroll
        for (int i = 0; i < 4; i++) sum = fmaf(x[i], y[i], sum);
    }
    return sum;
}

// sums[i] += factors of the lanes [begin, end) times column lane + 32 i of the tile's rows, row by row.
template <int columns>
__device__ void attention_add_rows(float (&sums)[columns], float factor, const float* tile, int begin, int end,
                                   const AttentionSizes& sizes) {
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    float* factors = shared_array<float, attention_threads>() + warp * warp_size;
    __syncwarp();  // the factors before have been read
    factors[lane] = factor;
    __syncwarp();
    for (int r = begin; r < end; r++)
#pragma unroll
        for (int i = 0; i < columns; i++) {
            const int d = lane + i * warp_size;
            if (d < sizes.HS) sums[i] = fmaf(factors[r], tile[r * sizes.pitch + d], sums[i]);
        }
}

// The keys that a row sees, within its segment: the one beside it, before + row, is the last. None where the segment is not the row's.
struct AttentionRange {
    int64_t begin, end;
};
template <class T>
__device__ AttentionRange attention_keys(const AttentionScores<T>& scores, int64_t before, int64_t row, bool mine) {
    if (!mine) return {0, 0};
    return {attention_first_key(before + row, scores.window), before + row + 1};
}
// Where the tiles begin for a block whose first row stands beside that key: tiles lie at multiples of 32 of the segment, whatever a block's
// rows are.
template <class T>
__device__ int64_t attention_first_tile(const AttentionScores<T>& scores, int64_t beside) {
    return attention_first_key(beside, scores.window) / attention_tile * attention_tile;
}
// x as one end of a range of lanes.
inline __device__ int attention_lanes(int64_t x) { return x < 0 ? 0 : x > attention_tile ? attention_tile : static_cast<int>(x); }

// sums[i] += factors of the lanes [begin, end) times column lane + 32 i of rows of the bias's factors, `stride` apart in global memory:
// like attention_add_rows().
constexpr int attention_factor_columns = 256 / warp_size;
template <class T>
__device__ void attention_add_factors(float (&sums)[attention_factor_columns], float factor, const T* rows, int64_t stride, int R,
                                      int begin, int end) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll 1
    for (int r = begin; r < end; r++) {
        const float f = __shfl_sync(all_lanes, factor, r);
#pragma unroll
        for (int i = 0; i < attention_factor_columns; i++)
            if (lane + i * warp_size < R) sums[i] = fmaf(f, to_float(rows[r * stride + lane + i * warp_size]), sums[i]);
    }
}

// A pair's score and the derivative of cap there. product: scale q . k.
struct AttentionScore {
    float score, slope;
};
template <class T>
__device__ AttentionScore attention_score(const AttentionScores<T>& scores, float product, int64_t head, int64_t kv_head, int64_t position,
                                          int64_t distance) {
    const float capped = attention_cap(product, scores.softcap);
    float bias = attention_bias(scores, head, position, distance);
    if (scores.bias == AttentionBias::factors) {
        const T *a = scores.q_factors.row(position, head, scores.R), *b = scores.k_factors.row(position - distance, kv_head, scores.R);
#pragma unroll 1
        for (int r = 0; r < scores.R; r++) bias = fmaf(to_float(a[r]), to_float(b[r]), bias);
    }
    return {capped + bias, attention_cap_slope(capped, scores.softcap)};
}

// ---- the backward from a query's side

// What its kernels read.
template <class T>
struct AttentionSaved {
    AttentionHeads<const T> dout, q, k, v;  // dout: dO
    const float *lse, *D;                   // (T,NH)
};

// A tile of 32 keys, of which the warp's query sees [begin, end), or none.
struct AttentionKeyTile {
    const float* k;     // (32, pitch)
    int64_t key;        // the first one, within the segment
    int64_t distance;   // from it to the block's first row
    int64_t positions;  // its position: that of its row of the bias's factors
    int begin, end;
};
// Of the warp's query and the lane's key; zeros where it is not seen. dx = dS cap'.
struct AttentionPair {
    float ds, dx;
};

// Calls body(tile, pair) for all tiles of keys that any of the rows [first, first + 8) sees, ascending; all threads of the block together.
template <class T, class Body>
__device__ void attention_visit_keys(const AttentionSaved<T>& saved, const AttentionScores<T>& scores, const AttentionSegments& segments,
                                     const AttentionSizes& sizes, int64_t first, int64_t head, Body body) {
    float* q_rows = shared<float>();                            // (8, pitch), already scaled
    float* dout_rows = q_rows + attention_warps * sizes.pitch;  // (8, pitch)
    float* k_tile = dout_rows + attention_warps * sizes.pitch;  // (32, pitch)
    float* v_tile = k_tile + attention_tile * sizes.pitch;      // (32, pitch)
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t last = first + attention_warps < sizes.T ? first + attention_warps : sizes.T, row = first + warp;
    const int64_t kv_head = head / sizes.group;
    const float lse = row < last ? saved.lse[row * sizes.NH + head] : 0.0f, D = row < last ? saved.D[row * sizes.NH + head] : 0.0f;
    __syncthreads();  // the rows before have been read
    attention_load(q_rows, saved.q, first, static_cast<int>(last - first), head, sizes, scores.scale);
    attention_load(dout_rows, saved.dout, first, static_cast<int>(last - first), head, sizes);

    for (int64_t begin = first, end; begin < last; begin = end) {
        const Segment segment = segments.of_query(begin);
        end = segment.q_start + segment.q_len < last ? segment.q_start + segment.q_len : last;
        const int64_t before = segment.kv_len - segment.q_len - segment.q_start;  // row t stands beside key before + t
        const AttentionRange mine = attention_keys(scores, before, row, begin <= row && row < end);
        for (int64_t key = attention_first_tile(scores, before + begin); key < before + end; key += attention_tile) {
            const int64_t left = before + end - key;
            const int count = left < attention_tile ? static_cast<int>(left) : attention_tile;
            __syncthreads();  // the tiles before have been read
            attention_load(k_tile, saved.k, segment.kv_start + key, count, kv_head, sizes);
            attention_load(v_tile, saved.v, segment.kv_start + key, count, kv_head, sizes);
            __syncthreads();
            const AttentionKeyTile tile{k_tile,
                                        key,
                                        before + first - key,
                                        segment.first_position - (segment.kv_len - segment.q_len) + key,
                                        attention_lanes(mine.begin - key),
                                        attention_lanes(mine.end - key)};
            AttentionPair pair{0, 0};
            if (tile.begin <= lane && lane < tile.end) {
                const AttentionScore x =
                    attention_score(scores, attention_dot(q_rows + warp * sizes.pitch, k_tile + lane * sizes.pitch, sizes.HS), head,
                                    kv_head, segment.first_position + row - segment.q_start, before + row - key - lane);
                const float dp = attention_dot(dout_rows + warp * sizes.pitch, v_tile + lane * sizes.pitch, sizes.HS);
                pair.ds = attention_exp(x.score, lse) * (dp - D), pair.dx = pair.ds * x.slope;
            }
            body(tile, pair);
        }
    }
}

// ---- launching

inline AttentionSizes attention_sizes(const Tensor& q, const Tensor& k) {
    const int HS = static_cast<int>(q.shape[2]), NH = static_cast<int>(q.shape[1]);
    ENSURE(HS <= attention_largest_head && q.shape[1] <= 65535);
    return {q.rows(), k.rows(), NH, NH / static_cast<int>(k.shape[1]), HS, ((HS + 3) / 4 | 1) * 4};
}

inline AttentionSegments attention_segments(const SegmentTable& segments) {
    const Tensor& table = segments.device;
    ENSURE(table && table.dtype == Dtype::i64 && table.is({static_cast<int64_t>(segments.host.size()), 5}) && table.contiguous());
    const auto later = [](const Segment& a, const Segment& b) {
        return a.kv_start > b.kv_start || a.kv_start + a.kv_len > b.kv_start + b.kv_len;
    };
    const bool keys_ascend = std::adjacent_find(segments.host.begin(), segments.host.end(), later) == segments.host.end();
    return {static_cast<const Segment*>(table.data), table.rows(), keys_ascend};
}

template <class T>
AttentionSaved<T> attention_saved(const Tensor& dout, const Tensor& lse, const Tensor& D, const AttentionInputs& in) {
    return {attention_heads<const T>(dout),
            attention_heads<const T>(in.q),
            attention_heads<const T>(in.k),
            attention_heads<const T>(in.v),
            lse.as<float>(),
            D.as<float>()};
}

// Bytes of a block's `rows` rows and two tiles.
inline int64_t attention_shared_bytes(int rows, const AttentionSizes& sizes) {
    return int64_t{rows + 2 * attention_tile} * sizes.pitch * int64_t{sizeof(float)};
}

// Calls body<T, columns>(): the type, and how many columns of a head a lane owns.
template <class Body>
void attention_dispatch(Dtype dtype, int HS, Body&& body) {
    ENSURE(dtype == Dtype::f32 || dtype == Dtype::bf16);
    auto with_type = [&]<class T>(T) {
        if (HS <= 64)
            body.template operator()<T, 2>();
        else if (HS <= 128)
            body.template operator()<T, 4>();
        else
            body.template operator()<T, 8>();
    };
    if (dtype == Dtype::bf16)
        with_type(bf16{});
    else
        with_type(float{});
}

}  // namespace traincu::gpu
