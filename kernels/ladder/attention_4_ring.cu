// Attention, step 4: a ring of tiles, and the queries in registers.
//
// Step 3 waits for the tile, computes, waits for the next. Here cp.async brings the next 64 keys and values while the tensor cores work on
// these. Two places are enough: a step is 16,384 HS FLOPs, at HS 64 four times those of a step of matmul_5_ring.cu. One barrier a step: it
// says that everybody's copies are there, and that everybody is done with the step before, whose place is filled next.
//
// A warp's 16 queries are the left operand of every product with keys: HS / 16 fragments of 4 registers, read once instead of at each step.
// Their tile comes in through the ring's second place, which keys need only from the second step on. Shared memory, HS 64: 36 KB; HS 128:
// 68 KB.
//
// What a warp reads with ldmatrix for 4096 HS FLOPs: 256 HS bytes, 16 FLOPs a byte, 490 TFLOP/s at most. From L2 as in step 3, 64 FLOPs a
// byte, 320 TFLOP/s if it delivers 5 TB/s: this is now the narrowest place. Expected, not measured: 180-260 TFLOP/s on an H200.
//
// From here to kernels/attention_tiled.cu: 128 queries a block, which halves the bytes from L2; a swizzle instead of padding; tiles that
// belong to one document each, listed by the host, the longest first; any head size; biases, windows, gates; log(sum), for the backward.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int ring_rows = 64, ring_threads = ring_rows / 16 * warp_size;
template <int HS>
constexpr int ring_pitch = HS + 8;  // padding as in step 3

// tile (64,HS) = rows [row, row + 64) of a head of q, k or v, zeros from row `end` on; arrives with cp_async_wait.
template <int HS>
__device__ inline void start_attention_tile(bf16* tile, const bf16* from, int64_t stride, int row, int end) {
    constexpr int width = Pack<bf16>::size, packs = HS / width;
    for (int at = static_cast<int>(threadIdx.x); at < ring_rows * packs; at += ring_threads) {
        const int r = at / packs, d = at % packs * width;
        const bool valid = row + r < end;
        cp_async16(tile + r * ring_pitch<HS> + d, valid ? from + (row + r) * stride + d : from, valid);
    }
}

template <int HS>
__global__ void __launch_bounds__(ring_threads)
    attention_ring_kernel(bf16* out, const bf16* q, const bf16* k, const bf16* v, const int* starts, float unit, int T, int NH, int NKV) {
    constexpr int pitch = ring_pitch<HS>, size = ring_rows * pitch, key_groups = ring_rows / 8, columns = HS / 8;
    bf16 *ring = shared<bf16>(), *q_tile = ring + 2 * size;  // two places for tiles of keys and values
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int first = static_cast<int>(blockIdx.x) * ring_rows, end = first + ring_rows < T ? first + ring_rows : T;
    const int head = static_cast<int>(blockIdx.y), kv_head = head / (NH / NKV);
    const int last_start = starts[end - 1];  // before it not all rows of the block see a key

    const int i[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};  // the lane's rows
    const int start[2] = {i[0] < T ? starts[i[0]] : T, i[1] < T ? starts[i[1]] : T};
    // The row and column that this lane names to ldmatrix, in 16x16 of q or (transposed) v: tiles (0,0) (8,0) (0,8) (8,8); of k: (0,0)
    // (0,8) (8,0) (8,8).
    const int a_row = lane % 16, a_col = lane / 16 * 8, b_row = lane % 8 + lane / 16 * 8, b_col = lane / 8 % 2 * 8;
    auto start_step = [&](int key, int place) {
        bf16* to = ring + place * 2 * size;
        start_attention_tile<HS>(to, k + kv_head * HS, int64_t{NKV} * HS, key, end);
        start_attention_tile<HS>(to + size, v + kv_head * HS, int64_t{NKV} * HS, key, end);
        cp_async_commit();
    };
    start_attention_tile<HS>(q_tile, q + head * HS, int64_t{NH} * HS, first, end);
    start_step(starts[first], 0);
    cp_async_wait<0>();
    __syncthreads();
    uint32_t query[HS / 16][4];
#pragma unroll
    for (int d = 0; d < HS; d += 16) ldmatrix_x4(query[d / 16], q_tile + (warp * 16 + a_row) * pitch + d + a_col);

    float top[2] = {-INFINITY, -INFINITY}, total[2] = {}, sums[columns][4] = {};  // row i[0] in [..][0] and [1], i[1] in [2] and [3]
    for (int key = starts[first], place = 0; key < end; key += ring_rows, place ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // in the first step: all have read their queries
        if (key + ring_rows < end) start_step(key + ring_rows, place ^ 1);
        const bf16 *k_tile = ring + place * 2 * size, *v_tile = k_tile + size;

        float s[key_groups][4] = {};
#pragma unroll
        for (int d = 0; d < HS; d += 16)
#pragma unroll
            for (int n = 0; n < key_groups; n += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, k_tile + (n * 8 + b_row) * pitch + d + b_col);
                mma_m16n8k16<bf16>(s[n], query[d / 16], {b[0], b[1]});
                mma_m16n8k16<bf16>(s[n + 1], query[d / 16], {b[2], b[3]});
            }
        if (key < last_start || key + ring_rows - 1 > first) {
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

void attention_ring(Tensor out, Tensor q, Tensor k, Tensor v, Tensor starts, float scale, Stream& stream) {
    const int64_t T = q.shape[0], NH = q.shape[1], NKV = k.shape[1], HS = q.shape[2];
    ENSURE(HS == 64 || HS == 128);
    const int64_t bytes = 4 * ring_rows * (HS + 8) * int64_t{sizeof(bf16)};
    launch(HS == 64 ? attention_ring_kernel<64> : attention_ring_kernel<128>,
           dim3(static_cast<unsigned>(div_ceil(T, ring_rows)), static_cast<unsigned>(NH)), dim3(ring_threads), bytes, stream,
           out.as<bf16>(), q.as<bf16>(), k.as<bf16>(), v.as<bf16>(), starts.as<int32_t>(), scale * 1.4426950408889634f, static_cast<int>(T),
           static_cast<int>(NH), static_cast<int>(NKV));
}

}  // namespace traincu::gpu::ladder
