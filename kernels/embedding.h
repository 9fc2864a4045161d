// Embedding: the first operation of the model.
//
//   out[t,:] = wte[token[t],:] + wpe[position[t],:]
//
// Backward:
//   dwte[token[t],:] += dout[t,:],   dwpe[position[t],:] += dout[t,:]
// Each row of dwte sums its tokens in ascending t, so the result depends on neither threads nor timing.
//
// Shapes: tokens (T) i32, positions (T) i32, wte (Vp,C), wpe (maxT,C) or absent (rotary positions), out (T,C). wte and wpe are of any
// stored type, each of its own (f32, bf16, f16; on a CPU f64), and added in f32 (f64) before the sum is rounded to out's. dwte, dwpe have
// the gradients' type (statistics_of(), src/base/dtype.h). token_order (T) i32: the rows t sorted by token[t], equal ones ascending;
// position_order likewise (absent without wpe). The GPU finds in them, without a search, what adds up to one row; the host sorts, since it
// has the tokens. Every token must be a row of wte and every position one of wpe: whoever loads a batch checks that (sorted_order(), and on
// the CPU it is checked here again). Saved for backward: nothing but the tokens and positions. Bytes per token, s = size of an element:
// forward 2sC (3sC with wpe), backward 3sC (5sC). FLOPs per token: forward 0 (C with wpe), backward C (2C). Source: the learned position
// table is GPT-2's, Radford et al. 2019.
#pragma once

#include <span>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream& stream);

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Tensor token_order, Tensor position_order,
                        Stream& stream);

// The order above: order[k] is the index of the k-th smallest id, equal ids ascending. Counting sort. ENSUREs that ids lie in [0, rows).
void sorted_order(std::span<int32_t> order, std::span<const int32_t> ids, int64_t rows);

namespace gpu {
TRAINCU_GPU void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream& stream);
TRAINCU_GPU void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Tensor token_order,
                                    Tensor position_order, Stream& stream);
}  // namespace gpu

}  // namespace traincu
