// The optimizer: global gradient norm, guard, clipping, and AdamW over the parameter table. Nothing in a step waits for the host.
#pragma once

#include "kernels/adamw.h"
#include "src/base/arena.h"
#include "src/device/transfer.h"
#include "src/model/weights.h"

namespace traincu {

class Optimizer {
public:
    // door: its weights and gradients. Keeps beside its 16-bit weights what the door's precision says (src/config/precision.h).
    // moments: f32 (f64 beside f64 activations) or bf16. hyper: everything but lr; weight decay applies to the rows that decay.
    // Declares its tensors in the arena; usable after that was allocated and bind() was called.
    Optimizer(WeightDoor& door, const AdamwParams& hyper, Arena& arena, Dtype moments = Dtype::f32);
    void bind(const Stream& stream);

    // Norm, guard, clip, and if the guard accepts one AdamW step on all rows. loss_sum: (1) f64, see GuardParams::loss_scale.
    void step(Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream);

    Tensor kept() const { return kept_; }                // (kept_size) f32 masters or i16 lower halves; absent where nothing is kept
    Tensor m() const { return m_; }                      // (flat_size)
    Tensor v() const { return v_; }                      // (flat_size)
    Tensor guard_state() const { return guard_state_; }  // a GuardState; its adam_steps is AdamW's own counter
    GuardState read_guard(const Stream& stream) const {  // the host waits for it
        GuardState state;
        stream.download(&state, guard_state_);
        return state;
    }
    void write_guard(const GuardState& state, const Stream& stream) { stream.upload(guard_state_, &state); }

private:
    WeightDoor& door_;
    AdamwParams hyper_;
    Tensor kept_, m_, v_;
    Tensor guard_state_;
    Tensor grad_squares_;  // (1) f64
    Tensor ranges_;        // (R,5) i64
    std::vector<WeightRange> host_ranges_;
};

}  // namespace traincu
