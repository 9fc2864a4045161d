#include "kernels/copy.h"

#include <algorithm>
#include <cstring>

namespace traincu {
namespace cpu {
namespace {

template <class To, class From, class Convert>
void convert_rows(const Tensor& to, const Tensor& from, Convert convert) {
    const int64_t rows = to.rows(), cols = to.cols();
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < rows; n++) {
        To* y = to.as<To>() + n * to.row_stride;
        const From* x = from.as<From>() + n * from.row_stride;
        for (int64_t c = 0; c < cols; c++) y[c] = convert(x[c]);
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
    if (to.dtype == Dtype::bf16 && from.dtype == Dtype::f32)
        return cpu::convert_rows<bf16, float>(to, from, [](float x) { return bf16{float_to_bf16(x)}; });
    if (to.dtype == Dtype::f32 && from.dtype == Dtype::bf16)
        return cpu::convert_rows<float, bf16>(to, from, [](bf16 x) { return bf16_to_float(x.bits); });
    ENSURE(to.dtype == from.dtype);
    for (int64_t n = 0; n < to.rows(); n++) {
        const Tensor row = to.slice_rows(n, 1);
        std::memcpy(row.data, from.slice_rows(n, 1).data, static_cast<size_t>(row.bytes()));
    }
}

}  // namespace traincu
