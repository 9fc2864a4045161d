// AdamW: the update of weights and moments, one slice of the flat arenas a call.
//
//   g = grad_scale * grad
//   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
//   param <- param - lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay param )
//
// Shapes: param, m, v, grad of equal size, contiguous. Elementwise, so the same bits for any split or thread count.
// step counts the accepted updates from 1. grad_scale carries the clip factor.
// Bytes per parameter, s = size of an element: 7s (four read, three written).
// FLOPs per parameter: ~17.
// Source: Loshchilov, Hutter 2019.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

struct AdamwParams {
    double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
    double grad_scale = 1;
    int64_t step = 1;
};

void adamw_update(Tensor param, Tensor m, Tensor v, Tensor grad, const AdamwParams& params, Stream& stream);

}  // namespace traincu
