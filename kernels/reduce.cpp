#include "kernels/reduce.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

constexpr int64_t lanes = 16;

// The sum of term(x[i]) over one block. Sixteen sums side by side, in the source and not left to the compiler:
// the same bits whatever the width of the machine's vectors.
template <class S, class Term>
double sum_block(const S* x, int64_t size, Term term) {
    double sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) {
#pragma omp simd
        for (int64_t l = 0; l < lanes; l++) sums[l] += term(static_cast<double>(widened(x[i + l])));
    }
    for (; i < size; i++) sums[i % lanes] += term(static_cast<double>(widened(x[i])));
    return std::accumulate(sums, sums + lanes, 0.0);
}

// total += block after block.
template <class S, class Term>
void add_blocks(double& total, const S* x, int64_t size, int64_t block_size, Term term) {
    const int64_t blocks = div_ceil(size, block_size);
    std::vector<double> partial(static_cast<size_t>(blocks));
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        partial[static_cast<size_t>(b)] = sum_block(x + b * block_size, std::min(block_size, size - b * block_size), term);
    total = std::accumulate(partial.begin(), partial.end(), total);
}

template <class Term>
void add_terms(const Tensor& total, const Tensor& x, int64_t block_size, Term term) {
    dispatch_activations(x.dtype, [&]<class S>(S) { add_blocks(*total.as<double>(), x.as<S>(), x.numel(), block_size, term); });
}

}  // namespace
}  // namespace cpu

void sum(Tensor total, Tensor x, Stream& stream) {
    ENSURE(x.contiguous() && total.is({1}));
    if (stream.on_gpu()) return gpu::sum(total, x, stream);
    cpu::add_terms(total, x, 256, [](double value) { return value; });
}

void sum_squares(Tensor total, Tensor x, Stream& stream) {
    ENSURE(x.contiguous() && total.is({1}));
    if (stream.on_gpu()) return gpu::sum_squares(total, x, stream);
    cpu::add_terms(total, x, 4096, [](double value) { return value * value; });
}

}  // namespace traincu
