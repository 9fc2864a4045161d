// Sums and maxima over the threads of a warp or a block, in a fixed tree: the same bits on every run. Included by launch.h.
#pragma once

namespace traincu::gpu {

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xFFFFFFFFu;

// The result is the same in all lanes: in each round both partners add the same two numbers.
inline __device__ float warp_sum(float x) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
    return x;
}
inline __device__ double warp_sum(double x) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
    return x;
}
inline __device__ float warp_max(float x) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(all_lanes, x, offset));
    return x;
}

// Over all threads of a block of whole warps, at most 1024 threads. Every thread must come here. `tag` names the shared memory: calls that
// follow one another without a barrier between them need different ones only if they have different types.
template <class T, int tag = 0>
__device__ T block_sum(T x) {
    T(&partial)[warp_size] = shared_array<T, warp_size, tag>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    x = warp_sum(x);
    __syncthreads();  // the sums of a call before this one have been read
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : T(0));
}
template <int tag = 1>
__device__ float block_max(float x) {
    float(&partial)[warp_size] = shared_array<float, warp_size, tag>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? partial[lane] : -INFINITY);
}

}  // namespace traincu::gpu
