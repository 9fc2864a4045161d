// Sums over whole tensors, in a fixed order.
//
//   sum          total += sum of x[i]
//   sum_squares  total += sum of x[i]^2
//
// Blocks of 4096 elements of the flat index are summed on their own, in double; then their sums are added. On the CPU a block is summed in 16
// interleaved parts, and the blocks in ascending order; on the GPU each of 256 threads adds 16 elements, one block of threads adds the blocks' sums,
// and both end in a fixed tree. Independent of the number of threads, and of which GPU it is.
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
