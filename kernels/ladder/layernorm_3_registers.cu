// Layernorm, step 3: the row stays in registers, and an access is 16 bytes.
//
// Two ideas, which need each other. Step 2 reads the row three times; a lane's share of it, C / 32 numbers, fits into registers, so memory
// is asked once. And a lane asks for 16 bytes, 8 numbers: the fewest instructions for the most bytes under way. All loads are issued before
// the first is used. How many bytes are under way, over the time that memory takes to answer, is the rate that a kernel can reach.
//
// Registers have no addresses: an array lives there only if every index is known when compiling. Therefore the number of packs is a
// template's parameter, and the loops over them are unrolled.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int rows_of_block = 4;

// packs: of 8 columns, at most, that a lane holds.
template <int packs>
__global__ void __launch_bounds__(rows_of_block* warp_size)
    layernorm_registers_kernel(bf16* out, const bf16* inp, const bf16* weight, const bf16* bias, float eps, int64_t N, int C) {
    constexpr int width = Pack<bf16>::size;
    const int64_t n = int64_t{blockIdx.x} * rows_of_block + threadIdx.x / warp_size;
    const int first = static_cast<int>(threadIdx.x) % warp_size * width, step = warp_size * width;  // columns of this lane's packs
    if (n >= N) return;
    Pack<bf16> x[packs];
#pragma unroll
    for (int p = 0; p < packs; p++)
        if (first + p * step < C) x[p] = load16_streaming(inp + n * C + first + p * step);
    float mean = 0, variance = 0;
#pragma unroll
    for (int p = 0; p < packs; p++)
        if (first + p * step < C)
            for (int i = 0; i < width; i++) mean += to_float(x[p][i]);
    mean = warp_sum(mean) / static_cast<float>(C);
#pragma unroll
    for (int p = 0; p < packs; p++)
        if (first + p * step < C)
            for (int i = 0; i < width; i++) variance += (to_float(x[p][i]) - mean) * (to_float(x[p][i]) - mean);
    const float rstd = rsqrtf(warp_sum(variance) / static_cast<float>(C) + eps);
#pragma unroll
    for (int p = 0; p < packs; p++) {
        const int c = first + p * step;
        if (c >= C) continue;
        const Pack<bf16> w = load16(weight + c), b = load16(bias + c);  // the same for all rows: they stay in the caches
        Pack<bf16> y;
        for (int i = 0; i < width; i++) y[i] = from_float<bf16>((to_float(x[p][i]) - mean) * rstd * to_float(w[i]) + to_float(b[i]));
        store16(out + n * C + c, y);
    }
}

void layernorm_registers(Tensor out, Tensor inp, Tensor weight, Tensor bias, float eps, Stream& stream) {
    const int64_t N = inp.rows(), C = inp.cols();
    ENSURE(C % 8 == 0 && C <= 2048);
    auto kernel = C <= 512 ? layernorm_registers_kernel<2> : C <= 1024 ? layernorm_registers_kernel<4> : layernorm_registers_kernel<8>;
    launch(kernel, dim3(static_cast<unsigned>(div_ceil(N, rows_of_block))), dim3(rows_of_block * warp_size), 0, stream, out.as<bf16>(),
           inp.as<bf16>(), weight.as<bf16>(), bias.as<bf16>(), eps, N, static_cast<int>(C));
}

}  // namespace traincu::gpu::ladder
