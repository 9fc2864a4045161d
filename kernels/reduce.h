// Sums over whole tensors, in a fixed order.
//
//   sum(x) = sum of x[i],   sum_squares(x) = sum of x[i]^2
//
// Each block of 4096 elements of the flat index is summed on its own, in double and in 16 interleaved parts that are then added; then the
// blocks' sums are added in ascending order. Independent of threads.
// Shapes: x of any shape, contiguous. Bytes per element: s, its size.
// FLOPs per element: 1 and 2.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

double sum(Tensor x, Stream& stream);
double sum_squares(Tensor x, Stream& stream);

}  // namespace traincu
