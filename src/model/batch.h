// The one batch shape: packed. A micro-batch is a row of T tokens with, for each, its position, target and loss weight, and a table of
// segments that says which tokens may see which. A (B,T) batch of fixed windows is B equal segments; documents are segments.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "src/base/tensor.h"

namespace traincu {

struct MicroBatch {
    std::vector<int32_t> tokens;      // (T) ids in [0, V)
    std::vector<int32_t> targets;     // (T) the next token, or -1: no loss here
    std::vector<int32_t> positions;   // (T) position within the document (or window)
    std::vector<float> loss_weights;  // (T) 1, or 0 for padding
    std::vector<Segment> segments;    // cover [0,T) exactly once

    int64_t T() const { return static_cast<int64_t>(tokens.size()); }
    void clear() { tokens.clear(), targets.clear(), positions.clear(), loss_weights.clear(), segments.clear(); }
};

// All the tokens of one optimizer step. Which documents make up step k depends on the seed, the lengths and the total number of
// tokens only; the split into micro-batches does not change it.
struct StepBatch {
    std::vector<MicroBatch> micro_batches;
    int64_t loss_tokens = 0;  // number of targets that are not -1, known before the first backward
    int64_t tokens = 0;       // tokens processed
};

// 1 / (loss tokens of the step): what makes a sum of losses their mean.
inline double loss_scale(const StepBatch& batch) { return 1.0 / static_cast<double>(batch.loss_tokens > 0 ? batch.loss_tokens : 1); }

}  // namespace traincu
