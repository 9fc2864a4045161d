#include "src/optim/optimizer.h"

#include "kernels/copy.h"
#include "kernels/reduce.h"

namespace traincu {

namespace {

// Rows that follow one another and are kept alike are one range; it takes in the gap behind a row, where all is zero and stays so.
std::vector<WeightRange> weight_ranges(const ParamTable& table) {
    std::vector<WeightRange> ranges;
    for (size_t r = 0; r < table.rows.size(); r++) {
        const ParamRow& row = table.rows[r];
        const int64_t end = r + 1 < table.rows.size() ? table.rows[r + 1].offset : table.flat_size;
        const WeightRange range{end, row.decays, static_cast<int64_t>(row.stored), row.stored_at, row.kept_at};
        const bool joins = !ranges.empty() && ranges.back().decays == range.decays && ranges.back().stored == range.stored &&
                           (ranges.back().kept_at < 0) == (range.kept_at < 0);
        if (joins)
            ranges.back().end = end;
        else
            ranges.push_back(range);
    }
    return ranges;
}

}  // namespace

Optimizer::Optimizer(WeightDoor& door, const AdamwParams& hyper, Arena& arena, Dtype moments)
    : door_(door), hyper_(hyper), host_ranges_(weight_ranges(door.table())) {
    const ParamTable& table = door.table();
    const Dtype wide = statistics_of(door.precision().compute), type = moments == Dtype::bf16 ? moments : wide;
    if (table.kept_size > 0) {
        const bool halves = door.precision().beside == Beside::lower_half;
        arena.add(kept_, halves ? "master_lower_halves" : "master_weights", halves ? Dtype::i16 : wide, {table.kept_size});
    }
    arena.add(m_, "adam_m", type, {table.flat_size});
    arena.add(v_, "adam_v", type, {table.flat_size});
    arena.add(guard_state_, "guard_state", Dtype::f64, {guard_state_size});
    arena.add(grad_squares_, "grad_squares", Dtype::f64, {1});
    arena.add(ranges_, "weight_ranges", Dtype::i64, {static_cast<int64_t>(host_ranges_.size()), weight_range_size});
}

void Optimizer::bind(const Stream& stream) {
    stream.upload(ranges_, host_ranges_.data());
    write_guard({}, stream);
}

void Optimizer::step(Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream) {
    const Tensor gradients = door_.flat_gradients();
    zero(grad_squares_, stream);
    sum_squares(grad_squares_, gradients, stream);  // the gaps between rows are zero
    guard_step(guard_state_, loss_sum, grad_squares_, guard, stream);
    AdamwParams params = hyper_;
    params.lr = lr;
    adamw_update(door_.flat_weights(), kept_, m_, v_, gradients, ranges_, guard_state_, params, stream);
    door_.weights_changed();
}

}  // namespace traincu
