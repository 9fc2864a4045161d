// The guard between the gradients and the weights: an update whose loss or gradient norm is not finite never reaches weights or moments,
// and one that lies far above the recent ones is skipped. It is an operation, so that the decision stays where the stream computes: AdamW
// reads it there (kernels/adamw.h), and the host learns of it later.
//
//   loss = loss_scale * loss_sum,  norm = sqrt(grad_squares)
//   z(x, window) = (x - mean(window)) / deviation(window)          over the last 128 accepted steps; 0 before there are as many
//   accepted if loss and norm are finite, and (zscore_limit = 0, or z(loss) and z(norm) are at most zscore_limit)
//   clip = grad_clip / norm if grad_clip > 0 and norm > grad_clip, else 1
//
// After more than 8 skips in a row these are no spikes but a new level: the windows start anew. An accepted step joins the windows and
// advances adam_steps.
//
// Shapes: state: a GuardState as a tensor (guard_state_shape); loss_sum, grad_squares (1) f64.
// One thread's work on the GPU: 256 numbers, in the order of the CPU.
#pragma once

#include <cstdint>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

enum class Verdict : int64_t { accepted, loss_not_finite, norm_not_finite, loss_spike, norm_spike };

// Every member is 8 bytes long. As a tensor: (guard_state_size) f64.
struct GuardState {
    static constexpr int64_t window = 128;
    static constexpr int64_t level_shift = 8;        // more skips in a row than this are a new level
    double losses[window] = {}, norms[window] = {};  // of accepted steps, the oldest first
    int64_t filled = 0;
    int64_t skipped = 0, consecutive_skips = 0, consecutive_nonfinite = 0;
    int64_t adam_steps = 0;  // accepted updates: AdamW's own counter
    // of the last step
    Verdict verdict = Verdict::accepted;
    double loss = 0, norm = 0;
    double z = 0;  // of a spike
    double clip = 1;
    int64_t overflows = 0;  // weights that left the range of the 16-bit type they are stored in (kernels/adamw.h)
};
constexpr int64_t guard_state_size = sizeof(GuardState) / sizeof(double);

// The state behind a tensor in the host's memory.
inline GuardState& guard_state_of(const Tensor& state) { return *reinterpret_cast<GuardState*>(state.as<double>()); }

struct GuardParams {
    double loss_scale = 1;    // 1 / (loss tokens of the step)
    double zscore_limit = 0;  // 0: never
    double grad_clip = 0;     // 0: never
};

void guard_step(Tensor state, Tensor loss_sum, Tensor grad_squares, const GuardParams& params, Stream& stream);

namespace gpu {
TRAINCU_GPU void guard_step(Tensor state, Tensor loss_sum, Tensor grad_squares, const GuardParams& params, Stream& stream);
}

}  // namespace traincu
