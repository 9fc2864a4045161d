// What only Hopper has (sm_90a): tiles that the tensor memory accelerator (TMA) moves, mbarriers that count its bytes, matrix products of
// whole warpgroups (128 threads) that read shared memory themselves (wgmma), and registers that pass from one warpgroup to another.
// Included after launch.h by kernels that use it. As there, nvcc takes one half and the SIMT runner the other; for the other architectures
// of a build the functions exist and trap, since a kernel that calls them is launched on sm_90 only.
//
// Two kinds of access to shared memory do not see each other by themselves: the threads' own loads and stores (generic), and those of TMA
// and wgmma (async). What a thread stored and TMA or wgmma shall read needs fence_proxy_async() by that thread, then a barrier.
//
// One layout: a panel is (rows, 64) of bf16, or (rows, 32) of f32: rows of 128 bytes, beginning at a multiple of 1024 bytes. Within a row
// the eight chunks of 16 bytes are exchanged ("128-byte swizzle"): chunk c of row r lies where chunk c ^ (r % 8) would. Columns of a panel
// are then read without bank conflicts. A matrix of 128 columns is two panels, one behind the other. swizzled() says where an element is.
#pragma once

#include <initializer_list>

#include "kernels/launch.h"

namespace traincu::gpu {

// A tensor in global memory as TMA sees it, with the box that one copy moves. Made by tensor_map() on the host, passed by value as
// `const __grid_constant__ TensorMap map`, and given to the functions below by its address.
struct alignas(128) TensorMap {
    unsigned char bits[128];
};

constexpr int panel_row_bytes = 128;
constexpr int panel_alignment = 1024;

// The byte in a panel of byte `column` of row `row`.
inline __host__ __device__ int swizzled(int row, int column) { return row * panel_row_bytes + (column ^ (row % 8) * 16); }

}  // namespace traincu::gpu

#ifdef __CUDACC__
#include "kernels/hopper_cuda.h"
#else
#include "tests/simt/hopper_simt.h"
#endif

// For both, written with what the two above declare:
//
//   TensorMap tensor_map(const void* memory, Dtype dtype, sizes, byte_strides, box)
//       host. Lists begin with the innermost dimension, 2 or 3 of them; byte_strides leave out the innermost. The box's innermost side is
//       128 bytes, the others at most 256. Memory and strides are multiples of 16 bytes. Elements beyond a size are loaded as 0, not
//       stored.
//
//   void mbarrier_init(uint64_t* barrier, int arrivals)         one thread; then fence_mbarrier_init() by it, then a barrier of the block
//   void fence_mbarrier_init()
//   void mbarrier_arrive(uint64_t* barrier)
//   void mbarrier_arrive_expect(uint64_t* barrier, int bytes)   and the phase is not over before so many bytes have come through TMA
//   void mbarrier_wait(uint64_t* barrier, int parity)           until the phase of this parity is over; the first has parity 0. A barrier
//   on
//                                                               which nothing happened yet counts as having ended a phase of parity 1
//   void tma_load(void* panel, const TensorMap* map, int x, int y, uint64_t* barrier), (..., x, y, z, barrier)        by one thread
//   void tma_store(const TensorMap* map, int x, int y, const void* panel), (map, x, y, z, panel)                      by one thread
//   void tma_store_commit(), tma_store_wait<n>()                until the panels of all but this thread's n last groups have been read
//   void fence_proxy_async()
//
//   uint64_t wgmma_operand(const void* panel, int panel_bytes)  a descriptor of a matrix in panels, so many bytes from one to the next
//   uint64_t wgmma_advance(uint64_t operand, int bytes)         32 for the next 16 columns, 2048 for the next 16 rows
//   void wgmma_m64k16<n, a_transposed, b_transposed>(float (&d)[n/2], uint64_t a, uint64_t b, bool accumulate)       n: 32, 64, ... 256
//   void wgmma_m64k16<n, b_transposed>(float (&d)[n/2], const uint32_t (&a)[4], uint64_t b, bool accumulate)
//       d (64,n) = a (64,16) b (16,n), bf16, f32 sums, added to d if accumulate. In shared memory a is stored (64,16) and b (n,16),
//       transposed (16,64) and (16,n). In registers warp w of the group holds rows 16 w to 16 w + 15 of a as mma_m16n8k16 wants them; d
//       likewise: d[4 j], d[4 j + 1] = (g, 8 j + c), (g, 8 j + c + 1), d[4 j + 2], d[4 j + 3] = (g + 8, ...) with g = lane / 4, c = 2 (lane
//       % 4).
//   void wgmma_fence(d...)          before the first of some wgmma: registers that were touched are ready. All arrays that they use.
//   void wgmma_commit()             ends a group
//   void wgmma_wait<n>(d...)        until at most n groups are under way; d: the arrays that are complete then. Before, nobody may touch
//   them.
//
//   void named_barrier_sync(int id, int threads), named_barrier_arrive(int id, int threads)      id 1 to 15; whole warps
//   float exp2_approximate(float)                                                                one instruction; results below 2^-126 are 0
//   void registers_release<n>(), registers_claim<n>()                                            a warpgroup's registers per thread, a
//   multiple of 8
