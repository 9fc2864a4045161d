// The feed-forward network's activations: GELU (in its tanh form, as GPT-2) and SwiGLU.
//
//   gelu      out = 0.5 x (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3)
//   swiglu    out = silu(gate) * up,      silu(x) = x s(x),  s(x) = 1 / (1 + e^-x)
//
// Backward:
//   gelu      dinp  = dout * (s(2u) + x s(2u) (1 - s(2u)) 2u'),  u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)     (0.5 (1 + tanh(u)) = s(2u))
//   swiglu    dgate = dout * up * (s(gate) + gate s(gate) (1 - s(gate))),  dup = dout * silu(gate)
//
// Shapes: gelu: inp, out (N,F). swiglu: gate_up (N,2F), gate in columns [0,F), up in [F,2F); out (N,F). dinp and dgate_up may be the
// same memory as the input they belong to; dinp, as well the same as dout.
// Saved for backward: the input.
// Bytes per element of out, s = size of an element: gelu 2s forward, 3s backward; swiglu 3s and 5s.
// FLOPs per element: gelu ~30 and ~40, swiglu ~25 and ~30, of which the exponential is 21.
// Source: GELU, Hendrycks, Gimpel 2016; SwiGLU, Shazeer 2020.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void gelu_forward(Tensor out, Tensor inp, Stream& stream);
void gelu_backward(Tensor dinp, Tensor dout, Tensor inp, Stream& stream);

void swiglu_forward(Tensor out, Tensor gate_up, Stream& stream);
void swiglu_backward(Tensor dgate_up, Tensor dout, Tensor gate_up, Stream& stream);

namespace gpu {
TRAINCU_GPU void gelu_forward(Tensor out, Tensor inp, Stream& stream);
TRAINCU_GPU void gelu_backward(Tensor dinp, Tensor dout, Tensor inp, Stream& stream);
TRAINCU_GPU void swiglu_forward(Tensor out, Tensor gate_up, Stream& stream);
TRAINCU_GPU void swiglu_backward(Tensor dgate_up, Tensor dout, Tensor gate_up, Stream& stream);
}  // namespace gpu

}  // namespace traincu
