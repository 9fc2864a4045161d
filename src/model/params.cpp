#include "src/model/params.h"

#include <cmath>

#include "src/base/integers.h"

namespace traincu {

namespace {

class TableBuilder {
public:
    explicit TableBuilder(const ModelConfig& config) : config_(config) {}

    // A matrix and, if the model has biases, its bias. Residual projections start smaller by 1/sqrt(2L), as in GPT-2.
    void matrix(const char* name, ParamKind kind, int64_t rows, int64_t cols, bool residual = false) {
        double std = residual ? 0.02 / std::sqrt(2.0 * static_cast<double>(config_.n_layer)) : 0.02;
        add(name, ".weight", kind, false, rows, cols, ParamInit::normal, std, true);
        if (config_.bias || (config_.qkv_bias && kind == ParamKind::qkv))
            add(name, ".bias", kind, true, 1, rows, ParamInit::zeros, 0, false);
    }
    void table(const char* name, ParamKind kind, int64_t rows, int64_t used_rows) {
        add(name, ".weight", kind, false, rows, config_.d_model, ParamInit::normal, 0.02, true);
        result.rows.back().used_rows = used_rows;
    }
    void norm(const char* name, ParamKind kind, int64_t width) {
        add(name, ".weight", kind, false, 1, width, ParamInit::ones, 0, false);
        bool of_head = kind == ParamKind::q_norm || kind == ParamKind::k_norm;
        if (config_.bias && !of_head) add(name, ".bias", kind, true, 1, width, ParamInit::zeros, 0, false);
    }
    void next_part(int new_layer) { result.n_parts++, layer_ = new_layer; }

    ParamTable result;

private:
    void add(const char* name, const char* suffix, ParamKind kind, bool is_bias, int64_t rows, int64_t cols, ParamInit init, double std,
             bool decays) {
        std::string prefix = layer_ >= 0 ? format("block.%d.", layer_) : "";
        ParamRow row{prefix + name + suffix, kind, is_bias, result.n_parts - 1, layer_, rows, cols, rows, init, std, decays,
                     result.flat_size};
        result.flat_size += round_up(row.numel(), 16);
        result.rows.push_back(std::move(row));
    }

    const ModelConfig& config_;
    int layer_ = -1;
};

}  // namespace

ParamTable make_param_table(const ModelConfig& c) {
    TableBuilder b(c);
    b.next_part(-1);
    b.table("token_embedding", ParamKind::token_embedding, c.padded_vocab(), c.vocab_size);
    if (c.position == PositionKind::learned) b.table("position_embedding", ParamKind::position_embedding, c.max_seq_len, c.max_seq_len);
    for (int layer = 0; layer < c.n_layer; layer++) {
        b.next_part(layer);
        b.norm("norm1", ParamKind::norm1, c.d_model);
        b.matrix("qkv", ParamKind::qkv, c.qkv_width(), c.d_model);
        if (c.qk_norm) b.norm("q_norm", ParamKind::q_norm, c.head_size), b.norm("k_norm", ParamKind::k_norm, c.head_size);
        b.matrix("attention_out", ParamKind::attention_out, c.d_model, c.q_width(), true);
        b.norm("norm2", ParamKind::norm2, c.d_model);
        b.matrix("fc", ParamKind::fc, c.fc_width(), c.d_model);
        b.matrix("mlp_out", ParamKind::mlp_out, c.d_model, c.d_ff, true);
    }
    b.next_part(-1);
    b.norm("final_norm", ParamKind::final_norm, c.d_model);
    if (!c.tie_embeddings) b.table("lm_head", ParamKind::lm_head, c.padded_vocab(), c.vocab_size);
    return b.result;
}

int64_t ParamTable::count() const {
    int64_t total = 0;
    for (const ParamRow& row : rows) total += row.used_numel();
    return total;
}

int ParamTable::find(ParamKind kind, bool is_bias, int layer) const {
    for (size_t i = 0; i < rows.size(); i++)
        if (rows[i].kind == kind && rows[i].is_bias == is_bias && rows[i].layer == layer) return static_cast<int>(i);
    return -1;
}

std::vector<ParamSlice> named_slices(const ParamRow& row, const ModelConfig& c) {
    // A bias is stored as (1, n): its slices are counted in elements, a matrix's in rows.
    if (row.kind == ParamKind::qkv)
        return {{"q", 0, c.q_width()}, {"k", c.q_width(), c.kv_width()}, {"v", c.q_width() + c.kv_width(), c.kv_width()}};
    if (row.kind == ParamKind::fc && c.mlp == MlpKind::swiglu) return {{"gate", 0, c.d_ff}, {"up", c.d_ff, c.d_ff}};
    return {{"", 0, row.is_vector() ? row.cols : row.used_rows}};
}

}  // namespace traincu
