// Plain use of what CUDA offers, each checked against loops by simt_test.cpp; and faults of control flow.
#include "kernels/launch.h"
#include "tests/simt/faults/faults.h"

namespace traincu::simt_faults {

using namespace gpu;

__global__ void add_kernel(float* out, const float* a, const float* b, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) out[i] = a[i] + b[i];
}
void add(float* out, const float* a, const float* b, int64_t n, int64_t count, Stream& stream) {
    launch(add_kernel, static_cast<unsigned>((n + 63) / 64), 64, 0, stream, out, a, b, count);
}

__global__ void coordinates_kernel(int32_t* out) {
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    out[i] = static_cast<int32_t>(i);
}
void coordinates(int32_t* out, unsigned bx, unsigned by, unsigned bz, Stream& stream) {
    launch(coordinates_kernel, dim3(3, 2, 2), dim3(bx, by, bz), 0, stream, out);
}

__global__ void collectives_kernel(int32_t* out) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int32_t* row = out + threadIdx.x * 12;
    row[0] = __shfl_sync(all_lanes, lane, 5);
    row[1] = __shfl_up_sync(all_lanes, lane, 3);
    row[2] = __shfl_down_sync(all_lanes, lane, 3);
    row[3] = __shfl_xor_sync(all_lanes, lane, 9);
    row[4] = __shfl_sync(all_lanes, lane, 5, 8);
    row[5] = __shfl_down_sync(all_lanes, lane, 3, 16);
    row[6] = static_cast<int32_t>(__ballot_sync(all_lanes, lane % 3 == 0));
    row[7] = __any_sync(all_lanes, lane == 40) * 2 + __all_sync(all_lanes, lane < 32);
    row[8] = static_cast<int32_t>(__shfl_xor_sync(all_lanes, 1.5 * lane, 1) * 2);  // 8 bytes
    // halves of a warp on two ways
    if (lane < 16)
        row[9] = __shfl_xor_sync(0x0000FFFFu, lane, 1);
    else
        row[9] = __shfl_xor_sync(0xFFFF0000u, lane, 2);
    __syncwarp();
    row[10] = __syncthreads_count(lane < 7) * 4 + __syncthreads_or(threadIdx.x == 63) * 2 + __syncthreads_and(lane < 31);
    row[11] = static_cast<int32_t>(__match_any_sync(all_lanes, lane / 4));
}
void collectives(int32_t* out, Stream& stream) { launch(collectives_kernel, 1, 64, 0, stream, out); }

__global__ void sum_blocks_kernel(float* out, const float* in, int64_t n) {
    float sum = 0;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x)
        sum += in[i];
    sum = block_sum(sum);
    const float largest = block_max(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = largest;
}
void sum_blocks(float* out, const float* in, int64_t n, int64_t blocks, Stream& stream) {
    launch(sum_blocks_kernel, static_cast<unsigned>(blocks), 128, 0, stream, out, in, n);
}

// out (16,8) f32 = a (16,16) b^T, b (8,16), through cp.async, ldmatrix and mma.
template <class T>
__global__ void product_kernel(float* out, const uint16_t* a, const uint16_t* b) {
    uint16_t* a_tile = shared<uint16_t>();
    uint16_t* b_tile = a_tile + 16 * 16;
    const int lane = static_cast<int>(threadIdx.x);
    cp_async16(a_tile + lane * 8, a + lane * 8, true);
    if (lane < 16) cp_async16(b_tile + lane * 8, b + lane * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t af[4], bf[4];
    ldmatrix_x4(af, a_tile + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x4(bf, b_tile + (lane % 8) * 16 + lane / 8 % 2 * 8);
    const uint32_t b_half[2] = {bf[0], bf[1]};
    float d[4] = {};
    mma_m16n8k16<T>(d, af, b_half);
    const int g = lane / 4, c = 2 * (lane % 4);
    out[g * 8 + c] = d[0], out[g * 8 + c + 1] = d[1];
    out[(g + 8) * 8 + c] = d[2], out[(g + 8) * 8 + c + 1] = d[3];
}
void product_m16n8k16(float* out, const void* a, const void* b, bool is_bf16, Stream& stream) {
    launch(is_bf16 ? product_kernel<bf16> : product_kernel<f16>, 1, 32, (16 + 8) * 16 * 2, stream, out,
           static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b));
}

__global__ void count_kernel(int32_t* counters) {
    atomicAdd(counters, 1);
    atomicMax(counters + 1, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
    atomicCAS(counters + 2, 0, 7);
}
void count_atomically(int32_t* counters, Stream& stream) { launch(count_kernel, 5, 96, 0, stream, counters); }

__global__ void sum_pack_kernel(float* out, Pack<float> pack) { *out = pack[0] + pack[1] + pack[2] + pack[3]; }
void sum_pack(float* out, Stream& stream) { launch(sum_pack_kernel, 1, 1, 0, stream, out, Pack<float>{1, 2, 3, 4}); }

__global__ void shuffle_missing_lane_kernel(int32_t* out, bool faulty) {
    const int lane = static_cast<int>(threadIdx.x);
    if (faulty && lane == 9) return;
    out[lane] = __shfl_xor_sync(all_lanes, lane, 1);
}
void shuffle_missing_lane(int32_t* out, bool faulty, Stream& stream) { launch(shuffle_missing_lane_kernel, 1, 32, 0, stream, out, faulty); }

__global__ void shuffle_from_outside_kernel(int32_t* out, bool faulty) {
    const int lane = static_cast<int>(threadIdx.x);
    if (lane < 16) out[lane] = __shfl_sync(0x0000FFFFu, lane, faulty ? 20 : 12);
}
void shuffle_from_outside(int32_t* out, bool faulty, Stream& stream) { launch(shuffle_from_outside_kernel, 1, 32, 0, stream, out, faulty); }

__global__ void divergent_barrier_kernel(int32_t* out, bool faulty) {
    if (threadIdx.x < 32 || !faulty)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
void divergent_barrier(int32_t* out, bool faulty, Stream& stream) { launch(divergent_barrier_kernel, 1, 64, 0, stream, out, faulty); }

__global__ void leaves_before_barrier_kernel(int32_t* out, bool faulty) {
    if (faulty && threadIdx.x >= 60) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
void thread_leaves_before_barrier(int32_t* out, bool faulty, Stream& stream) {
    launch(leaves_before_barrier_kernel, 1, 64, 0, stream, out, faulty);
}

__global__ void half_warp_kernel(int32_t* out) { out[threadIdx.x] = __shfl_sync(all_lanes, 1, 0); }
void half_a_warp(int32_t* out, Stream& stream) { launch(half_warp_kernel, 1, 16, 0, stream, out); }

}  // namespace traincu::simt_faults
