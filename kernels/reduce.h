// Sums over whole tensors, in a fixed order.
//
//   sum(x), sum_squares(x): each block of 4096 elements of the flat index is summed on its own, in double and in 16 interleaved parts
//   that are then added; then the blocks' sums are added in ascending order. Independent of threads. Any shape; bytes: one read of x.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

double sum(Tensor x, Stream& stream);
double sum_squares(Tensor x, Stream& stream);

}  // namespace traincu
