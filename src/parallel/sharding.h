// Data parallelism: every rank computes its share of a step's micro-batches with the same weights, and before the update the gradients of
// all are summed. ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054) shares out what would be the same on all ranks:
//
//   --zero   gradients   moments, masters   weights    a rank sends in a step, of the bytes of all gradients G and all weights W, P ranks
//   0        whole       whole              whole      2 (P-1)/P G    all_reduce
//   1        whole       1/P                whole        (P-1)/P G    reduce_scatter       (P-1)/P W   all_gather
//
// The parts of the parameter table are the buckets: a part's sum begins when its last gradient is there, while the backward goes on with
// the part before it, and with --zero 1 the next forward begins when the first part's new weights are there. Each part is padded so that it
// splits into equal shares (ParamPart).
//
// At --determinism ranks the sum over ranks is the upper end of the tree over logical workers (gradient_tree.h): copies are exchanged, and
// each rank adds the shares of all as that tree does. So the bits do not depend on the number of ranks, and there is nothing to overlap.
#pragma once

#include "src/model/weights.h"
#include "src/optim/optimizer.h"
#include "src/parallel/comm.h"

namespace traincu {

struct DataParallel {
    int ranks = 1, rank = 0;
    int zero = 0;             // 0 or 1
    bool fixed_tree = false;  // --determinism ranks

    // Elements of which a part must be a multiple (make_param_table).
    int64_t part_multiple() const;
    OptimizerShare optimizer_share() const;
};

class Sharding : public WeightDoor::Keeper {
public:
    // Declares what it needs beside weights and gradients.
    Sharding(const DataParallel& how, WeightDoor& door, Arena& arena);
    void connect(Communicator& world) { world_ = &world; }

    // All gradients of this step are committed: afterwards those that this rank's optimizer needs are the sums over all ranks, and so is
    // loss_sum (1) f64.
    void finish_gradients(Tensor loss_sum, Stream& stream);
    // Optimizer::squares() of all ranks.
    void finish_squares(Tensor squares, Stream& stream);
    // The optimizer has updated its share: begins to bring each rank's to all.
    void publish_weights(Stream& stream);
    // What was begun is over: all weights are here.
    void settle(Stream& stream);

    // ---- behind the door
    void ready(int part, Stream& stream) override;
    void committed(int part, bool last, Stream& stream) override;

private:
    int64_t stored_at(int64_t index) const;  // bytes from the start of the stored weights, of an element that begins a row or a share
    Tensor gradients_of(int part) const;
    Tensor own(const Tensor& whole) const;  // this rank's share
    void add_as_tree(const Tensor& blocks, Stream& stream) const;
    void sum_as_tree(int part, Stream& stream);
    Pending bring_weights(int part, Stream& stream);

    DataParallel how_;
    WeightDoor& door_;
    Communicator* world_ = nullptr;
    Tensor received_;                          // of the fixed tree: (largest part) the shares that all ranks sent
    Tensor loss_sums_;                         // (P) f64
    std::vector<Pending> summing_, arriving_;  // by part
};

}  // namespace traincu
