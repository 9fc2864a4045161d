// Normalisation of the residual stream, with the residual addition that precedes it.
//
//   residual  = inp + branch                                  (only where a branch is given)
//   layernorm   out = (residual - mean) * rstd * weight + bias
//   rmsnorm     out = residual * rstd * weight
//   mean = average of the row;  rstd = 1 / sqrt(average of (residual - mean)^2 + eps)   (mean = 0 for rmsnorm)
//
// Backward, with xhat = (x - mean) * rstd and g = dout * weight:
//   dinp    = dresidual + rstd * (g - average(g) - xhat * average(g * xhat))      (no average(g) term for rmsnorm)
//   dweight += sum over rows of dout * xhat,   dbias += sum over rows of dout
// `dresidual` is the gradient that reaches x on the residual path (absent: zero); dinp may be the same memory. The value of
// dinp is also the gradient of the branch. The sums over rows are folded unit by unit (see below).
//
// Shapes: inp, branch, residual, out, dinp, ... (N,C); weight, bias (C); mean, rstd (N), dweight, dbias (C) of the statistics' type
// (statistics_of(), src/base/dtype.h). An absent branch means residual = inp, and
// `residual` is not written; otherwise it may be the same memory as inp or branch. Absent mean selects rmsnorm; absent bias is
// no bias. Statistics are two-pass, in f32 (f64), of the
// residual as it is stored.
// Saved for backward: residual (the x above), mean, rstd.
// Bytes per row, s = size of an element: forward 2sC (4sC with branch), backward 3sC (4sC with dresidual).
// FLOPs per row: ~8C forward, ~18C backward.
// Source: LayerNorm, Ba, Kiros, Hinton 2016; RMSNorm, Zhang, Sennrich 2019.
//
// Units. Operations that sum over tokens take `unit_rows`: rows [0,unit), [unit,2 unit), ... are each summed on their own and
// then added to the result in ascending order (0: all rows are one unit). The same tokens then give the same bits however they are split
// into calls, as long as the calls split at multiples of the unit, and whatever the number of threads.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void norm_forward(Tensor residual, Tensor out, Tensor mean, Tensor rstd, Tensor inp, Tensor branch, Tensor weight, Tensor bias, double eps,
                  Stream& stream);

void norm_backward(Tensor dinp, Tensor dweight, Tensor dbias, Tensor dout, Tensor dresidual, Tensor inp, Tensor mean, Tensor rstd,
                   Tensor weight, int64_t unit_rows, Stream& stream);

namespace gpu {
TRAINCU_GPU void norm_forward(Tensor residual, Tensor out, Tensor mean, Tensor rstd, Tensor inp, Tensor branch, Tensor weight, Tensor bias,
                              double eps, Stream& stream);
TRAINCU_GPU void norm_backward(Tensor dinp, Tensor dweight, Tensor dbias, Tensor dout, Tensor dresidual, Tensor inp, Tensor mean,
                               Tensor rstd, Tensor weight, int64_t unit_rows, Stream& stream);
}  // namespace gpu

}  // namespace traincu
