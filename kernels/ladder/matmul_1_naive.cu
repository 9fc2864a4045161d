// Matrix product, step 1: a thread an element of c.
//
// Per multiply-add (2 FLOPs) a thread reads two numbers. The caches help: the threads of a row of the block read the same row of a. But the
// 16 threads beside each other read 16 rows of b, each at its own place, and the load unit must fetch all of them for 16 multiply-adds.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

__global__ void matmul_naive_kernel(bf16* c, const bf16* a, const bf16* b, int64_t M, int64_t N, int64_t K) {
    const int64_t m = int64_t{blockIdx.y} * blockDim.y + threadIdx.y, n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (m >= M || n >= N) return;
    float sum = 0;
    for (int64_t k = 0; k < K; k++) sum = fmaf(to_float(a[m * K + k]), to_float(b[n * K + k]), sum);
    c[m * N + n] = from_float<bf16>(sum);
}

void matmul_naive(Tensor c, Tensor a, Tensor b, Stream& stream) {
    const int64_t M = c.rows(), N = c.cols(), K = a.cols(), tile = 16;
    launch(matmul_naive_kernel, dim3(static_cast<unsigned>(div_ceil(N, tile)), static_cast<unsigned>(div_ceil(M, tile))), dim3(tile, tile),
           0, stream, c.as<bf16>(), a.as<bf16>(), b.as<bf16>(), M, N, K);
}

}  // namespace traincu::gpu::ladder
