// Moving numbers: clearing, copying rows, changing the type.
//
//   zero       x = 0
//   copy       to = from, rounded to the nearest (even) where `to` is bf16 and `from` f32
//
// Shapes: to, from (N,C) or of any equal shape; both may be strided views (rows further apart than they are long). Types equal, or f32 and
// bf16 either way (GPU; on the CPU too, since checkpoints need it).
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
