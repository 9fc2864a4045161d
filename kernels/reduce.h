// Sums over whole tensors, in a fixed order.
//
//   sum          total += sum of x[i]
//   sum_squares  total += sum of x[i]^2
//
// In double, and independent of the number of threads and of which GPU it is. Both sum blocks of the flat index on their own.
//   sum          blocks of 256, each then added to the total, in ascending order. The losses of a step's tokens have the same sum however
//   they
//                are split into calls, as long as the calls split at multiples of 256 (kernels/norm.h, "Units")
//   sum_squares  blocks of 4096. On the CPU they too are added to the total in ascending order; on the GPU one block of threads adds them,
//                each thread a run of them, and then all at once to the total: a call is one whole
// Within a block the CPU has 16 interleaved sums, the GPU one for each thread and then a fixed tree.
//
// Shapes: x of any shape, contiguous, of f32, bf16 or f64 (sum_squares: on a CPU); total (1) f64, added to: the caller zeroes it. It
// stays where the stream computes, so that nobody waits for it. On the GPU sum is one block of threads' work, which suits the losses of a
// call and nothing longer.
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
