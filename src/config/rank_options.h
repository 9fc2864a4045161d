// What ranks send to one another, and which combinations of that make no sense.
#pragma once

#include <cstdint>

#include "src/config/options.h"

namespace traincu {

// What of the sums of gradients and of new weights is sent in few bits (kernels/quantize.h).
struct CommQuant {
    enum class Weights { none, int8, int4, diff4 };
    enum class Grads { none, int4, int8, two_level, two_level_hadamard };

    Weights weights = Weights::none;
    Grads grads = Grads::none;
    int64_t weights_group = 2048, grads_group = 128;
    uint64_t seed = 0;  // of stochastic rounding
};

// --comm-quant becomes --quant-weights and --quant-grads, where these are auto. Error(usage) where options of ranks do not go together,
// with the nearest that do.
void resolve_rank_options(Options& options);

CommQuant comm_quant(const Options& options);  // of resolved options

}  // namespace traincu
