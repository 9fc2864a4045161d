// Matrix product, step 5: a ring of tiles.
//
// Step 4 waits for memory, computes, waits for memory. cp.async copies 16 bytes from global to shared memory while the thread goes on,
// without a stop in registers. With three places for tiles, one is being used while the next two are on their way; after a step the places
// move on by one. cp_async_wait<1>() waits until all but the newest group of copies of this thread have arrived. One barrier a step is
// enough: it says that everybody's copies for this step are there, and that everybody is done with the step before, whose place is filled
// next.
//
// The padding of step 4 is gone: 16-byte chunk q of row r lies at place q ^ (r / 2 % 4) of its row (a "swizzle"). Eight rows of 64 bytes
// fill all banks four times; with the chunks so moved, the eight that ldmatrix wants lie in different ones, and the ring needs a fifth less
// memory.
//
// From here to kernels/matmul.cu: tiles of 128x128, rows that do not divide evenly, transposes by ldmatrix, whole rows written at once.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int ring_tile = 64, ring_depth = 32, ring_stages = 3, ring_threads = 128;
constexpr int ring_size = ring_tile * ring_depth;  // numbers of a tile

__device__ inline int ring_place(int row, int depth) { return row * ring_depth + ((depth / 8) ^ (row / 2 % 4)) * 8; }

__device__ inline void start_ring_tile(bf16* tile, const bf16* from, int64_t first, int64_t k, int64_t K) {
    constexpr int packs = ring_depth / Pack<bf16>::size;
    for (int i = static_cast<int>(threadIdx.x); i < ring_tile * packs; i += ring_threads) {
        const int row = i / packs, depth = i % packs * Pack<bf16>::size;
        cp_async16(tile + ring_place(row, depth), from + (first + row) * K + k + depth, true);
    }
}

__global__ void __launch_bounds__(ring_threads) matmul_ring_kernel(bf16* c, const bf16* a, const bf16* b, int64_t N, int64_t K) {
    bf16(&a_ring)[ring_stages * ring_size] = shared_array<bf16, ring_stages * ring_size, 0>();
    bf16(&b_ring)[ring_stages * ring_size] = shared_array<bf16, ring_stages * ring_size, 1>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t first_m = int64_t{blockIdx.y} * ring_tile, first_n = int64_t{blockIdx.x} * ring_tile, steps = K / ring_depth;
    const int m0 = warp / 2 * 32, n0 = warp % 2 * 32;
    const int a_row = lane % 16, a_col = lane / 16 * 8, b_row = lane % 8 + lane / 16 * 8, b_col = lane / 8 % 2 * 8;
    auto start = [&](int64_t step) {
        if (step < steps) {
            start_ring_tile(a_ring + step % ring_stages * ring_size, a, first_m, step * ring_depth, K);
            start_ring_tile(b_ring + step % ring_stages * ring_size, b, first_n, step * ring_depth, K);
        }
        cp_async_commit();  // a group a step, be it empty: so that the count of groups tells the step
    };
    float sums[2][4][4] = {};
    start(0);
    start(1);
    for (int64_t step = 0; step < steps; step++) {
        cp_async_wait<ring_stages - 2>();
        __syncthreads();
        start(step + ring_stages - 1);
        const bf16 *a_tile = a_ring + step % ring_stages * ring_size, *b_tile = b_ring + step % ring_stages * ring_size;
#pragma unroll
        for (int depth = 0; depth < ring_depth; depth += 16) {
            uint32_t a_part[2][4], b_part[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                ldmatrix_x4(a_part[i], a_tile + ring_place(m0 + i * 16 + a_row, depth + a_col));
                ldmatrix_x4(b_part[i], b_tile + ring_place(n0 + i * 16 + b_row, depth + b_col));
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mma_m16n8k16<bf16>(sums[i][j], a_part[i], {b_part[j / 2][j % 2 * 2], b_part[j / 2][j % 2 * 2 + 1]});
        }
    }
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

void matmul_ring(Tensor c, Tensor a, Tensor b, Stream& stream) {
    const int64_t M = c.rows(), N = c.cols(), K = a.cols();
    ENSURE(M % ring_tile == 0 && N % ring_tile == 0 && K % ring_depth == 0);
    launch(matmul_ring_kernel, dim3(static_cast<unsigned>(N / ring_tile), static_cast<unsigned>(M / ring_tile)), dim3(ring_threads), 0,
           stream, c.as<bf16>(), a.as<bf16>(), b.as<bf16>(), N, K);
}

}  // namespace traincu::gpu::ladder
