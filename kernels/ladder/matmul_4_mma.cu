// Matrix product, step 4: tensor cores.
//
// One instruction, mma.sync, multiplies a 16x16 tile of bf16 by a 16x8 one and adds to 16x8 sums in f32: 4,096 FLOPs for a warp, where fmaf
// does 64. The whole warp holds the tiles: which lane holds which element is fixed by the hardware (kernels/launch_cuda.h draws it), and
// ldmatrix reads four 8x8 tiles from shared memory in just that distribution, each lane naming the address of one row.
//
// A block of 4 warps makes 64x64, a warp 32x32 of it: per 16 of K two tiles of a and four of b, for eight instructions.
//
// The eight rows of a tile that ldmatrix reads at once must lie in different banks. A row here is 32 numbers, 64 bytes; with 8 more as
// padding row r begins at bank 20 r, and 20 r % 32 is different for eight rows in a row, in steps of the 4 banks that 16 bytes fill.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int mma_tile = 64, mma_depth = 32, mma_pitch = mma_depth + 8, mma_threads = 128;

// tile [row][k] = rows [first, first + 64) of a matrix (rows,K), columns [k, k + 32): 256 packs of 16 bytes.
__device__ inline void load_mma_tile(bf16* tile, const bf16* from, int64_t first, int64_t k, int64_t K) {
    constexpr int packs = mma_depth / Pack<bf16>::size;
    for (int i = static_cast<int>(threadIdx.x); i < mma_tile * packs; i += mma_threads) {
        const int row = i / packs, depth = i % packs * Pack<bf16>::size;
        store16(tile + row * mma_pitch + depth, load16(from + (first + row) * K + k + depth));
    }
}

__global__ void __launch_bounds__(mma_threads) matmul_mma_kernel(bf16* c, const bf16* a, const bf16* b, int64_t N, int64_t K) {
    constexpr int size = mma_tile * mma_pitch;
    bf16(&a_tile)[size] = shared_array<bf16, size, 0>();
    bf16(&b_tile)[size] = shared_array<bf16, size, 1>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t first_m = int64_t{blockIdx.y} * mma_tile, first_n = int64_t{blockIdx.x} * mma_tile;
    const int m0 = warp / 2 * 32, n0 = warp % 2 * 32;  // of this warp's 32x32
    // The row and column that this lane names to ldmatrix, in 16x16 of a: tiles (0,0) (8,0) (0,8) (8,8); of b: (0,0) (0,8) (8,0) (8,8).
    const int a_row = lane % 16, a_col = lane / 16 * 8, b_row = lane % 8 + lane / 16 * 8, b_col = lane / 8 % 2 * 8;
    float sums[2][4][4] = {};
    for (int64_t k = 0; k < K; k += mma_depth) {
        load_mma_tile(a_tile, a, first_m, k, K);
        load_mma_tile(b_tile, b, first_n, k, K);
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < mma_depth; depth += 16) {
            uint32_t a_part[2][4], b_part[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                ldmatrix_x4(a_part[i], a_tile + (m0 + i * 16 + a_row) * mma_pitch + depth + a_col);
                ldmatrix_x4(b_part[i], b_tile + (n0 + i * 16 + b_row) * mma_pitch + depth + b_col);
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mma_m16n8k16<bf16>(sums[i][j], a_part[i], {b_part[j / 2][j % 2 * 2], b_part[j / 2][j % 2 * 2 + 1]});
        }
        __syncthreads();
    }
    // A lane holds two neighbours in rows lane / 4 and lane / 4 + 8 of each 16x8.
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int64_t m = first_m + m0 + i * 16 + half * 8 + lane / 4, n = first_n + n0 + j * 8 + lane % 4 * 2;
                *reinterpret_cast<uint32_t*>(c + m * N + n) = pack_bf16x2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
}

void matmul_mma(Tensor c, Tensor a, Tensor b, Stream& stream) {
    const int64_t M = c.rows(), N = c.cols(), K = a.cols();
    ENSURE(M % mma_tile == 0 && N % mma_tile == 0 && K % mma_depth == 0);
    launch(matmul_mma_kernel, dim3(static_cast<unsigned>(N / mma_tile), static_cast<unsigned>(M / mma_tile)), dim3(mma_threads), 0, stream,
           c.as<bf16>(), a.as<bf16>(), b.as<bf16>(), N, K);
}

}  // namespace traincu::gpu::ladder
