#include "src/model/params.h"

#include <cmath>

#include "kernels/attention.h"
#include "src/base/integers.h"

namespace traincu {

namespace {

class TableBuilder {
public:
    TableBuilder(const ModelConfig& config, int64_t part_multiple) : config_(config), part_multiple_(part_multiple) {}

    // A matrix and, if the model has biases, its bias. Residual projections start smaller by 1/sqrt(2L), as in GPT-2.
    void matrix(const char* name, ParamKind kind, int64_t rows, int64_t cols, bool residual = false, int64_t used_rows = 0) {
        double std = residual ? 0.02 / std::sqrt(2.0 * static_cast<double>(config_.n_layer)) : 0.02;
        add(name, ".weight", kind, false, rows, cols, ParamInit::normal, std, true);
        if (used_rows) result.rows.back().used_rows = used_rows;
        if (config_.bias || (config_.qkv_bias && kind == ParamKind::qkv))
            add(name, ".bias", kind, true, 1, rows, ParamInit::zeros, 0, false, used_rows);
    }
    // Of attention's scores: neither a matrix of a product nor a bias of one, so it does not decay.
    void scores(const char* name, ParamKind kind, int64_t rows, int64_t cols, ParamInit init, double std = 0) {
        add(name, ".weight", kind, false, rows, cols, init, std, false);
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
    void begin_part(int new_layer) {
        result.n_parts++, layer_ = new_layer;
        result.parts.push_back({result.flat_size, 0, unpadded_});
    }
    void end_part() {
        ParamPart& part = result.parts.back();
        const int64_t used = result.flat_size - part.begin;
        part.size = round_up(used, part_multiple_);
        result.flat_size = part.begin + part.size;
        unpadded_ += used;
    }

    ParamTable result;

private:
    void add(const char* name, const char* suffix, ParamKind kind, bool is_bias, int64_t rows, int64_t cols, ParamInit init, double std,
             bool decays, int64_t used_cols = 0) {
        std::string prefix = layer_ >= 0 ? format("block.%d.", layer_) : "";
        ParamRow row{prefix + name + suffix,
                     kind,
                     is_bias,
                     result.n_parts - 1,
                     layer_,
                     rows,
                     cols,
                     rows,
                     used_cols ? used_cols : cols,
                     init,
                     std,
                     decays,
                     result.flat_size};
        result.flat_size += round_up(row.numel(), 16);
        result.rows.push_back(std::move(row));
    }

    const ModelConfig& config_;
    int64_t part_multiple_;
    int64_t unpadded_ = 0;  // what flat_size would be without padding
    int layer_ = -1;
};

WeightClass class_of(const ParamRow& row) {
    if (row.is_bias) return WeightClass::bias;
    switch (row.kind) {
        case ParamKind::token_embedding:
        case ParamKind::position_embedding:
            return WeightClass::embedding;
        case ParamKind::lm_head:
            return WeightClass::lm_head;
        case ParamKind::qkv:
            return WeightClass::qkv;
        case ParamKind::attention_out:
            return WeightClass::attention_out;
        case ParamKind::fc:
            return WeightClass::fc;
        case ParamKind::mlp_out:
            return WeightClass::mlp_out;
        case ParamKind::sinks:
        case ParamKind::relative_bias:
        case ParamKind::q_factors:
        case ParamKind::k_factors:
            return WeightClass::scores;
        case ParamKind::q_norm:
        case ParamKind::k_norm:
        case ParamKind::norm1:
        case ParamKind::norm2:
        case ParamKind::final_norm:
            return WeightClass::norm;
    }
    return WeightClass::norm;
}

// Each row's stored type, and where it lies: one row after another, with the gaps of the flat index.
void place(ParamTable& table, const Precision& precision) {
    for (size_t r = 0; r < table.rows.size(); r++) {
        ParamRow& row = table.rows[r];
        const int64_t room = (r + 1 < table.rows.size() ? table.rows[r + 1].offset : table.flat_size) - row.offset;
        row.weight_class = class_of(row);
        row.stored = precision.stored_in(row.weight_class);
        row.stored_at = table.stored_bytes;
        table.stored_bytes += room * size_of(row.stored);
        if ((!is_16_bit(row.stored) && !precision.follow_masters) || precision.beside == Beside::nothing) continue;
        row.kept_at = table.kept_size;
        table.kept_size += room;
    }
}

ParamTable make_table(const ModelConfig& c, int64_t part_multiple) {
    TableBuilder b(c, part_multiple);
    b.begin_part(-1);
    b.table("token_embedding", ParamKind::token_embedding, c.padded_vocab(), c.vocab_size);
    if (c.position == PositionKind::learned) b.table("position_embedding", ParamKind::position_embedding, c.max_seq_len, c.max_seq_len);
    b.end_part();
    for (int layer = 0; layer < c.n_layer; layer++) {
        b.begin_part(layer);
        b.norm("norm1", ParamKind::norm1, c.d_model);
        b.matrix("qkv", ParamKind::qkv, c.qkv_width(), c.d_model, false, c.gate_at() + c.gate_width());
        if (c.qk_norm) b.norm("q_norm", ParamKind::q_norm, c.head_size), b.norm("k_norm", ParamKind::k_norm, c.head_size);
        if (c.attn_sinks) b.scores("sinks", ParamKind::sinks, 1, c.n_head, ParamInit::zeros);
        if (c.attn_bias == BiasKind::relative)
            b.scores("relative_bias", ParamKind::relative_bias, c.n_head, relative_buckets, ParamInit::zeros);
        if (c.has_factors()) {
            // Their product begins near 0, and yet each side gets gradients: the keys' numbers are about 1, the queries' small. Were both
            // zero, both gradients would be.
            const bool fixed = c.attn_bias == BiasKind::fixed;
            b.scores("q_factors", ParamKind::q_factors, c.max_seq_len, c.n_head * c.bias_rank, fixed ? ParamInit::given : ParamInit::normal,
                     0.02);
            b.scores("k_factors", ParamKind::k_factors, c.max_seq_len, c.n_kv_head * c.bias_rank,
                     fixed ? ParamInit::given : ParamInit::normal, 1);
        }
        b.matrix("attention_out", ParamKind::attention_out, c.d_model, c.q_width(), true);
        b.norm("norm2", ParamKind::norm2, c.d_model);
        b.matrix("fc", ParamKind::fc, c.fc_width(), c.d_model);
        b.matrix("mlp_out", ParamKind::mlp_out, c.d_model, c.d_ff, true);
        b.end_part();
    }
    b.begin_part(-1);
    b.norm("final_norm", ParamKind::final_norm, c.d_model);
    if (!c.tie_embeddings) b.table("lm_head", ParamKind::lm_head, c.padded_vocab(), c.vocab_size);
    b.end_part();
    return b.result;
}

}  // namespace

ParamTable make_param_table(const ModelConfig& config, const Precision& precision, int64_t part_multiple) {
    ENSURE(part_multiple > 0 && part_multiple % 16 == 0);
    ParamTable table = make_table(config, part_multiple);
    place(table, precision);
    return table;
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

int64_t ParamSlice::row_count() const {
    int64_t total = 0;
    for (const RowRange& range : ranges) total += range.count;
    return total;
}

std::vector<ParamSlice> named_slices(const ParamRow& row, const ModelConfig& c) {
    // A bias is stored as (1, n): its slices are counted in elements, a matrix's in rows.
    if (row.kind == ParamKind::qkv) {
        std::vector<RowRange> q = {{0, c.q_width()}};
        if (c.attn_gate != GateKind::none) {
            q.clear();
            const int64_t HS = c.head_size, width = c.gate_width() / c.n_head;
            for (int64_t h = 0; h < c.n_head; h++) q.push_back({h * HS, HS}), q.push_back({c.gate_at() + h * width, width});
        }
        return {{"q", std::move(q)}, {"k", {{c.q_width(), c.kv_width()}}}, {"v", {{c.q_width() + c.kv_width(), c.kv_width()}}}};
    }
    if (row.kind == ParamKind::fc && c.mlp == MlpKind::swiglu) return {{"gate", {{0, c.d_ff}}}, {"up", {{c.d_ff, c.d_ff}}}};
    return {{"", {{0, row.is_vector() ? row.used_cols : row.used_rows}}}};
}

}  // namespace traincu
