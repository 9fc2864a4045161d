// Attention on the GPU: which kernels compute it (kernels/attention_gpu.h lists them), and the backward's first pass.
//
//   first pass   one warp per (row, head): D = dout . out
#include "kernels/attention_gpu.h"

namespace traincu::gpu {

constexpr int attention_pass_threads = 256;

template <class T>
__global__ void __launch_bounds__(attention_pass_threads)
    attention_first_pass_kernel(float* D, AttentionHeads<const T> dout, AttentionHeads<const T> out, int64_t pairs, int NH, int HS) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t at = int64_t{blockIdx.x} * (attention_pass_threads / warp_size) + threadIdx.x / warp_size;  // row and head
    if (at >= pairs) return;
    const T *x = dout.row(at / NH, at % NH, HS), *y = out.row(at / NH, at % NH, HS);
    float sum = 0;
    for (int d = lane; d < HS; d += warp_size) sum = fmaf(to_float(x[d]), to_float(y[d]), sum);
    sum = warp_sum(sum);
    if (lane == 0) D[at] = sum;
}

void attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments, const AttentionParams& params,
                       Stream& stream) {
    if (in.q.rows() == 0) return;
    simple_attention_forward(out, lse, in, segments, params, stream);
}

void attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                        const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params, Stream& stream) {
    if (in.q.rows() == 0) return;
    const int64_t NH = in.q.shape[1], HS = in.q.shape[2], pairs = in.q.rows() * NH;
    auto first_pass = [&]<class T>(T) {
        launch(attention_first_pass_kernel<T>, dim3(static_cast<unsigned>(div_ceil(pairs, attention_pass_threads / warp_size))),
               dim3(attention_pass_threads), 0, stream, scratch.delta.as<float>(), attention_heads<const T>(dout),
               attention_heads<const T>(out), pairs, static_cast<int>(NH), static_cast<int>(HS));
    };
    if (in.q.dtype == Dtype::bf16)
        first_pass(bf16{});
    else
        first_pass(float{});
    simple_attention_backward(d, dout, lse, in, scratch, segments, params, stream);
}

}  // namespace traincu::gpu
