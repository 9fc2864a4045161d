#include "kernels/add.h"

namespace traincu {
namespace cpu {
namespace {

template <class T>
void add(T* to, const T* from, int64_t n) {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

}  // namespace
}  // namespace cpu

void add(Tensor to, Tensor from, Stream& stream) {
    ENSURE(to.contiguous() && from.contiguous() && to.numel() == from.numel() && to.dtype == from.dtype);
    if (to.numel() == 0) return;
    if (stream.on_gpu()) return gpu::add(to, from, stream);
    dispatch_real(to.dtype, [&](auto real) {
        using T = decltype(real);
        cpu::add(to.as<T>(), from.as<T>(), to.numel());
    });
}

}  // namespace traincu
