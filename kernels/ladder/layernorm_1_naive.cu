// Layernorm, step 1: the formula as it is written, a thread a row.
//
// It is right, and slow: at the same moment the 32 threads of a warp read 32 numbers that lie a whole row apart. Memory delivers sectors of
// 32 bytes, of which each thread wants 2; what it wants next lies in the same sector, but 31 other rows may have driven that out of the
// cache.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

__global__ void layernorm_naive_kernel(bf16* out, const bf16* inp, const bf16* weight, const bf16* bias, float eps, int64_t N, int64_t C) {
    const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (n >= N) return;
    const bf16* x = inp + n * C;
    float mean = 0, variance = 0;
    for (int64_t c = 0; c < C; c++) mean += to_float(x[c]);
    mean /= static_cast<float>(C);
    for (int64_t c = 0; c < C; c++) variance += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
    const float rstd = rsqrtf(variance / static_cast<float>(C) + eps);
    for (int64_t c = 0; c < C; c++)
        out[n * C + c] = from_float<bf16>((to_float(x[c]) - mean) * rstd * to_float(weight[c]) + to_float(bias[c]));
}

void layernorm_naive(Tensor out, Tensor inp, Tensor weight, Tensor bias, float eps, Stream& stream) {
    const int64_t N = inp.rows(), C = inp.cols(), threads = 128;
    launch(layernorm_naive_kernel, dim3(static_cast<unsigned>(div_ceil(N, threads))), dim3(threads), 0, stream, out.as<bf16>(),
           inp.as<bf16>(), weight.as<bf16>(), bias.as<bf16>(), eps, N, C);
}

}  // namespace traincu::gpu::ladder
