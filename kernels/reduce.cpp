#include "kernels/reduce.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace traincu {
namespace cpu {
namespace {

constexpr int64_t block_size = 4096, lanes = 16;

// The sum of term(x[i]) over one block. Sixteen sums side by side, in the source and not left to the compiler:
// the same bits whatever the width of the machine's vectors.
template <class T, class Term>
double sum_block(const T* x, int64_t size, Term term) {
    double sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) {
#pragma omp simd
        for (int64_t l = 0; l < lanes; l++) sums[l] += term(static_cast<double>(x[i + l]));
    }
    for (; i < size; i++) sums[i % lanes] += term(static_cast<double>(x[i]));
    return std::accumulate(sums, sums + lanes, 0.0);
}

template <class T, class Term>
double sum_blocks(const T* x, int64_t size, Term term) {
    int64_t blocks = div_ceil(size, block_size);
    std::vector<double> partial(static_cast<size_t>(blocks));
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        partial[static_cast<size_t>(b)] = sum_block(x + b * block_size, std::min(block_size, size - b * block_size), term);
    return std::accumulate(partial.begin(), partial.end(), 0.0);
}

template <class Term>
double sum_terms(const Tensor& x, Term term) {
    double total = 0;
    dispatch_real(x.dtype, [&](auto real) { total = sum_blocks(x.as<decltype(real)>(), x.numel(), term); });
    return total;
}

}  // namespace
}  // namespace cpu

void sum(Tensor total, Tensor x, Stream& stream) {
    ENSURE(x.contiguous() && total.is({1}));
    if (stream.on_gpu()) return gpu::sum(total, x, stream);
    *total.as<double>() += cpu::sum_terms(x, [](double value) { return value; });
}

void sum_squares(Tensor total, Tensor x, Stream& stream) {
    ENSURE(x.contiguous() && total.is({1}));
    if (stream.on_gpu()) return gpu::sum_squares(total, x, stream);
    *total.as<double>() += cpu::sum_terms(x, [](double value) { return value * value; });
}

}  // namespace traincu
