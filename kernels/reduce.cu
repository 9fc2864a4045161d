// Sums over whole tensors on the GPU.
//
// sum_squares: a block of 256 threads takes 4096 elements, 16 a thread, in double; then one block adds the blocks' sums, each thread a run
// of them in ascending order, and the threads in a tree.
//
// sum: one block of threads. A warp takes a unit of 256 elements, 8 a lane, and sums it in a tree; then thread 0 adds the warps' units to
// the total, in ascending order, whatever came before this call. 64k losses: 8 rounds, each a wait for memory and 32 additions.
//
// Bytes per element: its size; of sum_squares 8 / 4096 more, written and read again. Floor: these over the memory's speed; 0.6 G gradients
// of f32 at 4.3 TB/s: 0.55 ms. sum does not come near its own: one multiprocessor waits for its memory, ~10 us for 64k. Fraction: not
// measured.
#include "kernels/reduce.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr int reduce_threads = 256, reduce_block = 4096;

// partials[b] = sum of x[i]^2 over elements 4096 b + [0,4096) below n. Which thread adds what does not depend on `packed`.
template <class T, bool packed>
__global__ void __launch_bounds__(reduce_threads) sum_squares_kernel(double* partials, const T* x, int64_t n) {
    constexpr int width = Pack<T>::size, rounds = reduce_block / reduce_threads / width;
    const int64_t first = int64_t{blockIdx.x} * reduce_block + static_cast<int64_t>(threadIdx.x) * width;
    float values[rounds][width];
#pragma unroll
    for (int r = 0; r < rounds; r++) {
        const int64_t i = first + r * reduce_threads * width;
        if (packed && i + width <= n) {
            const Pack<T> pack = load16_streaming(x + i);
            for (int j = 0; j < width; j++) values[r][j] = to_float(pack[j]);
        } else {
            for (int j = 0; j < width; j++) values[r][j] = i + j < n ? to_float(x[i + j]) : 0.0f;
        }
    }
    double sum = 0;
#pragma unroll
    for (int r = 0; r < rounds; r++)
        for (int j = 0; j < width; j++) {
            const double value = static_cast<double>(values[r][j]);
            sum += value * value;
        }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024) sum_partials_kernel(double* total, const double* partials, int64_t count) {
    const int64_t run = (count + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * run;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = begin; i < begin + run && i < count; i++) sum += partials[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total += sum;
}

constexpr int sum_unit = 256, sum_warps = 32;

__device__ inline double in_double(double x) { return x; }
template <class T>
__device__ double in_double(T x) {
    return static_cast<double>(to_float(x));
}

// total[0] += x, unit by unit.
template <class T>
__global__ void __launch_bounds__(sum_warps* warp_size) sum_units_kernel(double* total, const T* x, int64_t n) {
    double(&sums)[sum_warps] = shared_array<double, sum_warps>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    double result = threadIdx.x == 0 ? *total : 0;
    for (int64_t first = 0; first < n; first += warps * sum_unit) {
        const int64_t begin = first + warp * sum_unit + lane;
        double values[sum_unit / warp_size];
#pragma unroll
        for (int r = 0; r < sum_unit / warp_size; r++) {
            const int64_t i = begin + r * warp_size;
            values[r] = i < n ? in_double(x[i]) : 0.0;
        }
        double sum = 0;
#pragma unroll
        for (int r = 0; r < sum_unit / warp_size; r++) sum += values[r];
        sum = warp_sum(sum);
        if (lane == 0) sums[warp] = sum;
        __syncthreads();
        if (threadIdx.x == 0)
            for (int w = 0; w < warps && first + w * sum_unit < n; w++) result += sums[w];
        __syncthreads();  // they have been read
    }
    if (threadIdx.x == 0) *total = result;
}

void sum(Tensor total, Tensor x, Stream& stream) {
    const int64_t n = x.numel();
    if (n == 0) return;
    auto add_up = [&](auto stored) {
        using T = decltype(stored);
        launch(sum_units_kernel<T>, dim3(1), dim3(threads_for(div_ceil(n, sum_unit) * warp_size, sum_warps * warp_size)), 0, stream,
               total.as<double>(), x.as<T>(), n);
    };
    if (x.dtype == Dtype::f64) return add_up(double{});
    dispatch_stored(x.dtype, add_up);
}

void sum_squares(Tensor total, Tensor x, Stream& stream) {
    const int64_t n = x.numel(), most = stream.workspace_bytes() / size_of(Dtype::f64);  // blocks of one launch
    ENSURE(most > 0);
    dispatch_stored(x.dtype, [&](auto stored) {
        using T = decltype(stored);
        const bool packed = pointers_aligned({x});
        for (int64_t first = 0; first < n; first += most * reduce_block) {
            const int64_t size = n - first < most * reduce_block ? n - first : most * reduce_block, blocks = div_ceil(size, reduce_block);
            double* partials = static_cast<double*>(stream.workspace(blocks * size_of(Dtype::f64)));
            launch(packed ? sum_squares_kernel<T, true> : sum_squares_kernel<T, false>, grid_of(blocks), dim3(reduce_threads), 0, stream,
                   partials, x.as<T>() + first, size);
            launch(sum_partials_kernel, dim3(1), dim3(threads_for(blocks, 1024)), 0, stream, total.as<double>(), partials, blocks);
        }
    });
}

}  // namespace traincu::gpu
