// Moving numbers: clearing, copying rows, changing the type.
//
//   zero       x = 0
//   copy       to = from, rounded to the nearest (even) where `to` is narrower
//
// Shapes: to, from (N,C) or of any equal shape; both may be strided views (rows further apart than they are long). Types equal, or f32 and
// a 16-bit type (bf16, f16) either way; on a CPU also from a 16-bit type or f32 to f64.
// Bytes per element: its sizes. No FLOPs.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void zero(Tensor x, Stream& stream);
void copy(Tensor to, Tensor from, Stream& stream);

namespace gpu {
TRAINCU_GPU void zero(Tensor x, Stream& stream);
TRAINCU_GPU void copy(Tensor to, Tensor from, Stream& stream);
}  // namespace gpu

}  // namespace traincu
