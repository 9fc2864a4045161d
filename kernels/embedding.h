// Embedding: the first operation of the model.
//
//   out[t,:] = wte[token[t],:] + wpe[position[t],:]
//
// Shapes: tokens (T) i32, positions (T) i32, wte (Vp,C), wpe (maxT,C) or absent (rotary positions), out (T,C).
// Backward: dwte[token[t],:] += dout[t,:], and the same for dwpe. Each row of dwte sums its tokens in ascending t, so the
// result depends on neither threads nor timing. Nothing is saved for backward but the tokens and positions.
// Bytes per token, s = size of an element: forward 2sC (3sC with wpe), backward about 2sC. FLOPs per token: 0 (C with wpe), C (2C).
// Every token must be a row of wte and every position one of wpe: the loader has checked that, and it is checked here again.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream& stream);

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Stream& stream);

}  // namespace traincu
