// The optimizer: global gradient norm, guard, clipping, and AdamW over the parameter table. Nothing in a step waits for the host.
#pragma once

#include "kernels/adamw.h"
#include "src/base/arena.h"
#include "src/device/transfer.h"
#include "src/model/params.h"

namespace traincu {

class Optimizer {
public:
    // weights: the type that the model computes with. Where it is bf16, the optimizer keeps master weights in f32, and updates both.
    // moments: f32 (f64 beside f64 weights) or bf16. hyper: everything but lr; weight decay applies to the rows that decay.
    // Declares its tensors in the arena; usable after that was allocated and bind() was called.
    Optimizer(const ParamTable& table, Dtype weights, const AdamwParams& hyper, Arena& arena, Dtype moments = Dtype::f32);
    void bind(const Stream& stream);

    // Norm, guard, clip, and if the guard accepts one AdamW step on all rows. loss_sum: (1) f64, see GuardParams::loss_scale.
    void step(Tensor flat_weights, Tensor flat_gradients, Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream);

    // The weights that are updated and saved: the masters, or where there are none the model's own.
    Tensor master(Tensor flat_weights) const { return master_ ? master_ : flat_weights; }
    // The model's weights become the masters', rounded: after the masters were filled.
    void publish_master(Tensor flat_weights, Stream& stream) const;

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
    const ParamTable& table_;
    AdamwParams hyper_;
    Tensor master_, m_, v_;
    Tensor guard_state_;
    Tensor grad_squares_;  // (1) f64
    Tensor ranges_;        // (R,2) i64: what decays
    std::vector<int64_t> host_ranges_;
};

}  // namespace traincu
