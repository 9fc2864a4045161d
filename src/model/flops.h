// Floating-point operations of the model, for MFU and plans.
#pragma once

#include "src/model/params.h"

namespace traincu {

// Weights that take part in matrix products, once per token: all matrices and the LM head (tied or not), no tables, no vectors.
int64_t matmul_weights(const ModelConfig& config);

// FLOPs of one training token: forward 2, backward 4 per weight, and causal attention 6 * NH*(HS+R) * T per layer, R the rank of a bias of
// factors (PaLM's convention halved for the causal mask).
double training_flops_per_token(const ModelConfig& config, int64_t seq_len);

}  // namespace traincu
