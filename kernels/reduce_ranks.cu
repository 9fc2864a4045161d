// Sums over ranks on the GPU: a thread takes 16 bytes of every block, in the order of ranks, and adds them in registers (bf16 in f32).
//
// Bytes per element: s (R + 1). Floor: these over the memory's speed; 8 ranks' blocks of 32 MB in all at 4.3 TB/s: 9 us. Fraction: not
// measured.
#include "kernels/reduce_ranks.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr int reduce_ranks_threads = 256;

__device__ inline double widen_term(double x) { return x; }
__device__ inline float widen_term(float x) { return x; }
__device__ inline float widen_term(bf16 x) { return to_float(x); }
template <class T, class Sum>
__device__ T narrow_sum(Sum x) {
    if constexpr (std::is_same_v<T, bf16>)
        return from_float<bf16>(x);
    else
        return x;
}

// packed: all rows begin at a multiple of 16 bytes. The last few, and all where they do not, are taken one by one.
template <class T, bool packed, RankReduction how>
__global__ void __launch_bounds__(reduce_ranks_threads)
    reduce_ranks_kernel(T* out, const T* blocks, int64_t stride, int64_t ranks, int64_t n) {
    using Sum = decltype(widen_term(T{}));
    constexpr int width = Pack<T>::size;
    const int64_t first = (int64_t{blockIdx.x} * reduce_ranks_threads + threadIdx.x) * width;
    const bool whole = packed && first + width <= n;
    Sum result[width] = {};
    for (int64_t r = 0; r < ranks; r++) {
        const T* from = blocks + r * stride + first;
        Pack<T> pack = {};
        if (whole) {
            pack = load16_streaming(from);
        } else {
#pragma unroll
            for (int j = 0; j < width; j++)
                if (first + j < n) pack[j] = from[j];
        }
#pragma unroll
        for (int j = 0; j < width; j++) {
            const Sum value = widen_term(pack[j]);
            if (r == 0)
                result[j] = value;
            else if constexpr (how == RankReduction::sum)
                result[j] += value;
            else
                result[j] = value > result[j] || value != value ? value : result[j];
        }
    }
    Pack<T> pack;
#pragma unroll
    for (int j = 0; j < width; j++) pack[j] = narrow_sum<T>(result[j]);
    if (whole) {
        store16_streaming(out + first, pack);
    } else {
#pragma unroll
        for (int j = 0; j < width; j++)
            if (first + j < n) out[first + j] = pack[j];
    }
}

void reduce_ranks(Tensor out, Tensor blocks, RankReduction how, Stream& stream) {
    const int64_t n = out.numel();
    if (n == 0) return;
    const auto start = [&]<class T, bool packed>(T, std::bool_constant<packed>) {
        launch(how == RankReduction::sum ? reduce_ranks_kernel<T, packed, RankReduction::sum>
                                         : reduce_ranks_kernel<T, packed, RankReduction::largest>,
               grid_of(div_ceil(n, reduce_ranks_threads * int64_t{Pack<T>::size})), dim3(reduce_ranks_threads), 0, stream, out.as<T>(),
               blocks.as<T>(), blocks.row_stride, blocks.rows(), n);
    };
    const auto with_type = [&]<class T>(T) { rows_aligned({out, blocks}) ? start(T{}, std::true_type{}) : start(T{}, std::false_type{}); };
    if (out.dtype == Dtype::f64) return with_type(double{});
    dispatch_stored(out.dtype, with_type);
}

}  // namespace traincu::gpu
