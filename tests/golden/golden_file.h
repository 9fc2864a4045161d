// A golden file (see README.md) and its weights in a model of this program.
#pragma once

#include <functional>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "src/model/instance.h"
#include "tests/support/golden.h"
#include "tests/support/numeric.h"

namespace traincu::test {

inline ModelConfig config_from(const nlohmann::json& j) {
    ModelConfig c;
    c.n_layer = j["n_layer"], c.n_head = j["n_head"], c.n_kv_head = j["n_kv_head"], c.d_model = j["d_model"], c.d_ff = j["d_ff"],
    c.head_size = j["head_size"];
    c.vocab_size = j["vocab_size"], c.max_seq_len = j["max_seq_len"], c.bias = j["bias"], c.qk_norm = j["qk_norm"],
    c.tie_embeddings = j["tie_embeddings"];
    c.rope_theta = j["rope_theta"], c.norm_eps = j["norm_eps"], c.qkv_bias = j.value("qkv_bias", false);
    if (j.contains("rope_scaling")) {
        const nlohmann::json& s = j["rope_scaling"];
        c.rope_scaling = {s["factor"], s["low_freq_factor"], s["high_freq_factor"], s["original_max_position"]};
    }
    const std::string gate = j.value("attn_gate", "none"), bias = j.value("attn_bias", "none");
    c.attn_gate = gate == "headwise" ? GateKind::headwise : gate == "elementwise" ? GateKind::elementwise : GateKind::none;
    c.attn_bias = bias == "alibi"      ? BiasKind::alibi
                  : bias == "relative" ? BiasKind::relative
                  : bias == "factors"  ? BiasKind::factors
                                       : BiasKind::none;
    c.bias_rank = j.value("bias_rank", 0), c.window = j.value("window", 0), c.attn_softcap = j.value("attn_softcap", 0.0);
    c.attn_sinks = j.value("attn_sinks", false);
    c.norm = j["norm"] == "rmsnorm" ? NormKind::rmsnorm : NormKind::layernorm;
    c.position = j["position"] == "rope" ? PositionKind::rope : j["position"] == "none" ? PositionKind::none : PositionKind::learned;
    c.mlp = j["mlp"] == "swiglu" ? MlpKind::swiglu : MlpKind::gelu;
    return c;
}

// Where a row's values stand in a golden file, in the names of Hugging Face's models; several parts for packed rows. Written down here a
// second time on purpose: the program's own table of names is not what it is checked with.
struct Part {
    std::string name;
    int64_t row_begin, rows;
    bool transposed;
    int64_t file_begin = 0, file_rows = 0;  // where the part begins in a tensor of so many rows; 0: the part is the tensor
};

inline std::vector<Part> golden_names(const ParamRow& row, const ModelConfig& c) {
    const bool gpt2 = c.norm == NormKind::layernorm && c.mlp == MlpKind::gelu;
    const std::string suffix = row.is_bias ? ".bias" : ".weight", layer = std::to_string(row.layer);
    const int64_t n = row.is_vector() ? row.used_cols : row.used_rows;
    if (gpt2) {
        auto block = [&](const char* name, bool matrix) {
            return std::vector<Part>{{"transformer.h." + layer + "." + name + suffix, 0, n, matrix && !row.is_bias}};
        };
        switch (row.kind) {
            case ParamKind::token_embedding:
                return {{"transformer.wte.weight", 0, n, false}};
            case ParamKind::position_embedding:
                return {{"transformer.wpe.weight", 0, n, false}};
            case ParamKind::norm1:
                return block("ln_1", false);
            case ParamKind::norm2:
                return block("ln_2", false);
            case ParamKind::qkv:
                return block("attn.c_attn", true);
            case ParamKind::attention_out:
                return block("attn.c_proj", true);
            case ParamKind::fc:
                return block("mlp.c_fc", true);
            case ParamKind::mlp_out:
                return block("mlp.c_proj", true);
            case ParamKind::final_norm:
                return {{"transformer.ln_f" + suffix, 0, n, false}};
            default:
                return {{"lm_head.weight", 0, n, false}};
        }
    }
    const std::string prefix = "model.layers." + layer + ".";
    auto block = [&](const char* name, int64_t begin, int64_t rows) { return Part{prefix + name + suffix, begin, rows, false}; };
    switch (row.kind) {
        case ParamKind::token_embedding:
            return {{"model.embed_tokens.weight", 0, n, false}};
        case ParamKind::norm1:
            return {block("input_layernorm", 0, n)};
        case ParamKind::norm2:
            return {block("post_attention_layernorm", 0, n)};
        case ParamKind::qkv: {
            const int64_t HS = c.head_size, gate = c.attn_gate == GateKind::headwise ? 1 : HS, all = c.n_head * (HS + gate);
            std::vector<Part> parts = {block("self_attn.k_proj", c.q_width(), c.kv_width()),
                                       block("self_attn.v_proj", c.q_width() + c.kv_width(), c.kv_width())};
            if (c.attn_gate == GateKind::none) parts.push_back(block("self_attn.q_proj", 0, c.q_width()));
            for (int64_t h = 0; c.attn_gate != GateKind::none && h < c.n_head; h++) {
                const std::string name = prefix + "self_attn.q_proj" + suffix;
                parts.push_back({name, h * HS, HS, false, h * (HS + gate), all});
                parts.push_back({name, c.q_width() + 2 * c.kv_width() + h * gate, gate, false, h * (HS + gate) + HS, all});
            }
            return parts;
        }
        case ParamKind::sinks:
            return {block("self_attn.sinks", 0, n)};
        case ParamKind::relative_bias:
            return {block("self_attn.relative_bias", 0, n)};
        case ParamKind::q_factors:
            return {block("self_attn.q_factors", 0, n)};
        case ParamKind::k_factors:
            return {block("self_attn.k_factors", 0, n)};
        case ParamKind::q_norm:
            return {block("self_attn.q_norm", 0, n)};
        case ParamKind::k_norm:
            return {block("self_attn.k_norm", 0, n)};
        case ParamKind::attention_out:
            return {block("self_attn.o_proj", 0, n)};
        case ParamKind::fc:
            return {block("mlp.gate_proj", 0, c.d_ff), block("mlp.up_proj", c.d_ff, c.d_ff)};
        case ParamKind::mlp_out:
            return {block("mlp.down_proj", 0, n)};
        case ParamKind::final_norm:
            return {{"model.norm.weight", 0, n, false}};
        default:
            return {{"lm_head.weight", 0, n, false}};
    }
}

// Visits (golden value, index in the flat arena) of one row.
inline void visit(const Golden& golden, const char* prefix, const ParamRow& row, const ModelConfig& c,
                  const std::function<void(double, int64_t)>& body) {
    for (const Part& part : golden_names(row, c)) {
        std::vector<float> values = golden.get<float>(prefix + part.name);
        const int64_t cols = row.is_vector() ? 1 : row.cols;
        REQUIRE(static_cast<int64_t>(values.size()) == (part.file_rows ? part.file_rows : part.rows) * cols);
        for (int64_t r = 0; r < part.rows; r++)
            for (int64_t k = 0; k < cols; k++) {
                int64_t from = part.transposed ? k * part.rows + r : (part.file_begin + r) * cols + k;
                body(values[static_cast<size_t>(from)], row.offset + (part.row_begin + r) * cols + k);
            }
    }
}

inline void load_weights(const WeightStore& store, const Golden& golden) {
    for (const ParamRow& row : store.table.rows)
        visit(golden, "w.", row, store.config, [&](double value, int64_t at) { Pool::set(store.door.flat_weights(), at, value); });
}

}  // namespace traincu::test
