// Sums over whole tensors on the GPU: a block of 256 threads takes 4096 elements, 16 a thread, in double; then one block adds the blocks'
// sums, each thread a run of them in ascending order, and the threads in a tree.
//
// Bytes per element: its size, and 8 / 4096 written and read again. Floor: these over the memory's speed; 0.6 G gradients of f32 at 4.3
// TB/s: 0.55 ms. Fraction: not measured.
#include "kernels/reduce.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr int reduce_threads = 256, reduce_block = 4096;

// partials[b] = sum of x[i] or x[i]^2 over elements 4096 b + [0,4096) below n. Which thread adds what does not depend on `packed`.
template <class T, bool squares, bool packed>
__global__ void __launch_bounds__(reduce_threads) sum_blocks_kernel(double* partials, const T* x, int64_t n) {
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
            sum += squares ? value * value : value;
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

template <bool squares>
void add_terms(const Tensor& total, const Tensor& x, Stream& stream) {
    const int64_t n = x.numel(), most = stream.workspace_bytes() / size_of(Dtype::f64);  // blocks of one launch
    ENSURE(most > 0);
    dispatch_stored(x.dtype, [&](auto stored) {
        using T = decltype(stored);
        const bool packed = pointers_aligned({x});
        for (int64_t first = 0; first < n; first += most * reduce_block) {
            const int64_t size = n - first < most * reduce_block ? n - first : most * reduce_block, blocks = div_ceil(size, reduce_block);
            double* partials = static_cast<double*>(stream.workspace(blocks * size_of(Dtype::f64)));
            launch(packed ? sum_blocks_kernel<T, squares, true> : sum_blocks_kernel<T, squares, false>, grid_of(blocks),
                   dim3(reduce_threads), 0, stream, partials, x.as<T>() + first, size);
            launch(sum_partials_kernel, dim3(1), dim3(threads_for(blocks, 1024)), 0, stream, total.as<double>(), partials, blocks);
        }
    });
}

void sum(Tensor total, Tensor x, Stream& stream) { add_terms<false>(total, x, stream); }
void sum_squares(Tensor total, Tensor x, Stream& stream) { add_terms<true>(total, x, stream); }

}  // namespace traincu::gpu
