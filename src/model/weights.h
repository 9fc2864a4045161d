// The one door for weights and gradients. The model never owns a weight: before it computes a part (embedding, a block, the head) the part
// is acquired, afterwards released, and when its gradients for a micro-batch are complete they are committed. Here the weights are
// resident, so the verbs only check that the schedule uses them in order; whatever brings weights from elsewhere does its work behind the
// same verbs.
#pragma once

#include <vector>

#include "src/base/arena.h"
#include "src/model/params.h"

namespace traincu {

// The tensors of each part; the same structs hold weights and gradients. Absent ones are empty.
struct EmbedTensors {
    Tensor tokens;     // (Vp,C)
    Tensor positions;  // (maxT,C)
};
struct BlockTensors {
    Tensor norm1, norm1_bias;                  // (C)
    Tensor qkv, qkv_bias;                      // (qkv_width, C)
    Tensor q_norm, k_norm;                     // (HS)
    Tensor sinks, relative_bias;               // (NH), (NH, relative_buckets)
    Tensor q_factors, k_factors;               // (maxT, NH*R), (maxT, NKV*R)
    Tensor attention_out, attention_out_bias;  // (C, NH*HS)
    Tensor norm2, norm2_bias;                  // (C)
    Tensor fc, fc_bias;                        // (F or 2F, C)
    Tensor mlp_out, mlp_out_bias;              // (C, F)
};
struct HeadTensors {
    Tensor norm, norm_bias;  // (C)
    Tensor lm_head;          // (Vp,C); the embedding table itself where the two are tied
};

struct ModelTensors {
    EmbedTensors embed;
    std::vector<BlockTensors> blocks;
    HeadTensors head;
};

class WeightDoor {
public:
    // Declares one flat array in each arena; the tensors are usable after both are allocated and bind() was called.
    // Without a gradient arena the door serves inference. Gradients are of the statistics' type (src/base/dtype.h): f32 beside bf16
    // weights.
    WeightDoor(const ParamTable& table, Dtype dtype, Arena& weight_arena, Arena* gradient_arena);
    void bind();

    void prefetch(int part);           // will be needed soon
    void acquire(int part);            // from here its weights may be read
    void release(int part);            // until here
    void commit(int part, bool last);  // its gradients of this micro-batch are complete; last: of this optimizer step

    const ModelTensors& weights() const { return weights_; }
    const ModelTensors& gradients() const { return gradients_; }
    bool held(int part) const { return holders_[static_cast<size_t>(part)] > 0; }

    const ParamTable& table() const { return table_; }
    Tensor flat_weights() const { return flat_weights_; }      // (flat_size)
    Tensor flat_gradients() const { return flat_gradients_; }  // (flat_size)

private:
    const ParamTable& table_;
    Tensor flat_weights_, flat_gradients_;
    ModelTensors weights_, gradients_;
    std::vector<int> holders_;
};

// The table's row `index` inside a flat array, in its stored shape: (rows, cols), or (n) for a vector.
Tensor row_tensor(Tensor flat, const ParamRow& row);

}  // namespace traincu
