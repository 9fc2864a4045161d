// From logits to the next token: temperature, top-k, top-p (nucleus sampling, Holtzman et al. 2020).
#pragma once

#include <cstdint>

#include "src/base/philox.h"
#include "src/base/tensor.h"

namespace traincu {

struct SamplingOptions {
    double temperature = 1.0;  // 0 = the most probable token
    int64_t top_k = 0;         // keep the k most probable; 0 = all
    double top_p = 1.0;        // of these, the fewest whose probabilities reach p
    int64_t vocab_size = 0;    // only tokens below it, where a tokenizer has fewer than the model; 0 = all
};

// logits: (V), f32 or f64. u: uniform in (0,1).
int32_t sample_token(Tensor logits, const SamplingOptions& options, double u);

}  // namespace traincu
