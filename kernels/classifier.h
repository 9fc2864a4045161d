// The fused classifier: cross-entropy loss and, in place of the logits, their gradient.
//
//   lse  = log sum over v < V of exp(logits[v])
//   loss = weight * (lse - logits[target] + z_loss * lse^2)
//
// Backward, in the same call:
//   logits[v] <- loss_scale * weight * (p[v] (1 + 2 z_loss lse) - [v = target]),   p[v] = exp(logits[v] - lse)
//
// Shapes: logits (N,Vp), overwritten if write_gradient; targets (N) i32 in [-1,V); weights (N) f32, the loss weight of each token;
// losses (N) of the statistics' type (statistics_of(), src/base/dtype.h). A target of -1 is ignored: its loss is 0 and its gradient row is
// zero, as is every row of weight 0, even if its logits are not finite. Columns [V,Vp) are padding: they take no part in the sums and their
// gradient is zero. losses are unscaled; loss_scale is usually 1 / (loss tokens of the whole optimizer step). The caller hands in a chunk
// of rows at a time, so the whole (T,V) matrix never exists. Saved for backward: nothing, the gradient is there already. Bytes per row, s =
// size of an element: 2sVp (sV without gradient); passes after the first find the row in a cache. FLOPs per row: ~25V, of which the
// exponentials are 21V. Source: z-loss, PaLM, Chowdhery et al. 2022.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

struct ClassifierParams {
    int64_t vocab_size = 0;  // V, without padding
    double loss_scale = 1.0;
    double z_loss = 0.0;
    bool write_gradient = false;  // else logits are left as they are
};

void classifier(Tensor losses, Tensor logits, Tensor targets, Tensor weights, const ClassifierParams& params, Stream& stream);

namespace gpu {
TRAINCU_GPU void classifier(Tensor losses, Tensor logits, Tensor targets, Tensor weights, const ClassifierParams& params, Stream& stream);
}

}  // namespace traincu
