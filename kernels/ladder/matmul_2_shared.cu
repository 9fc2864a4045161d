// Matrix product, step 2: tiles in shared memory.
//
// The one idea: a block of 32x32 threads needs 32 rows of a and 32 rows of b, each 32 times. It fetches a piece of them once, 32 columns of
// K, into memory that the whole block shares, and uses each number 32 times from there. Global memory is asked 32 times less. Two barriers
// a piece: all of it must be there before anybody reads, and read by all before it is overwritten.
//
// A row of the tiles is 33 numbers long, not 32. Shared memory has 32 banks, and number i lies in bank i % 32: threads that walk down a
// column of a 32-wide tile would all queue at one bank.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int shared_tile = 32, shared_pitch = shared_tile + 1;

__global__ void __launch_bounds__(shared_tile* shared_tile)
    matmul_shared_kernel(bf16* c, const bf16* a, const bf16* b, int64_t M, int64_t N, int64_t K) {
    constexpr int size = shared_tile * shared_pitch;
    float(&a_tile)[size] = shared_array<float, size, 0>();  // [m][k]
    float(&b_tile)[size] = shared_array<float, size, 1>();  // [n][k]
    const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
    const int64_t first_m = int64_t{blockIdx.y} * shared_tile, first_n = int64_t{blockIdx.x} * shared_tile;
    float sum = 0;
    for (int64_t k = 0; k < K; k += shared_tile) {
        // Thread (y, x) brings one number of each: neighbours in x bring neighbours in memory.
        a_tile[y * shared_pitch + x] = first_m + y < M && k + x < K ? to_float(a[(first_m + y) * K + k + x]) : 0.0f;
        b_tile[y * shared_pitch + x] = first_n + y < N && k + x < K ? to_float(b[(first_n + y) * K + k + x]) : 0.0f;
        __syncthreads();
        for (int i = 0; i < shared_tile; i++) sum = fmaf(a_tile[y * shared_pitch + i], b_tile[x * shared_pitch + i], sum);
        __syncthreads();
    }
    if (first_m + y < M && first_n + x < N) c[(first_m + y) * N + first_n + x] = from_float<bf16>(sum);
}

void matmul_shared(Tensor c, Tensor a, Tensor b, Stream& stream) {
    const int64_t M = c.rows(), N = c.cols(), K = a.cols(), tile = shared_tile;
    launch(matmul_shared_kernel, dim3(static_cast<unsigned>(div_ceil(N, tile)), static_cast<unsigned>(div_ceil(M, tile))),
           dim3(shared_tile, shared_tile), 0, stream, c.as<bf16>(), a.as<bf16>(), b.as<bf16>(), M, N, K);
}

}  // namespace traincu::gpu::ladder
