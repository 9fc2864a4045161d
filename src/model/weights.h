// The one door for weights and gradients. The model never owns a weight: before it computes a part (embedding, a block, the head) the part
// is acquired, afterwards released, and when its gradients for a micro-batch are complete they are committed.
//
// Here the weights are resident, each in its stored type. What the model computes with in another type is converted just in time, when the
// part is prefetched or acquired: LayerCast's widening from 16 bits to f32. Two buffers, each as large as the largest part, serve all parts
// in turn, so that one part's weights can be used while the next one's are converted; there is never a whole model in the wider type.
// Tables (embedding, head) are read as they are stored (Precision::read_as_stored()). Whatever brings weights from elsewhere does its work
// behind the same verbs.
#pragma once

#include <array>
#include <vector>

#include "src/base/arena.h"
#include "src/device/stream.h"
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
    // Who brings weights from other ranks and takes gradients there (src/parallel/sharding.h).
    class Keeper {
    public:
        virtual ~Keeper() = default;
        virtual void ready(int part, Stream& stream) = 0;                 // the stream goes on when the part's stored weights are here
        virtual void committed(int part, bool last, Stream& stream) = 0;  // after commit()
    };

    // Declares the stored weights, the gradients (flat, of the statistics' type: f32 beside bf16; without an arena for them the door serves
    // inference), and the two buffers where weights are converted. The tensors are usable after the arenas are allocated and bind() was
    // called. table: made with the same precision. head_apart: where the head is the embedding's table, its gradients are summed apart and
    // added to the table's in the last commit, so that the sum's order does not depend on where micro-batches end.
    WeightDoor(const ParamTable& table, const Precision& precision, Arena& weights, Arena& converted, Arena* gradients,
               bool head_apart = false);
    void bind();

    void prefetch(int part, Stream& stream);  // will be needed soon
    void acquire(int part, Stream& stream);   // from here its weights may be read
    void release(int part);                   // until here
    // Its gradients of this micro-batch are complete; last: of all that are summed in this array.
    void commit(int part, bool last, Stream& stream);
    void weights_changed();                                // what was converted is out of date
    void set_keeper(Keeper* keeper) { keeper_ = keeper; }  // null: all is here

    const ModelTensors& weights() const { return weights_; }
    const ModelTensors& gradients() const { return gradients_; }
    bool held(int part) const { return holders_[static_cast<size_t>(part)] > 0; }

    const ParamTable& table() const { return table_; }
    const Precision& precision() const { return precision_; }
    Tensor flat_weights() const { return flat_weights_; }  // (flat_size), or, where they are of several types, their bytes (stored_bytes)
    Tensor flat_gradients() const { return flat_gradients_; }  // (flat_size)
    Tensor stored(const ParamRow& row) const;                  // a row's weights as they are stored, (rows,cols) or (n)

private:
    bool is_converted(const ParamRow& row) const {
        return row.stored != precision_.compute && !precision_.read_as_stored(row.weight_class);
    }

    const ParamTable& table_;
    Precision precision_;
    Keeper* keeper_ = nullptr;
    Tensor flat_weights_, flat_gradients_;
    Tensor head_gradient_;  // (Vp,C) of a tied head, where it is summed apart
    ModelTensors weights_, gradients_;
    std::vector<int> holders_;
    std::array<Tensor, 2> converted_;  // of the even parts and the odd ones
    std::array<int, 2> contents_{-1, -1};
};

// The table's row `index` inside a flat array, in its stored shape: (rows, cols), or (n) for a vector.
Tensor row_tensor(Tensor flat, const ParamRow& row);

}  // namespace traincu
