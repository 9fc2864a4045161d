// One array added to another: gradients that were summed apart come together, losses too.
//
//   to[i] += from[i]
//
// Shapes: to, from of one shape and type, contiguous, f32 or f64, no memory in common. Elementwise: the same bits for any split or thread
// count.
// Bytes per element, s its size: 3s. FLOPs per element: 1.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void add(Tensor to, Tensor from, Stream& stream);

namespace gpu {
TRAINCU_GPU void add(Tensor to, Tensor from, Stream& stream);
}

}  // namespace traincu
