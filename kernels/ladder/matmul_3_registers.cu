// Matrix product, step 3: a tile in the registers of a thread.
//
// Step 2 reads two numbers from shared memory for each multiply-add, and shared memory delivers 32 numbers a clock where the processor
// could multiply 128. The same idea once more, one floor up: a thread makes 8x8 elements. Per k it reads 8 + 8 numbers and does 64
// multiply-adds, 4 for each number. This is step 2 of the tiles (block) and of the registers (thread) in one: the way of all fast products.
//
// The tiles are stored with k as the row, so that a thread's 8 numbers lie together and are read 16 bytes at a time.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int block_tile = 128, thread_tile = 8, tile_depth = 8, tile_threads = 256;  // 16x16 threads
constexpr int tile_pitch = block_tile + 4;                                            // rows begin 4 banks apart

// tile [k][row] = rows [first, first + 128) of a matrix (rows,K), columns [k, k + 8); zeros beyond.
__device__ inline void load_tile(float* tile, const bf16* from, int64_t first, int64_t rows, int64_t k, int64_t K) {
    for (int i = static_cast<int>(threadIdx.x); i < block_tile * tile_depth; i += tile_threads) {
        const int row = i / tile_depth, depth = i % tile_depth;
        tile[depth * tile_pitch + row] = first + row < rows && k + depth < K ? to_float(from[(first + row) * K + k + depth]) : 0.0f;
    }
}
// 8 numbers of a row of a tile, 4 here and 4 of its other half: threads that are neighbours read 16 bytes that are.
__device__ inline void load_eight(float (&eight)[thread_tile], const float* row, int thread) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const Pack<float> four = load16(row + half * block_tile / 2 + 4 * thread);
#pragma unroll
        for (int i = 0; i < 4; i++) eight[half * 4 + i] = four[i];
    }
}

__global__ void __launch_bounds__(tile_threads)
    matmul_registers_kernel(bf16* c, const bf16* a, const bf16* b, int64_t M, int64_t N, int64_t K) {
    constexpr int size = tile_depth * tile_pitch;
    float(&a_tile)[size] = shared_array<float, size, 0>();
    float(&b_tile)[size] = shared_array<float, size, 1>();
    const int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
    const int64_t first_m = int64_t{blockIdx.y} * block_tile, first_n = int64_t{blockIdx.x} * block_tile;
    float sums[thread_tile][thread_tile] = {};
    for (int64_t k = 0; k < K; k += tile_depth) {
        load_tile(a_tile, a, first_m, M, k, K);
        load_tile(b_tile, b, first_n, N, k, K);
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < tile_depth; depth++) {
            float a_part[thread_tile], b_part[thread_tile];
            load_eight(a_part, a_tile + depth * tile_pitch, y);
            load_eight(b_part, b_tile + depth * tile_pitch, x);
#pragma unroll
            for (int i = 0; i < thread_tile; i++)
#pragma unroll
                for (int j = 0; j < thread_tile; j++) sums[i][j] = fmaf(a_part[i], b_part[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < thread_tile; i++)
#pragma unroll
        for (int j = 0; j < thread_tile; j++) {
            const int64_t m = first_m + i / 4 * block_tile / 2 + 4 * y + i % 4, n = first_n + j / 4 * block_tile / 2 + 4 * x + j % 4;
            if (m < M && n < N) c[m * N + n] = from_float<bf16>(sums[i][j]);
        }
}

void matmul_registers(Tensor c, Tensor a, Tensor b, Stream& stream) {
    const int64_t M = c.rows(), N = c.cols(), K = a.cols(), tile = block_tile;
    launch(matmul_registers_kernel, dim3(static_cast<unsigned>(div_ceil(N, tile)), static_cast<unsigned>(div_ceil(M, tile))),
           dim3(tile_threads), 0, stream, c.as<bf16>(), a.as<bf16>(), b.as<bf16>(), M, N, K);
}

}  // namespace traincu::gpu::ladder
