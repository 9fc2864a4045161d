#include "kernels/copy.h"

#include <algorithm>
#include <cstring>

#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

template <class To, class From>
void convert_rows(const Tensor& to, const Tensor& from) {
    const int64_t rows = to.rows(), cols = to.cols();
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < rows; n++) {
        To* y = to.as<To>() + n * to.row_stride;
        const From* x = from.as<From>() + n * from.row_stride;
#pragma omp simd
        for (int64_t c = 0; c < cols; c++) y[c] = stored<To>(static_cast<Real<To>>(widened(x[c])));
    }
}

}  // namespace
}  // namespace cpu

void zero(Tensor x, Stream& stream) {
    if (x.numel() == 0) return;
    if (stream.on_gpu()) return gpu::zero(x, stream);
    if (x.contiguous()) {
        std::memset(x.data, 0, static_cast<size_t>(x.bytes()));
        return;
    }
    for (int64_t n = 0; n < x.rows(); n++) {
        const Tensor row = x.slice_rows(n, 1);
        std::memset(row.data, 0, static_cast<size_t>(row.bytes()));
    }
}

void copy(Tensor to, Tensor from, Stream& stream) {
    ENSURE(to.rows() == from.rows() && to.cols() == from.cols());
    if (to.numel() == 0) return;
    if (stream.on_gpu()) return gpu::copy(to, from, stream);
    if (to.dtype != from.dtype) {
        if (is_16_bit(to.dtype)) {
            ENSURE(from.dtype == Dtype::f32);
            return cpu::dispatch_stored(to.dtype, [&]<class To>(To) { cpu::convert_rows<To, float>(to, from); });
        }
        ENSURE(to.dtype == Dtype::f64 || (to.dtype == Dtype::f32 && is_16_bit(from.dtype)));
        return cpu::dispatch_stored(from.dtype, [&]<class From>(From) {
            to.dtype == Dtype::f64 ? cpu::convert_rows<double, From>(to, from) : cpu::convert_rows<float, From>(to, from);
        });
    }
    for (int64_t n = 0; n < to.rows(); n++) {
        const Tensor row = to.slice_rows(n, 1);
        std::memcpy(row.data, from.slice_rows(n, 1).data, static_cast<size_t>(row.bytes()));
    }
}

}  // namespace traincu
