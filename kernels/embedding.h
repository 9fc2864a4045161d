// Embedding: the first operation of the model.
//
//   out[t,:] = wte[token[t],:] + wpe[position[t],:]
//
// Backward:
//   dwte[token[t],:] += dout[t,:],   dwpe[position[t],:] += dout[t,:]
// Each row of dwte sums its tokens in ascending t, so the result depends on neither threads nor timing.
//
// Shapes: tokens (T) i32, positions (T) i32, wte (Vp,C), wpe (maxT,C) or absent (rotary positions), out (T,C).
// Every token must be a row of wte and every position one of wpe: the loader has checked that, and it is checked here again.
// Saved for backward: nothing but the tokens and positions.
// Bytes per token, s = size of an element: forward 2sC (3sC with wpe), backward 3sC (5sC).
// FLOPs per token: forward 0 (C with wpe), backward C (2C).
// Source: the learned position table is GPT-2's, Radford et al. 2019.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream& stream);

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Stream& stream);

}  // namespace traincu
