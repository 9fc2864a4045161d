#include "kernels/reduce_ranks.h"

#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

template <class S>
void reduce_ranks(S* out, const Tensor& blocks, RankReduction how) {
    const int64_t ranks = blocks.rows(), n = blocks.cols();
#pragma omp parallel for schedule(static) if (n > 16384)
    for (int64_t i = 0; i < n; i++) {
        const S* x = blocks.as<S>() + i;
        auto result = widened(*x);
        for (int64_t r = 1; r < ranks; r++) {
            x += blocks.row_stride;
            const auto value = widened(*x);
            if (how == RankReduction::sum)
                result += value;
            else if (value > result || value != value)
                result = value;
        }
        out[i] = stored<S>(result);
    }
}

}  // namespace
}  // namespace cpu

void reduce_ranks(Tensor out, Tensor blocks, RankReduction how, Stream& stream) {
    ENSURE(blocks.rank == 2 && blocks.rows() > 0 && out.is({blocks.cols()}) && out.contiguous() && out.dtype == blocks.dtype);
    if (stream.on_gpu()) return gpu::reduce_ranks(out, blocks, how, stream);
    cpu::dispatch_activations(out.dtype, [&]<class S>(S) { cpu::reduce_ranks(out.as<S>(), blocks, how); });
}

}  // namespace traincu
