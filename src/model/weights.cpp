#include "src/model/weights.h"

#include <algorithm>

#include "kernels/add.h"
#include "kernels/copy.h"

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

// tensor_of(row): where the row lies.
template <class TensorOf>
ModelTensors carve(const ParamTable& table, TensorOf&& tensor_of) {
    ModelTensors m;
    m.blocks.resize(static_cast<size_t>(table.n_parts - 2));
    for (const ParamRow& row : table.rows) member(m, row) = tensor_of(row);
    if (!m.head.lm_head) m.head.lm_head = m.embed.tokens;  // tied: both uses add to one gradient
    return m;
}

Tensor shaped(void* data, Dtype type, const ParamRow& row) {
    return row.is_vector() ? Tensor(data, type, {row.numel()}) : Tensor(data, type, {row.rows, row.cols});
}

}  // namespace

WeightDoor::WeightDoor(const ParamTable& table, const Precision& precision, Arena& weights, Arena& converted, Arena* gradients,
                       bool head_apart)
    : table_(table), precision_(precision), holders_(static_cast<size_t>(table.n_parts)) {
    const Dtype first = table.rows[0].stored;
    const bool uniform = std::all_of(table.rows.begin(), table.rows.end(), [&](const ParamRow& row) { return row.stored == first; });
    if (uniform)
        weights.add(flat_weights_, "weights", first, {table.flat_size});
    else
        weights.add(flat_weights_, "weights", Dtype::u8, {table.stored_bytes});
    if (gradients) {
        gradients->add(flat_gradients_, "gradients", statistics_of(precision.compute), {table.flat_size});
        const ParamRow& embedding = table.rows[0];
        ENSURE(embedding.kind == ParamKind::token_embedding);
        if (head_apart && table.find(ParamKind::lm_head, false, -1) < 0)
            gradients->add(head_gradient_, "of the tied head", flat_gradients_.dtype, {embedding.rows, embedding.cols});
    }

    std::vector<int64_t> sizes(static_cast<size_t>(table.n_parts));
    for (const ParamRow& row : table.rows)
        if (is_converted(row)) sizes[static_cast<size_t>(row.part)] += round_up(row.numel(), 16);
    for (size_t side = 0; side < 2; side++) {
        int64_t largest = 0;
        for (size_t part = side; part < sizes.size(); part += 2) largest = std::max(largest, sizes[part]);
        if (largest > 0) converted.add(converted_[side], side == 0 ? "of even parts" : "of odd parts", precision.compute, {largest});
    }
}

Tensor WeightDoor::stored(const ParamRow& row) const {
    return shaped(static_cast<std::byte*>(flat_weights_.data) + row.stored_at, row.stored, row);
}

void WeightDoor::bind() {
    std::vector<int64_t> used(static_cast<size_t>(table_.n_parts));
    weights_ = carve(table_, [&](const ParamRow& row) {
        if (!is_converted(row)) return stored(row);
        const size_t part = static_cast<size_t>(row.part);
        const Tensor place = converted_[part % 2].slice_rows(used[part], row.numel());
        used[part] += round_up(row.numel(), 16);
        return shaped(place.data, place.dtype, row);
    });
    if (flat_gradients_) gradients_ = carve(table_, [&](const ParamRow& row) { return row_tensor(flat_gradients_, row); });
    if (head_gradient_) gradients_.head.lm_head = head_gradient_;
}

void WeightDoor::prefetch(int part, Stream& stream) {
    ENSURE(part >= 0 && part < table_.n_parts);
    const size_t side = static_cast<size_t>(part % 2);
    if (!converted_[side] || contents_[side] == part) return;
    ENSURE(contents_[side] < 0 || !held(contents_[side]));
    if (keeper_) keeper_->ready(part, stream);
    contents_[side] = part;
    for (const ParamRow& row : table_.rows)
        if (row.part == part && is_converted(row)) copy(member(weights_, row), stored(row), stream);
}

void WeightDoor::acquire(int part, Stream& stream) {
    if (keeper_) keeper_->ready(part, stream);
    prefetch(part, stream);
    holders_[static_cast<size_t>(part)]++;
}

void WeightDoor::release(int part) {
    ENSURE(held(part));
    holders_[static_cast<size_t>(part)]--;
}

void WeightDoor::commit(int part, bool last, Stream& stream) {
    ENSURE(part >= 0 && part < table_.n_parts);
    if (part == 0 && last && head_gradient_) {  // the embedding is committed after the head
        add(gradients_.embed.tokens, head_gradient_, stream);
        zero(head_gradient_, stream);
    }
    if (keeper_) keeper_->committed(part, last, stream);
}

void WeightDoor::weights_changed() { contents_ = {-1, -1}; }

}  // namespace traincu
