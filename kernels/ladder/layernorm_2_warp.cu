// Layernorm, step 2: a warp a row.
//
// The one idea: threads that run together should read what lies together. Lane l takes columns l, l + 32, ...: each access of the warp is
// 64 bytes in a row, two whole sectors. The price is that a row's sum is now spread over 32 threads: warp_sum() adds them in five shuffles.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int warps_of_block = 4;

__global__ void __launch_bounds__(warps_of_block* warp_size)
    layernorm_warp_kernel(bf16* out, const bf16* inp, const bf16* weight, const bf16* bias, float eps, int64_t N, int64_t C) {
    const int64_t n = int64_t{blockIdx.x} * warps_of_block + threadIdx.x / warp_size;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    if (n >= N) return;  // the whole warp: nobody waits for it
    const bf16* x = inp + n * C;
    float mean = 0, variance = 0;
    for (int64_t c = lane; c < C; c += warp_size) mean += to_float(x[c]);
    mean = warp_sum(mean) / static_cast<float>(C);
    for (int64_t c = lane; c < C; c += warp_size) variance += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
    const float rstd = rsqrtf(warp_sum(variance) / static_cast<float>(C) + eps);
    for (int64_t c = lane; c < C; c += warp_size)
        out[n * C + c] = from_float<bf16>((to_float(x[c]) - mean) * rstd * to_float(weight[c]) + to_float(bias[c]));
}

void layernorm_warp(Tensor out, Tensor inp, Tensor weight, Tensor bias, float eps, Stream& stream) {
    const int64_t N = inp.rows(), C = inp.cols();
    launch(layernorm_warp_kernel, dim3(static_cast<unsigned>(div_ceil(N, warps_of_block))), dim3(warps_of_block * warp_size), 0, stream,
           out.as<bf16>(), inp.as<bf16>(), weight.as<bf16>(), bias.as<bf16>(), eps, N, C);
}

}  // namespace traincu::gpu::ladder
