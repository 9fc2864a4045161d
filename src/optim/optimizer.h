// The optimizer: global gradient norm, guard, clipping, and AdamW over the parameter table. Nothing in a step waits for the host.
//
// Ranks may share the optimizer out (ZeRO; Rajbhandari et al. 2020): each then has moments and masters of an equal share of every part, and
// updates that alone. What it has is a list of pieces of the flat index; on one rank it is the whole.
#pragma once

#include "kernels/adamw.h"
#include "src/base/arena.h"
#include "src/device/transfer.h"
#include "src/model/weights.h"

namespace traincu {

// Who owns what, of each part of the table: an equal share for each of `ranks`; where that is 1, all for this one.
struct OptimizerShare {
    int rank = 0, ranks = 1;
    // Into how many equal pieces of each part squares are summed on their own, so that the norm does not depend on the number of ranks: a
    // multiple of `ranks`. 0: the whole is one piece, on one rank.
    int norm_pieces = 0;
};

// A run of the flat index.
struct OwnPiece {
    int64_t begin = 0, size = 0;      // in the flat index
    int64_t local = 0;                // where it begins in m and v
    int64_t random_at = 0;            // AdamwParams::first_index
    std::vector<WeightRange> ranges;  // in elements from its beginning
};

class Optimizer {
public:
    // door: its weights and gradients. Keeps beside its 16-bit weights what the door's precision says (src/config/precision.h).
    // moments: f32 (f64 beside f64 activations) or bf16. hyper: everything but lr; weight decay applies to the rows that decay.
    // Declares its tensors in the arena; usable after that was allocated and bind() was called.
    Optimizer(WeightDoor& door, const AdamwParams& hyper, Arena& arena, Dtype moments = Dtype::f32, const OptimizerShare& share = {});
    void bind(const Stream& stream);

    // The sums of squares of this rank's gradients, into its part of squares().
    void sum_squares(Stream& stream);
    // (norm_pieces * parts), or (1). Sums of other ranks' pieces have to be brought here between sum_squares() and update(); this rank's
    // are contiguous, and rank r's are the r-th.
    Tensor squares() const { return squares_; }
    // Norm, guard, clip, and if the guard accepts one AdamW step on what this rank owns. loss_sum: (1) f64, see GuardParams::loss_scale.
    void update(Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream);
    // Both, on one rank.
    void step(Tensor loss_sum, double lr, const GuardParams& guard, Stream& stream) {
        sum_squares(stream), update(loss_sum, lr, guard, stream);
    }

    const OptimizerShare& share() const { return share_; }
    const std::vector<OwnPiece>& pieces() const { return pieces_; }
    int64_t local_size() const { return local_size_; }
    Tensor kept() const { return kept_; }                // f32 masters or i16 lower halves of what it owns; absent where nothing is kept
    Tensor m() const { return m_; }                      // (local_size)
    Tensor v() const { return v_; }                      // (local_size)
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
    OptimizerShare share_;
    std::vector<OwnPiece> pieces_;
    int64_t local_size_ = 0;
    Tensor kept_, m_, v_;
    Tensor guard_state_;
    Tensor squares_, grad_squares_;  // grad_squares: (1) f64
    Tensor ranges_;                  // (R,5) i64, of all pieces
};

}  // namespace traincu
