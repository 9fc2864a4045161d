#include "src/optim/optimizer.h"

#include <algorithm>

#include "kernels/copy.h"
#include "kernels/reduce.h"

namespace traincu {

// The ranges of `size` elements from `begin` on. kept_at: where those that keep something beside them begin; moved on.
// Rows that follow one another and are kept alike are one range; it takes in the gap behind a row, where all is zero and stays so.
static std::vector<WeightRange> weight_ranges(const ParamTable& table, bool follow_masters, int64_t begin, int64_t size, int64_t& kept_at) {
    std::vector<WeightRange> ranges;
    for (size_t r = 0; r < table.rows.size(); r++) {
        const ParamRow& row = table.rows[r];
        const int64_t row_end = r + 1 < table.rows.size() ? table.rows[r + 1].offset : table.flat_size;
        const int64_t from = std::max(row.offset, begin), to = std::min(row_end, begin + size);
        if (from >= to) continue;
        WeightRange range{to - begin, row.decays, static_cast<int64_t>(row.stored),
                          row.stored_at + (from - row.offset) * size_of(row.stored), -1};
        if (follow_masters) range.stored = master_alone, range.stored_at = 0;
        if (row.kept_at >= 0) range.kept_at = kept_at, kept_at += to - from;
        const bool joins = !ranges.empty() && ranges.back().decays == range.decays && ranges.back().stored == range.stored &&
                           (ranges.back().kept_at < 0) == (range.kept_at < 0);
        if (joins)
            ranges.back().end = range.end;
        else
            ranges.push_back(range);
    }
    return ranges;
}

namespace {

std::vector<OwnPiece> own_pieces(const ParamTable& table, const OptimizerShare& share) {
    std::vector<OwnPiece> pieces;
    int64_t local = 0;
    if (share.norm_pieces == 0) {
        pieces.push_back({0, table.flat_size, 0, 0, {}});
    } else {
        for (const ParamPart& part : table.parts) {
            ENSURE(part.size % (16 * share.norm_pieces) == 0 && share.norm_pieces % share.ranks == 0);
            const int64_t size = part.size / share.ranks, first = share.rank * size;
            pieces.push_back({part.begin + first, size, local, part.unpadded_begin + first, {}});
            local += size;
        }
    }
    return pieces;
}

}  // namespace

Optimizer::Optimizer(WeightDoor& door, const AdamwParams& hyper, Arena& arena, Dtype moments, const OptimizerShare& share)
    : door_(door), hyper_(hyper), share_(share), pieces_(own_pieces(door.table(), share)) {
    const Dtype wide = statistics_of(door.precision().compute), type = moments == Dtype::bf16 ? moments : wide;
    int64_t kept_size = 0, range_count = 0;
    for (OwnPiece& piece : pieces_) {
        piece.ranges = weight_ranges(door.table(), door.precision().follow_masters, piece.begin, piece.size, kept_size);
        range_count += static_cast<int64_t>(piece.ranges.size());
        local_size_ += piece.size;
    }
    if (kept_size > 0) {
        const bool halves = door.precision().beside == Beside::lower_half;
        arena.add(kept_, halves ? "master_lower_halves" : "master_weights", halves ? Dtype::i16 : wide, {kept_size});
    }
    arena.add(m_, "adam_m", type, {local_size_});
    arena.add(v_, "adam_v", type, {local_size_});
    arena.add(guard_state_, "guard_state", Dtype::f64, {guard_state_size});
    const int64_t parts = static_cast<int64_t>(door.table().parts.size());
    arena.add(squares_, "grad_squares of pieces", Dtype::f64, {share.norm_pieces > 0 ? share.norm_pieces * parts : 1});
    arena.add(grad_squares_, "grad_squares", Dtype::f64, {1});
    arena.add(ranges_, "weight_ranges", Dtype::i64, {range_count, weight_range_size});
}

void Optimizer::bind(const Stream& stream) {
    std::vector<WeightRange> all;
    for (const OwnPiece& piece : pieces_) all.insert(all.end(), piece.ranges.begin(), piece.ranges.end());
    stream.upload(ranges_, all.data());
    write_guard({}, stream);
}

// squares: piece after piece of a part's equal division, in each part after part. A rank has an equal run of them.
void Optimizer::sum_squares(Stream& stream) {
    const Tensor gradients = door_.flat_gradients();
    zero(squares_, stream);
    if (share_.norm_pieces == 0) return traincu::sum_squares(squares_, gradients, stream);  // the gaps between rows are zero
    const int64_t here = share_.norm_pieces / share_.ranks, parts = static_cast<int64_t>(pieces_.size());
    for (int64_t k = 0; k < here; k++)
        for (int64_t p = 0; p < parts; p++) {
            const OwnPiece& piece = pieces_[static_cast<size_t>(p)];
            const int64_t size = piece.size / here;
            traincu::sum_squares(squares_.slice_rows((share_.rank * here + k) * parts + p, 1),
                                 gradients.slice_rows(piece.begin + k * size, size), stream);
        }
}

void Optimizer::update(Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream) {
    zero(grad_squares_, stream);
    sum(grad_squares_, squares_, stream);
    guard_step(guard_state_, loss_sum, grad_squares_, guard, stream);
    AdamwParams params = hyper_;
    params.lr = lr;
    int64_t first_range = 0;
    for (const OwnPiece& piece : pieces_) {
        const int64_t ranges = static_cast<int64_t>(piece.ranges.size());
        params.first_index = piece.random_at;
        auto local = [&](const Tensor& t) { return t.slice_rows(piece.local, piece.size); };
        adamw_update(door_.flat_weights(), kept_, local(m_), local(v_), door_.flat_gradients().slice_rows(piece.begin, piece.size),
                     ranges_.slice_rows(first_range, ranges), guard_state_, params, stream);
        first_range += ranges;
    }
    door_.weights_changed();
}

}  // namespace traincu
