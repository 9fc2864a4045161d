// The feed-forward network's activations.
//
//   gelu (Hendrycks, Gimpel 2016; tanh form, as GPT-2):  out = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
//   swiglu (Shazeer 2020):                               out = silu(gate) * up,   silu(x) = x / (1 + e^-x)
//
// Shapes: gelu: inp, out (N,F). swiglu: gate_up (N,2F), gate in columns [0,F), up in [F,2F); out (N,F).
// Saved for backward: the input. dinp and dgate_up may be the same memory as the input they belong to.
// Bytes per element of out, s = size of an element: gelu 2s forward, 3s backward; swiglu 3s and 5s. FLOPs ~15, ~25 (an exponential each).
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void gelu_forward(Tensor out, Tensor inp, Stream& stream);
void gelu_backward(Tensor dinp, Tensor dout, Tensor inp, Stream& stream);

void swiglu_forward(Tensor out, Tensor gate_up, Stream& stream);
void swiglu_backward(Tensor dgate_up, Tensor dout, Tensor gate_up, Stream& stream);

}  // namespace traincu
