// The optimizer: global gradient norm, clipping, and AdamW over the parameter table.
#pragma once

#include "kernels/adamw.h"
#include "src/base/arena.h"
#include "src/model/params.h"

namespace traincu {

class Optimizer {
public:
    // hyper: everything but lr, grad_scale and step, which update() gets; weight decay applies to the rows that decay.
    Optimizer(const ParamTable& table, Dtype dtype, const AdamwParams& hyper, Arena& arena);

    // Euclidean norm of all gradients.
    static double global_norm(Tensor flat_gradients, Stream& stream);
    // The factor that brings a norm down to the limit; 1 below it or for limit 0.
    static double clip_factor(double norm, double limit) { return limit > 0 && norm > limit ? limit / norm : 1.0; }

    // One AdamW step on all rows. grad_scale is the clip factor.
    void update(Tensor flat_weights, Tensor flat_gradients, double lr, double grad_scale, Stream& stream);

    Tensor m() const { return m_; }  // (flat_size)
    Tensor v() const { return v_; }
    int64_t steps() const { return steps_; }  // accepted updates so far: AdamW's own counter
    void set_steps(int64_t steps) { steps_ = steps; }

private:
    const ParamTable& table_;
    AdamwParams hyper_;
    Tensor m_, v_;
    int64_t steps_ = 0;
};

}  // namespace traincu
