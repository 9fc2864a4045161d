#include "src/model/weights.h"

namespace traincu {

Tensor row_tensor(Tensor flat, const ParamRow& row) {
    Tensor part = flat.slice_rows(row.offset, row.numel());
    return row.is_vector() ? part : Tensor(part.data, part.dtype, {row.rows, row.cols});
}

namespace {

// The member of the part structs that a row of the table fills.
Tensor& member(ModelTensors& m, const ParamRow& row) {
    if (row.layer >= 0) {
        BlockTensors& b = m.blocks[static_cast<size_t>(row.layer)];
        switch (row.kind) {
            case ParamKind::norm1:
                return row.is_bias ? b.norm1_bias : b.norm1;
            case ParamKind::qkv:
                return row.is_bias ? b.qkv_bias : b.qkv;
            case ParamKind::q_norm:
                return b.q_norm;
            case ParamKind::k_norm:
                return b.k_norm;
            case ParamKind::sinks:
                return b.sinks;
            case ParamKind::relative_bias:
                return b.relative_bias;
            case ParamKind::q_factors:
                return b.q_factors;
            case ParamKind::k_factors:
                return b.k_factors;
            case ParamKind::attention_out:
                return row.is_bias ? b.attention_out_bias : b.attention_out;
            case ParamKind::norm2:
                return row.is_bias ? b.norm2_bias : b.norm2;
            case ParamKind::fc:
                return row.is_bias ? b.fc_bias : b.fc;
            case ParamKind::mlp_out:
                return row.is_bias ? b.mlp_out_bias : b.mlp_out;
            default:
                break;
        }
    }
    switch (row.kind) {
        case ParamKind::token_embedding:
            return m.embed.tokens;
        case ParamKind::position_embedding:
            return m.embed.positions;
        case ParamKind::final_norm:
            return row.is_bias ? m.head.norm_bias : m.head.norm;
        case ParamKind::lm_head:
            return m.head.lm_head;
        default:
            break;
    }
    ENSURE(!"a parameter kind without a place in the model");
    return m.head.norm;
}

ModelTensors carve(const ParamTable& table, Tensor flat) {
    ModelTensors m;
    m.blocks.resize(static_cast<size_t>(table.n_parts - 2));
    for (const ParamRow& row : table.rows) member(m, row) = row_tensor(flat, row);
    if (!m.head.lm_head) m.head.lm_head = m.embed.tokens;  // tied: both uses add to one gradient
    return m;
}

}  // namespace

WeightDoor::WeightDoor(const ParamTable& table, Dtype dtype, Arena& weight_arena, Arena* gradient_arena)
    : table_(table), holders_(static_cast<size_t>(table.n_parts)) {
    weight_arena.add(flat_weights_, "weights", dtype, {table.flat_size});
    if (gradient_arena) gradient_arena->add(flat_gradients_, "gradients", statistics_of(dtype), {table.flat_size});
}

void WeightDoor::bind() {
    weights_ = carve(table_, flat_weights_);
    if (flat_gradients_) gradients_ = carve(table_, flat_gradients_);
}

void WeightDoor::prefetch(int part) { ENSURE(part >= 0 && part < table_.n_parts); }

void WeightDoor::acquire(int part) { holders_[static_cast<size_t>(part)]++; }

void WeightDoor::release(int part) {
    ENSURE(held(part));
    holders_[static_cast<size_t>(part)]--;
}

void WeightDoor::commit(int part, bool) { ENSURE(part >= 0 && part < table_.n_parts); }

}  // namespace traincu
