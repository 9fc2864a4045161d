// What every .cu file includes: launch(), and small named wrappers over the instructions that CUDA C++ has no syntax for.
//
// The same files are compiled twice. nvcc makes code for the GPU. g++ makes code that the SIMT runner (tests/simt) executes on the CPU, with one
// fiber for each CUDA thread; there <cuda_runtime.h> is the runner's, and so are the wrappers below. Therefore:
//   - kernels are launched by launch(), never by <<<>>>; shared memory is asked for by shared<T>() and shared_array<T, n, tag>(), never by
//     __shared__; 16-byte accesses go through load16() and store16(); PTX stands in this file (and hopper.h) alone;
//   - kernels are no members of anonymous namespaces (the runner finds their names);
//   - plain CUDA C++ otherwise: threadIdx, __syncthreads(), __shfl_xor_sync(), atomicAdd(), fmaf(), ...
#pragma once

#include <cuda_runtime.h>

#include "src/base/dtype.h"
#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu::gpu {
// Up to 48 KiB of shared memory a block has without asking, its static arrays included, and these are 16 KiB at most: with more dynamic
// shared memory than this launch() asks.
constexpr int64_t shared_asked_from = 32 * 1024;
}  // namespace traincu::gpu

#ifdef __CUDACC__
#include "kernels/launch_cuda.h"
#else
#include "tests/simt/launch_simt.h"
#endif
#include "kernels/warp.h"

// For both, written with what the two above declare:
//
//   launch(kernel, grid, block, shared_bytes, stream, args...)   puts a kernel in line; Error(hardware) with its name if it cannot start
//   T* shared<T>()                      the dynamic shared memory of the block, shared_bytes of launch(), 16-byte aligned (1024 on Hopper)
//   T (&shared_array<T, n, tag>())[n]   a static array in shared memory; `tag` tells two of the same type and size apart
//   Pack<T> load16(const T*), load16_streaming(const T*), void store16(T*, Pack<T>), store16_streaming    16 bytes, aligned; Pack<T> is an array
//                                       of 16 / sizeof(T) elements, .size and operator[]; streaming: not worth keeping in the caches
//   float to_float(bf16, f16 or float), T from_float<T>(float)   rounded to the nearest, to the even one of two
//   uint32_t pack_bf16x2(float low, float high)
//   float warp_sum(float), warp_max(float)                       all lanes get the result; a fixed tree
//   float block_sum(float), block_max(float)                     all threads get the result; blockDim.x a multiple of 32, at most 1024; a fixed tree
//   void ldmatrix_x4(uint32_t (&r)[4], const void* row), ldmatrix_x4_trans       `row`: of this lane, 16 bytes in shared memory
//   void mma_m16n8k16<bf16|f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])     d += a b, f32 sums
//   void cp_async16(void* shared, const void* global, bool valid)    16 bytes from global to shared memory; zeros where !valid
//   void cp_async_commit(), cp_async_wait<n>()                        wait until at most n of this thread's groups are under way
