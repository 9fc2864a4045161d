// Attention, step 3: tensor cores.
//
// Both products run as mma.sync: scores = q k^T and sums += P v. A block takes 64 queries of a head, a warp 16 of them, and meets the keys
// 64 at a time. What makes it fit together is the layout that the hardware fixes (kernels/launch_cuda.h draws it): a lane receives two
// neighbouring scores of a row, and two neighbouring numbers of a row are what it must hand over, rounded to bf16, as the left operand of
// the second product. So the scores become P where they are, and none of them is ever written to shared memory. The values are needed
// with their keys along the columns: ldmatrix transposes on the way.
//
// Of a row, four lanes hold 16 scores each: its maximum takes two shuffles. Its sum is only needed at the end, and stays apart until then.
// exp(scale x - top) is 2^(unit x - top) with unit = scale log2(e): one multiply-add and one exp2. Only tiles that hold a pair that is not
// seen, because it is later or of another document, are masked.
//
// What a warp reads with ldmatrix for its 16 rows and 64 keys, 4096 HS FLOPs: 32 HS bytes of Q, 128 HS of K, 128 HS of V. That is 14 FLOPs
// a byte, and at 128 bytes a clock of each of 132 multiprocessors 440 TFLOP/s at most. From L2 come 4 HS bytes a key for 64 queries, 64
// FLOPs a byte. 64x64 scores are 4,096 exp2, 256 clocks at 16 a clock: at HS 64 as long as the two products take tensor cores at their
// best. And none of these hides another: load, barrier, product, softmax, product, barrier; only other blocks fill the gaps. Expected, not
// measured: 100-180 TFLOP/s on an H200.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int mma_rows = 64, mma_threads = mma_rows / 16 * warp_size;
template <int HS>
constexpr int mma_row = HS + 8;  // a row of a tile with its padding: eight rows begin in eight different groups of 4 banks

// tile (64,HS) = rows [row, row + 64) of a head of q, k or v, zeros from row `end` on.
template <int HS>
__device__ inline void load_attention_tile(bf16* tile, const bf16* from, int64_t stride, int row, int end) {
    constexpr int width = Pack<bf16>::size, packs = HS / width;
    for (int at = static_cast<int>(threadIdx.x); at < mma_rows * packs; at += mma_threads) {
        const int r = at / packs, d = at % packs * width;
        store16(tile + r * mma_row<HS> + d, row + r < end ? load16(from + (row + r) * stride + d) : Pack<bf16>{});
    }
}

