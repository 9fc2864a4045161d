// What the two directions of the tiled kernels share (attention_tiled.cu, attention_tiled_backward.cu): tensor cores through mma.sync,
// bf16, sm_80 and later; heads of any multiple of 8 up to 256, which run as the next of 32, 64, 80, 96, 128, 256 with columns of zeros.
//
// A warp owns 16 rows of a block's tile (queries, or keys in the backward of keys and values) and meets all of the other side's rows,
// `step` at a time, which cp.async brings into a ring of two in shared memory while the tensor cores work on the ones before. It computes
// the scores of 16 x step pairs in its registers; there they become P or dS, and, two to a register, the left operand of the next product:
// no score is ever written to shared memory. The other side's rows are counted from the segment's first, whatever the block; so each
// element is the same sequence of operations, packed or alone, whole or in slices. What a row cannot see counts as zero, exactly.
//
// Of a warp's 16 x 8 n scores, lane l holds (g, 8 n + c), (g, 8 n + c + 1) in s[n][0], s[n][1] and the same of row g + 8 in s[n][2],
// s[n][3], with g = l / 4 and c = 2 (l % 4).
#pragma once

#include "kernels/attention_gpu.h"

namespace traincu::gpu {

struct TiledSizes {
    int NH, group;   // query heads; of them per key head
    int HS;          // at most the template's
    int gate_width;  // 0, 1 or HS
};

// ---- tiles in shared memory

// Where the 16-byte chunk `chunk` of row `row` lies in a tile of rows of `chunks` chunks, in elements. Eight neighbouring rows, at the same
// chunk, lie in different banks: that is what ldmatrix reads at once. Where 8 chunks or a divisor of them make a row, the chunks of a
// row change places with one another; rows of 10 or 12 chunks are one chunk further apart.
template <int chunks>
constexpr int tiled_pitch = (chunks % 8 == 0 || 8 % chunks == 0 ? chunks : chunks | 1) * 8;
template <int chunks>
__device__ int tiled_place(int row, int chunk) {
    if constexpr (chunks % 8 == 0)
        chunk ^= row % 8;
    else if constexpr (8 % chunks == 0)
        chunk ^= row / (8 / chunks) % chunks;
    return row * tiled_pitch<chunks> + chunk * 8;
}

// tile (rows, 8 chunks) = rows [row, row + count) of a head `width` wide, zeros beyond. All threads of the block; arrives with
// cp_async_wait.
template <int rows, int chunks, int threads>
__device__ void tiled_load(bf16* tile, const AttentionHeads<const bf16>& from, int64_t row, int count, int64_t head, int width) {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (threads % chunks == 0 && rows % (threads / chunks) == 0) {  // a thread has the same chunk of every row_step-th row
        constexpr int row_step = threads / chunks;
        const int r = thread / chunks, chunk = thread % chunks;
        const bf16* source = from.row(row + r, head, width) + chunk * 8;
#pragma unroll
        for (int i = 0; i < rows; i += row_step, source += row_step * from.stride) {
            const bool valid = r + i < count && chunk * 8 < width;
            cp_async16(tile + tiled_place<chunks>(r + i, chunk), valid ? source : from.data, valid);
        }
    } else {
#pragma unroll 1
        for (int at = thread; at < rows * chunks; at += threads) {
            const int r = at / chunks, chunk = at % chunks;
            const bool valid = r < count && chunk * 8 < width;
            cp_async16(tile + tiled_place<chunks>(r, chunk), valid ? from.row(row + r, head, width) + chunk * 8 : from.data, valid);
        }
    }
}

// 16 x 16 elements of a tile for mma. Left operand a: its rows are the tile's, or (transposed) its columns. Right operand b[0], b[1] and
// b[2], b[3] for two neighbouring 8 of its columns: these are the tile's rows, or (transposed) the tile's columns.
template <int chunks>
__device__ void tiled_left(uint32_t (&a)[4], const bf16* tile, int row, int col) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    ldmatrix_x4(a, tile + tiled_place<chunks>(row + lane % 16, col / 8 + lane / 16));
}
template <int chunks>
__device__ void tiled_left_transposed(uint32_t (&a)[4], const bf16* tile, int row, int col) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    ldmatrix_x4_trans(a, tile + tiled_place<chunks>(row + lane % 8 + lane / 16 * 8, col / 8 + lane / 8 % 2));
}
template <int chunks>
__device__ void tiled_right(uint32_t (&b)[4], const bf16* tile, int row, int col) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    ldmatrix_x4(b, tile + tiled_place<chunks>(row + lane % 8 + lane / 16 * 8, col / 8 + lane / 8 % 2));
}
template <int chunks>
__device__ void tiled_right_transposed(uint32_t (&b)[4], const bf16* tile, int row, int col) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    ldmatrix_x4_trans(b, tile + tiled_place<chunks>(row + lane % 16, col / 8 + lane / 16));
}

