// AdamW: the update of all weights and moments, over the flat arenas.
//
//   g = clip * grad
//   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
//   param <- param - lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay param )
//   copy <- param, rounded
// step = adam_steps and clip are the guard's (kernels/guard.h); where its verdict is not `accepted`, nothing is touched.
//
// Shapes: param (n) f32 (the master weights; f64 on the CPU for checks), grad (n) of the same type, m, v (n) of that type or, on the GPU,
// both bf16; copy (n) bf16 or absent: the weights that the model computes with, where these are not the masters. ranges (R,2) i64: of the
// elements up to ranges[i][0], from the range before, weight_decay applies if ranges[i][1] is 1. They ascend by multiples of 16 and end at
// n. bf16 moments are rounded stochastically: 16 random bits are added below the last place and the rest is cut off. The bits are a
// function of (seed, step, index), so the result depends on nothing else. Elementwise: the same bits for any split or thread count. Bytes
// per parameter: 28 in f32 (four read, three written), 2 more for the copy; 20 with bf16 moments. FLOPs per parameter: ~17. Source:
// Loshchilov, Hutter 2019.
#pragma once

#include "kernels/guard.h"
#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

struct AdamwParams {
    double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
    uint64_t seed = 0;  // of the stochastic rounding
};

void adamw_update(Tensor param, Tensor copy, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state, const AdamwParams& params,
                  Stream& stream);

namespace gpu {
TRAINCU_GPU void adamw_update(Tensor param, Tensor copy, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state,
                              const AdamwParams& params, Stream& stream);
}

}  // namespace traincu
