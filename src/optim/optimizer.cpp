#include "src/optim/optimizer.h"

#include "kernels/copy.h"
#include "kernels/reduce.h"

namespace traincu {

Optimizer::Optimizer(const ParamTable& table, Dtype weights, const AdamwParams& hyper, Arena& arena, Dtype moments)
    : table_(table), hyper_(hyper) {
    const Dtype master = statistics_of(weights), type = moments == Dtype::bf16 ? moments : master;
    // Rows that follow one another and decay alike are one range; it takes in the gap behind the row, where all is zero and stays so.
    for (size_t r = 0; r < table.rows.size(); r++) {
        const int64_t end = r + 1 < table.rows.size() ? table.rows[r + 1].offset : table.flat_size, decays = table.rows[r].decays;
        if (!host_ranges_.empty() && host_ranges_.back() == decays)
            host_ranges_[host_ranges_.size() - 2] = end;
        else
            host_ranges_.insert(host_ranges_.end(), {end, decays});
    }
    if (master != weights) arena.add(master_, "master_weights", master, {table.flat_size});
    arena.add(m_, "adam_m", type, {table.flat_size});
    arena.add(v_, "adam_v", type, {table.flat_size});
    arena.add(guard_state_, "guard_state", Dtype::f64, {guard_state_size});
    arena.add(grad_squares_, "grad_squares", Dtype::f64, {1});
    arena.add(ranges_, "decay_ranges", Dtype::i64, {static_cast<int64_t>(host_ranges_.size() / 2), 2});
}

void Optimizer::bind(const Stream& stream) {
    stream.upload(ranges_, host_ranges_.data());
    write_guard({}, stream);
}

void Optimizer::publish_master(Tensor flat_weights, Stream& stream) const {
    if (master_) copy(flat_weights, master_, stream);
}

void Optimizer::step(Tensor weights, Tensor gradients, Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream) {
    zero(grad_squares_, stream);
    sum_squares(grad_squares_, gradients, stream);  // the gaps between rows are zero
    guard_step(guard_state_, loss_sum, grad_squares_, guard, stream);
    AdamwParams params = hyper_;
    params.lr = lr;
    adamw_update(master(weights), master_ ? weights : Tensor(), m_, v_, gradients, ranges_, guard_state_, params, stream);
}

}  // namespace traincu