// ---- products

// sums (16, 8 steps) += left (16,16) right^T, `right` being rows [0, 8 steps) and columns [col, col + 16) of a tile.
template <int chunks, int steps>
__device__ void tiled_multiply(float (&sums)[steps][4], const uint32_t (&left)[4], const bf16* right, int col) {
#pragma unroll
    for (int n = 0; n < steps; n += 2) {
        uint32_t b[4];
        tiled_right<chunks>(b, right, n * 8, col);
        mma_m16n8k16<bf16>(sums[n], left, {b[0], b[1]});
        mma_m16n8k16<bf16>(sums[n + 1], left, {b[2], b[3]});
    }
}

// scores (16, 8 steps) = rows [row, row + 16) of `left` times the transposed rows of `right`.
template <int chunks, int steps>
__device__ void tiled_scores(float (&scores)[steps][4], const bf16* left, int row, const bf16* right) {
#pragma unroll
    for (int n = 0; n < steps; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) scores[n][e] = 0;
#pragma unroll(chunks < 16 ? 8 : chunks < 32 ? 2 : 1)
    for (int k = 0; k < chunks * 8; k += 16) {  // of wide heads not unrolled: registers for the places are what is short there
        uint32_t a[4];
        tiled_left<chunks>(a, left, row, k);
        tiled_multiply<chunks>(scores, a, right, k);
    }
}

// Columns [16 k, 16 k + 16) of factors that lie as scores do, rounded to bf16, as a left operand.
template <int steps>
__device__ void tiled_round(uint32_t (&a)[4], const float (&factors)[steps][4], int k) {
    a[0] = pack_bf16x2(factors[2 * k][0], factors[2 * k][1]), a[1] = pack_bf16x2(factors[2 * k][2], factors[2 * k][3]);
    a[2] = pack_bf16x2(factors[2 * k + 1][0], factors[2 * k + 1][1]), a[3] = pack_bf16x2(factors[2 * k + 1][2], factors[2 * k + 1][3]);
}

// sums (16, 8 columns) += factors (16, 8 steps) times columns [col, col + 8 columns) of the tile's rows.
template <int chunks, int columns, int steps>
__device__ void tiled_add_rows(float (&sums)[columns][4], const float (&factors)[steps][4], const bf16* tile, int col) {
#pragma unroll
    for (int k = 0; k < steps / 2; k++) {
        uint32_t a[4];
        tiled_round(a, factors, k);
#pragma unroll
        for (int n = 0; n < columns; n += 2) {
            uint32_t b[4];
            tiled_right_transposed<chunks>(b, tile, k * 16, col + n * 8);
            mma_m16n8k16<bf16>(sums[n], a, {b[0], b[1]});
            mma_m16n8k16<bf16>(sums[n + 1], a, {b[2], b[3]});
        }
    }
}

// ---- from products to scores

// The rows of a factor that belong to some rows of a segment: row i of them is row first + i of `data`, for 0 <= i < count.
struct TiledFactors {
    AttentionHeads<const bf16> data;
    int64_t first, head;
    int count, R;

    // Columns r and r + 1 of a row, of which `from` is column r; zeros where there are none.
    __device__ uint32_t pair(const bf16* from, bool exists, int r) const {
        if (!exists || r >= R) return 0;
        if (data.aligned) return *reinterpret_cast<const uint32_t*>(from);
        return from[0].bits | (r + 1 < R ? uint32_t{from[1].bits} << 16 : 0u);
    }
    __device__ uint32_t pair(int i, int r) const { return pair(data.row(first + i, head, R) + r, i >= 0 && i < count, r); }
    __device__ uint32_t one(int i, int r) const { return i < 0 || i >= count || r >= R ? 0u : data.row(first + i, head, R)[r].bits; }
};

