// Attention of 16-bit activations on a CPU: f32 copies of what is read, attention of these, and its results rounded to the nearest.
// Bytes, beside attention's own in f32: every tensor read in 16 bits and written in f32, results the other way. The copies are of whole
// tensors, so a generation step copies its whole cache.
#include <memory>

#include "kernels/attention_cpu.h"
#include "kernels/copy.h"
#include "kernels/widened_cpu.h"

namespace traincu::cpu {
namespace {

// f32 tensors of one call.
class Wide {
public:
    explicit Wide(Stream& stream) : stream_(stream) {}

    // Of the shape of `like`; nothing for nothing.
    Tensor empty(const Tensor& like) {
        if (!like) return {};
        Tensor wide = like;
        wide.dtype = Dtype::f32, wide.row_stride = wide.cols();
        memory_.push_back(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(wide.numel())));
        wide.data = memory_.back().get();
        return wide;
    }
    Tensor zeros(const Tensor& like) {
        const Tensor wide = empty(like);
        if (wide) zero(wide, stream_);
        return wide;
    }
    Tensor copy_of(const Tensor& from) {
        const Tensor wide = empty(from);
        if (wide) copy(wide, from, stream_);
        return wide;
    }
    AttentionInputs copy_of(const AttentionInputs& in) {
        AttentionInputs wide = in;  // slopes are f32 already
        for (Tensor* t :
             {&wide.q, &wide.k, &wide.v, &wide.gate, &wide.sinks, &wide.relative, &wide.q_factors, &wide.k_factors, &wide.dense})
            *t = copy_of(*t);
        return wide;
    }

private:
    Stream& stream_;
    std::vector<std::unique_ptr<float[]>> memory_;
};

// to += from, rounded once.
template <class S>
void add_rounded(const Tensor& to, const Tensor& from) {
    const int64_t rows = to.rows(), cols = to.cols();
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < rows; n++) {
        S* x = to.as<S>() + n * to.row_stride;
        const float* y = from.as<float>() + n * cols;
#pragma omp simd
        for (int64_t c = 0; c < cols; c++) x[c] = stored<S>(widened(x[c]) + y[c]);
    }
}

}  // namespace

void widened_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                               const AttentionParams& params, Stream& stream) {
    Wide wide(stream);
    const Tensor wide_out = wide.empty(out);
    traincu::attention_forward(wide_out, lse, wide.copy_of(in), segments, params, stream);
    copy(out, wide_out, stream);
}

void widened_attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                                const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                                Stream& stream) {
    Wide wide(stream);
    AttentionGradients sums = d;  // dsinks and drelative are f32 already
    for (Tensor* t : {&sums.dq, &sums.dgate, &sums.dq_factors}) *t = wide.empty(*t);
    for (Tensor* t : {&sums.dk, &sums.dv, &sums.dk_factors}) *t = wide.zeros(*t);  // their sums over the call
    traincu::attention_backward(sums, wide.copy_of(dout), wide.copy_of(out), lse, wide.copy_of(in), scratch, segments, params, stream);
    const std::pair<Tensor, Tensor> overwritten[] = {{d.dq, sums.dq}, {d.dgate, sums.dgate}, {d.dq_factors, sums.dq_factors}};
    for (const auto& [to, from] : overwritten)
        if (to) copy(to, from, stream);
    const std::pair<Tensor, Tensor> accumulated[] = {{d.dk, sums.dk}, {d.dv, sums.dv}, {d.dk_factors, sums.dk_factors}};
    for (const auto& [to, from] : accumulated)
        if (to) add_rounded<bf16>(to, from);
}

}  // namespace traincu::cpu
