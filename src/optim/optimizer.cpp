#include "src/optim/optimizer.h"

#include <cmath>

#include "kernels/reduce.h"

namespace traincu {

Optimizer::Optimizer(const ParamTable& table, Dtype dtype, const AdamwParams& hyper, Arena& arena) : table_(table), hyper_(hyper) {
    arena.add(m_, "adam_m", dtype, {table.flat_size});
    arena.add(v_, "adam_v", dtype, {table.flat_size});
}

double Optimizer::global_norm(Tensor flat_gradients, Stream& stream) {
    return std::sqrt(sum_squares(flat_gradients, stream));  // the gaps between rows are zero
}

void Optimizer::update(Tensor weights, Tensor gradients, double lr, double grad_scale, Stream& stream) {
    steps_++;
    for (const ParamRow& row : table_.rows) {
        AdamwParams params = hyper_;
        params.lr = lr, params.grad_scale = grad_scale, params.step = steps_;
        if (!row.decays) params.weight_decay = 0;
        auto slice = [&](Tensor flat) { return flat.slice_rows(row.offset, row.numel()); };
        adamw_update(slice(weights), slice(m_), slice(v_), slice(gradients), params, stream);
    }
}

}  // namespace traincu
