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
//
// In few bits (config/rank_options.h, kernels/quantize.h), of n numbers a part, P = M nodes of m ranks:
//   gradients (SDP4Bit, Jia et al. 2024; ZeRO++, Wang et al. 2023), two hops instead of the reduce_scatter:
//       each rank encodes its part -> all_to_all in the node -> decodes m messages, adds them, encodes n/m -> all_to_all between nodes
//       -> decodes M messages, adds them: its share of n/P. On one node, or with one rank a node, one hop.
//   weights: diff4 sends what the masters are now less what all ranks have, and all add it to theirs, the sender too: so all have the same,
//       and what one step's 4 bits left over is sent by the next. int8 and int4 send the masters themselves.
// Weights then follow their masters (Precision::follow_masters). Where the guard refuses a step the masters stay; what is left over of
// earlier steps is sent all the same.
#pragma once

#include "kernels/quantize.h"
#include "src/config/rank_options.h"
#include "src/model/weights.h"
#include "src/optim/optimizer.h"
#include "src/parallel/mesh.h"

namespace traincu {

struct DataParallel {
    int ranks = 1, rank = 0;
    int ranks_per_node = 1;   // m
    int zero = 0;             // 0 or 1
    bool fixed_tree = false;  // --determinism ranks
    CommQuant quant;

    int nodes() const { return ranks / ranks_per_node; }
    // Elements of which a part must be a multiple (make_param_table).
    int64_t part_multiple() const;
    OptimizerShare optimizer_share() const;
};

class Sharding : public WeightDoor::Keeper {
public:
    // Declares what it needs beside weights and gradients.
    Sharding(const DataParallel& how, WeightDoor& door, Arena& arena);
    void connect(Mesh& mesh) { world_ = &mesh.world(), node_ = &mesh.node(), across_ = &mesh.across(); }

    // What this rank sends to others in a step, to the byte: from the shapes alone, before anything is allocated.
    Traffic step_traffic() const;

    // A step begins: its number is part of what stochastic rounding takes its bits from.
    void begin_step(int64_t step) { step_ = step; }
    // All gradients of this step are committed: afterwards those that this rank's optimizer needs are the sums over all ranks, and so is
    // loss_sum (1) f64.
    void finish_gradients(Tensor loss_sum, Stream& stream);
    // Optimizer::squares() of all ranks.
    void finish_squares(Tensor squares, Stream& stream);
    // The optimizer has updated its share: begins to bring each rank's to all.
    void publish_weights(const Optimizer& optimizer, Stream& stream);
    // What was begun is over: all weights are here.
    void settle(Stream& stream);

    // ---- behind the door
    void ready(int part, Stream& stream) override;
    void committed(int part, bool last, Stream& stream) override;

private:
    enum class Stage { done, summing, first_hop, second_hop };
    struct Hops {  // messages of one part's gradients: out and in of both hops
        Tensor first_out, first_in, second_out, second_in;
    };

    const ParamPart& range_of(int part) const { return door_.table().parts[static_cast<size_t>(part)]; }
    int64_t stored_at(int64_t index) const;  // bytes from the start of the stored weights, of an element that begins a row or a share
    Tensor gradients_of(int part) const;
    Tensor own(const Tensor& whole) const;  // this rank's share
    void add_as_tree(const Tensor& blocks, Stream& stream) const;
    void sum_as_tree(int part, Stream& stream);
    QuantNoise noise(int hop, int64_t first, int64_t stride) const;
    void begin_hops(int part, Stream& stream);
    void advance(int part, Stream& stream);  // by one stage
    void finish(int part, Stream& stream);
    Pending bring_weights(int part, Stream& stream);
    Pending bring_messages(int part, const Optimizer& optimizer, Stream& stream);
    Tensor stored_of(int part) const;  // (n), of quantised weights, which are of one type

    DataParallel how_;
    WeightDoor& door_;
    Communicator *world_ = nullptr, *node_ = nullptr, *across_ = nullptr;
    int64_t step_ = 0;
    Tensor received_;   // of the fixed tree: (largest part) the shares that all ranks sent
    Tensor loss_sums_;  // (P) f64

    QuantFormat first_, second_, weights_;
    std::array<Hops, 3> hops_;      // parts in turn: three are under way at a time
    std::vector<Tensor> messages_;  // by part: (P, bytes) of all ranks
    std::vector<Stage> stages_;     // of the sums of gradients, by part
    std::vector<Pending> summing_, arriving_;
};

}  // namespace traincu