// scores += rows [row, row + 16) of `left` times rows [col, col + 8 steps) of `right`: the bias of low rank. The operands come straight
// from the caches.
template <int steps>
__device__ void tiled_add_factors(float (&scores)[steps][4], const TiledFactors& left, int row, const TiledFactors& right, int col) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size, g = lane / 4, c = lane % 4 * 2;
    for (int r = c; r - c < left.R; r += 16) {
        const uint32_t a[4] = {left.pair(row + g, r), left.pair(row + g + 8, r), left.pair(row + g, r + 8), left.pair(row + g + 8, r + 8)};
        const bf16* from = right.data.row(right.first + col + g, right.head, right.R) + r;  // read where there is such a row
#pragma unroll
        for (int n = 0; n < steps; n++, from += 8 * right.data.stride) {
            const int i = col + g + n * 8;
            const bool exists = i >= 0 && i < right.count;
            mma_m16n8k16<bf16>(scores[n], a, {right.pair(from, exists, r), right.pair(from + 8, exists, r + 8)});
        }
    }
}

// sums (16, 8 columns) += dS (16, 8 steps) times columns [r, r + 8 columns) of rows [row, row + 8 steps) of `factors`.
template <int columns, int steps>
__device__ void tiled_add_factor_rows(float (&sums)[columns][4], const float (&dS)[steps][4], const TiledFactors& factors, int row, int r) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size, g = lane / 4, c = lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < steps / 2; k++) {
        uint32_t a[4];
        tiled_round(a, dS, k);
#pragma unroll
        for (int n = 0; n < columns; n++) {
            if (r + n * 8 >= factors.R) break;
            const int i = row + k * 16 + c, col = r + n * 8 + g;
            mma_m16n8k16<bf16>(
                sums[n], a, {factors.one(i, col) | factors.one(i + 1, col) << 16, factors.one(i + 8, col) | factors.one(i + 9, col) << 16});
        }
    }
}

// A product times `unit` is a score in units of log(2), where the product is all there is to the score. Otherwise the products are made
// scores first.
inline __device__ bool tiled_plain(const AttentionScores<bf16>& scores) {
    return scores.softcap == 0 && scores.bias == AttentionBias::none;
}
inline __device__ float tiled_unit(const AttentionScores<bf16>& scores) {
    return tiled_plain(scores) ? scores.scale * attention_log2e : attention_log2e;
}

// tanh x = 1 - 2 / (e^2x + 1), and x - x^3 / 3 where that would lose digits: relative error below 2e-6, far below what bf16 leaves of P.
inline __device__ float tiled_tanh(float x) {
    const float z = x * x, far = 1 - __fdividef(2.0f, 1 + exp2f(x * (2 * attention_log2e)));
    return z < 0.0025f ? fmaf(z * x, -1.0f / 3, x) : far;
}

// cap(scale x); with a softcap with_derivative(n, e, cap') hears of each element's.
template <int steps, class WithDerivative>
__device__ void tiled_cap(float (&s)[steps][4], const AttentionScores<bf16>& scores, WithDerivative&& with_derivative) {
    if (scores.softcap == 0) {
#pragma unroll
        for (int n = 0; n < steps; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] *= scores.scale;
        return;
    }
    const float factor = scores.scale / scores.softcap;
#pragma unroll
    for (int n = 0; n < steps; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float x = tiled_tanh(s[n][e] * factor);
            s[n][e] = scores.softcap * x;
            with_derivative(n, e, fmaf(-x, x, 1.0f));
        }
}

// The pairs of a warp's tile: of its row 0 and column 0, and which of the two is the query. All count within the segment.
template <bool queries_are_rows>
struct TiledPairs {
    int beside, key;  // the key beside the first query, the first key
    // How much further apart the query and the key of a lane's s[n][e] are than those of its s[0][0].
    __device__ static constexpr int step_of_distance(int n, int e) {
        const int row = e / 2 * 8, col = n * 8 + e % 2;
        return queries_are_rows ? row - col : col - row;
    }
    // Distance between the query and the key of this lane's s[n][e].
    __device__ int distance(int n, int e) const {
        const int lane = static_cast<int>(threadIdx.x) % warp_size, row = lane / 4, col = lane % 4 * 2;
        return beside - key + (queries_are_rows ? row - col : col - row) + step_of_distance(n, e);
    }
    __device__ int query_of(int n, int e) const {
        const int lane = static_cast<int>(threadIdx.x) % warp_size;
        return queries_are_rows ? lane / 4 + e / 2 * 8 : lane % 4 * 2 + n * 8 + e % 2;
    }
    // Do all queries see all keys?
    __device__ bool whole(int columns, int window) const {
        const int queries = queries_are_rows ? 16 : columns, keys = queries_are_rows ? columns : 16;
        return key >= 0 && key + keys - 1 <= beside && beside + queries - 1 - key < window;
    }
    __device__ bool empty(int columns, int window) const {
        const int queries = queries_are_rows ? 16 : columns, keys = queries_are_rows ? columns : 16;
        return key + keys <= 0 || key > beside + queries - 1 || beside - (key + keys - 1) >= window;
    }
};