template <int HS>
__global__ void __launch_bounds__(mma_threads)
    attention_mma_kernel(bf16* out, const bf16* q, const bf16* k, const bf16* v, const int* starts, float unit, int T, int NH, int NKV) {
    constexpr int pitch = mma_row<HS>, size = mma_rows * pitch, key_groups = mma_rows / 8, columns = HS / 8;
    bf16 *q_tile = shared<bf16>(), *k_tile = q_tile + size, *v_tile = k_tile + size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int first = static_cast<int>(blockIdx.x) * mma_rows, end = first + mma_rows < T ? first + mma_rows : T;
    const int head = static_cast<int>(blockIdx.y), kv_head = head / (NH / NKV);
    const int last_start = starts[end - 1];  // before it not all rows of the block see a key

    const int i[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};  // the lane's rows
    const int start[2] = {i[0] < T ? starts[i[0]] : T, i[1] < T ? starts[i[1]] : T};
    // The row and column that this lane names to ldmatrix, in 16x16 of q or (transposed) v: tiles (0,0) (8,0) (0,8) (8,8); of k: (0,0)
    // (0,8) (8,0) (8,8).
    const int a_row = lane % 16, a_col = lane / 16 * 8, b_row = lane % 8 + lane / 16 * 8, b_col = lane / 8 % 2 * 8;
    load_attention_tile<HS>(q_tile, q + head * HS, int64_t{NH} * HS, first, end);

    float top[2] = {-INFINITY, -INFINITY}, total[2] = {}, sums[columns][4] = {};  // row i[0] in [..][0] and [1], i[1] in [2] and [3]
    for (int key = starts[first]; key < end; key += mma_rows) {
        load_attention_tile<HS>(k_tile, k + kv_head * HS, int64_t{NKV} * HS, key, end);
        load_attention_tile<HS>(v_tile, v + kv_head * HS, int64_t{NKV} * HS, key, end);
        __syncthreads();

        float s[key_groups][4] = {};
#pragma unroll
        for (int d = 0; d < HS; d += 16) {
            uint32_t a[4], b[4];
            ldmatrix_x4(a, q_tile + (warp * 16 + a_row) * pitch + d + a_col);
#pragma unroll
            for (int n = 0; n < key_groups; n += 2) {
                ldmatrix_x4(b, k_tile + (n * 8 + b_row) * pitch + d + b_col);
                mma_m16n8k16<bf16>(s[n], a, {b[0], b[1]});
                mma_m16n8k16<bf16>(s[n + 1], a, {b[2], b[3]});
            }
        }
        if (key < last_start || key + mma_rows - 1 > first) {
#pragma unroll
            for (int n = 0; n < key_groups; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int j = key + n * 8 + lane % 4 * 2 + e % 2;
                    if (j < start[e / 2] || j > i[e / 2]) s[n][e] = -INFINITY;
                }
        }

#pragma unroll
        for (int half = 0; half < 2; half++) {
            float highest = -INFINITY;
#pragma unroll
            for (int n = 0; n < key_groups; n++) highest = fmaxf(highest, fmaxf(s[n][half * 2], s[n][half * 2 + 1]));
            highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, 2));
            const float new_top = fmaxf(top[half], highest * unit);
            const float reference = new_top == -INFINITY ? 0.0f : new_top;  // nothing seen yet: P = 0, not NaN
            const float rescale = exp2f(top[half] - reference);
            top[half] = new_top, total[half] *= rescale;
#pragma unroll
            for (int n = 0; n < columns; n++) sums[n][half * 2] *= rescale, sums[n][half * 2 + 1] *= rescale;
#pragma unroll
            for (int n = 0; n < key_groups; n++)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; e++) s[n][e] = exp2f(fmaf(s[n][e], unit, -reference)), total[half] += s[n][e];
        }

#pragma unroll
        for (int n = 0; n < key_groups; n += 2) {  // 16 keys
            const uint32_t p[4] = {pack_bf16x2(s[n][0], s[n][1]), pack_bf16x2(s[n][2], s[n][3]), pack_bf16x2(s[n + 1][0], s[n + 1][1]),
                                   pack_bf16x2(s[n + 1][2], s[n + 1][3])};
#pragma unroll
            for (int c = 0; c < columns; c += 2) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, v_tile + (n * 8 + a_row) * pitch + c * 8 + a_col);
                mma_m16n8k16<bf16>(sums[c], p, {b[0], b[1]});
                mma_m16n8k16<bf16>(sums[c + 1], p, {b[2], b[3]});
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(all_lanes, total[half], 1);
        total[half] += __shfl_xor_sync(all_lanes, total[half], 2);
        if (i[half] >= T) continue;
        bf16* to = out + (int64_t{i[half]} * NH + head) * HS + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < columns; n++)
            *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16x2(sums[n][half * 2] / total[half], sums[n][half * 2 + 1] / total[half]);
    }
}

void attention_mma(Tensor out, Tensor q, Tensor k, Tensor v, Tensor starts, float scale, Stream& stream) {
    const int64_t T = q.shape[0], NH = q.shape[1], NKV = k.shape[1], HS = q.shape[2];
    ENSURE(HS == 64 || HS == 128);
    const int64_t bytes = 3 * mma_rows * (HS + 8) * int64_t{sizeof(bf16)};
    launch(HS == 64 ? attention_mma_kernel<64> : attention_mma_kernel<128>,
           dim3(static_cast<unsigned>(div_ceil(T, mma_rows)), static_cast<unsigned>(NH)), dim3(mma_threads), bytes, stream, out.as<bf16>(),
           q.as<bf16>(), k.as<bf16>(), v.as<bf16>(), starts.as<int32_t>(), scale * 1.4426950408889634f, static_cast<int>(T),
           static_cast<int>(NH), static_cast<int>(NKV));
}

}  // namespace traincu::gpu::ladder
