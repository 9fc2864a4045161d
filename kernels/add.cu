// One array added to another on the GPU: a thread takes two packs of 16 bytes of each and reads all four before it adds.
//
// Bytes per element: 3 times its size. Floor: these over the memory's speed; 0.6 G gradients of f32 at 4.3 TB/s: 1.7 ms. Fraction: not
// measured.
#include "kernels/add.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr int add_threads = 256, add_in_flight = 2;

// packed: both begin at a multiple of 16 bytes. The last few, and all where they do not, are added one by one.
template <class T, bool packed>
__global__ void __launch_bounds__(add_threads) add_kernel(T* to, const T* from, int64_t n) {
    constexpr int width = Pack<T>::size;
    const int64_t first = (int64_t{blockIdx.x} * add_in_flight * add_threads + threadIdx.x) * width;
    constexpr int64_t step = int64_t{add_threads} * width;
    Pack<T> a[add_in_flight] = {}, b[add_in_flight] = {};
#pragma unroll
    for (int k = 0; k < add_in_flight; k++) {
        const int64_t i = first + k * step;
        if (packed && i + width <= n) {
            a[k] = load16_streaming(to + i), b[k] = load16_streaming(from + i);
        } else {
#pragma unroll
            for (int j = 0; j < width; j++)
                if (i + j < n) a[k][j] = to[i + j], b[k][j] = from[i + j];
        }
    }
#pragma unroll
    for (int k = 0; k < add_in_flight; k++) {
        const int64_t i = first + k * step;
#pragma unroll
        for (int j = 0; j < width; j++) a[k][j] += b[k][j];
        if (packed && i + width <= n) {
            store16_streaming(to + i, a[k]);
        } else {
#pragma unroll
            for (int j = 0; j < width; j++)
                if (i + j < n) to[i + j] = a[k][j];
        }
    }
}

void add(Tensor to, Tensor from, Stream& stream) {
    const int64_t n = to.numel();
    auto with_type = [&]<class T>(T) {
        launch(pointers_aligned({to, from}) ? add_kernel<T, true> : add_kernel<T, false>,
               grid_of(div_ceil(n, add_in_flight * add_threads * int64_t{Pack<T>::size})), dim3(add_threads), 0, stream, to.as<T>(),
               from.as<T>(), n);
    };
    if (to.dtype == Dtype::f64) return with_type(double{});
    ENSURE(to.dtype == Dtype::f32);
    with_type(float{});
}

}  // namespace traincu::gpu