inline __device__ int tiled_window(const AttentionScores<bf16>& scores) {
    return scores.window > 0 && scores.window < 0x7fffffff ? static_cast<int>(scores.window) : 0x7fffffff;
}

// Adds a bias that depends on the pair alone (not the factors). `position`: of the first query. `slice`: the relative bias by distance,
// from slice[0] for the distance `slice_begin`.
template <bool queries_are_rows, int steps>
__device__ void tiled_add_bias(float (&s)[steps][4], const TiledPairs<queries_are_rows>& pairs, const AttentionScores<bf16>& scores,
                               int64_t head, int64_t position, const float* slice, int slice_begin) {
    const int distance = pairs.distance(0, 0);
    if (scores.bias == AttentionBias::alibi) {
        const float slope = scores.slopes[head], d = static_cast<float>(distance);
#pragma unroll
        for (int n = 0; n < steps; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = fmaf(-slope, d + static_cast<float>(pairs.step_of_distance(n, e)), s[n][e]);
    } else if (scores.bias == AttentionBias::relative) {
        slice += distance - slice_begin;
#pragma unroll
        for (int n = 0; n < steps; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] += slice[pairs.step_of_distance(n, e)];
    } else if (scores.bias == AttentionBias::dense) {
        const int64_t p0 = position + pairs.query_of(0, 0);
        const int p_first = static_cast<int>(p0), P = static_cast<int>(scores.P);
        const bf16* dense = scores.dense + (head * scores.P + p0) * scores.P + p0 - distance;
#pragma unroll
        for (int n = 0; n < steps; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int query = pairs.query_of(n, e) - pairs.query_of(0, 0), d = distance + pairs.step_of_distance(n, e);
                if (d >= 0 && d <= p_first + query && p_first + query < P)
                    s[n][e] += to_float(dense[query * scores.P + query - pairs.step_of_distance(n, e)]);
            }
    }
}

// -inf where a query does not see a key.
template <bool queries_are_rows, int steps>
__device__ void tiled_mask(float (&s)[steps][4], const TiledPairs<queries_are_rows>& pairs, int window) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
    for (int n = 0; n < steps; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int distance = pairs.distance(n, e);
            const bool key_exists = queries_are_rows || pairs.key + lane / 4 + e / 2 * 8 >= 0;
            if (distance < 0 || distance >= window || !key_exists) s[n][e] = -INFINITY;
        }
}

// slice[i] = the head's relative bias at the distance begin + i, for `count` of them. All threads of the block; before a barrier.
inline __device__ void tiled_load_slice(float* slice, const AttentionScores<bf16>& scores, int64_t head, int begin, int count) {
    if (scores.bias != AttentionBias::relative) return;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
        const int distance = begin + i > 0 ? begin + i : 0;
        slice[i] = to_float(scores.relative[head * relative_buckets + attention_bucket(distance)]);
    }
}

// ---- launching

// What the host lists: tiles and the segments they point to.
struct TiledTable {
    const AttentionTile* tiles;
    const Segment* segments;
};

inline TiledTable tiled_table(const Tensor& tiles, const SegmentTable& segments) {
    ENSURE(tiles && tiles.dtype == Dtype::i32 && tiles.shape[1] == 5 && tiles.contiguous());
    ENSURE(segments.device && segments.device.dtype == Dtype::i64 && segments.device.contiguous());
    return {static_cast<const AttentionTile*>(tiles.data), static_cast<const Segment*>(segments.device.data)};
}

// Calls body<HS>() with the head size that the kernels are made for.
template <class Body>
void tiled_dispatch(int64_t HS, Body&& body) {
    if (HS <= 32) return body.template operator()<32>();
    if (HS <= 64) return body.template operator()<64>();
    if (HS <= 80) return body.template operator()<80>();
    if (HS <= 96) return body.template operator()<96>();
    if (HS <= 128) return body.template operator()<128>();
    body.template operator()<256>();
}

}  // namespace traincu::gpu
