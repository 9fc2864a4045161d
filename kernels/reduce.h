// Sums over whole tensors, in a fixed order.
//
//   sum          total += sum of x[i]
//   sum_squares  total += sum of x[i]^2
//
// Blocks of 4096 elements of the flat index are summed on their own; then the blocks' sums are added in ascending order. On the CPU a block
// is summed in double and in 16 interleaved parts; on the GPU each of 256 threads adds its 16 elements, and the threads' sums form a fixed
// tree. Independent of threads, and of the GPU.
//
// Shapes: x of any shape, contiguous, of f32, bf16 (GPU) or f64 (CPU); total (1) f64, added to: the caller zeroes it. It stays where the
// stream computes, so that nobody waits for it.
// Bytes per element: s, its size. FLOPs per element: 1 and 2.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void sum(Tensor total, Tensor x, Stream& stream);
void sum_squares(Tensor total, Tensor x, Stream& stream);

namespace gpu {
TRAINCU_GPU void sum(Tensor total, Tensor x, Stream& stream);
TRAINCU_GPU void sum_squares(Tensor total, Tensor x, Stream& stream);
}  // namespace gpu

}  // namespace traincu
