#include "src/parallel/rank_sums.h"

#include <algorithm>

namespace traincu {

namespace {

template <class T>
struct Sums {
    using Sum = T;
    static Sum widen(T x) { return x; }
    static T narrow(Sum x) { return x; }
};
template <>
struct Sums<bf16> {
    using Sum = float;
    static Sum widen(bf16 x) { return bf16_to_float(x.bits); }
    static bf16 narrow(Sum x) { return {float_to_bf16(x)}; }
};

template <class T>
void reduce_blocks(T* out, const std::vector<const std::byte*>& blocks, int64_t n, Reduce how) {
    using Sum = typename Sums<T>::Sum;
    constexpr int64_t piece = 1024;  // of sums, which stay in the first-level cache
#pragma omp parallel for schedule(static) if (n > 16 * piece)
    for (int64_t begin = 0; begin < n; begin += piece) {
        const int64_t count = std::min(piece, n - begin);
        Sum sum[piece];
        for (size_t rank = 0; rank < blocks.size(); rank++) {
            const T* x = reinterpret_cast<const T*>(blocks[rank]) + begin;
            if (rank == 0) {
#pragma omp simd
                for (int64_t i = 0; i < count; i++) sum[i] = Sums<T>::widen(x[i]);
            } else if (how == Reduce::sum) {
#pragma omp simd
                for (int64_t i = 0; i < count; i++) sum[i] += Sums<T>::widen(x[i]);
            } else {
                for (int64_t i = 0; i < count; i++) {
                    const Sum value = Sums<T>::widen(x[i]);
                    if (value > sum[i] || value != value) sum[i] = value;
                }
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < count; i++) out[begin + i] = Sums<T>::narrow(sum[i]);
    }
}

}  // namespace

void reduce_blocks(Dtype dtype, std::byte* out, const std::vector<const std::byte*>& blocks, int64_t bytes, Reduce how) {
    const int64_t n = bytes / size_of(dtype);
    switch (dtype) {
        case Dtype::f32:
            return reduce_blocks(reinterpret_cast<float*>(out), blocks, n, how);
        case Dtype::f64:
            return reduce_blocks(reinterpret_cast<double*>(out), blocks, n, how);
        case Dtype::bf16:
            return reduce_blocks(reinterpret_cast<bf16*>(out), blocks, n, how);
        case Dtype::i32:
            return reduce_blocks(reinterpret_cast<int32_t*>(out), blocks, n, how);
        case Dtype::i64:
            return reduce_blocks(reinterpret_cast<int64_t*>(out), blocks, n, how);
        default:
            ENSURE(!"a type that has no sums");
    }
}

}  // namespace traincu
