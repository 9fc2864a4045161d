// How a step of optimization is divided: rows, micro-batches, and at the upper levels of --determinism units and logical workers.
#pragma once

#include "src/config/options.h"

namespace traincu {

// At --determinism batch and ranks sums over tokens go by units of this many, whatever a micro-batch is, and a tied head's gradients are
// summed apart.
constexpr int unit_tokens = 256;
// At --determinism ranks a step is shared out to this many workers, whatever the number of ranks (src/parallel/gradient_tree.h).
constexpr int logical_workers = 8;

inline bool sums_by_units(const Options& o) { return o.determinism == "batch" || o.determinism == "ranks"; }

// --total-batch-tokens in whole rows, one micro-batch if it was not given; a micro-batch is never more than a step. Error(usage), also
// where units or workers do not divide them.
void resolve_batch(Options& options);

}  // namespace traincu
