// Initial weights: normal(0, 0.02) for matrices and tables, 1/sqrt(2L) of that for the two projections onto the residual stream (GPT-2),
// ones for gains, zeros for biases and for what is given from outside. A value depends on (seed, row of the table, element) only.
#pragma once

#include "src/base/tensor.h"
#include "src/model/params.h"

namespace traincu {

void init_weights(Tensor flat_weights, const ParamTable& table, uint64_t seed);

}  // namespace traincu
