// The shape of a model: everything that decides which tensors exist and what the forward pass computes.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/error.h"

namespace traincu {

enum class NormKind { layernorm, rmsnorm };
enum class PositionKind { learned, rope, none };
enum class MlpKind { gelu, swiglu };
enum class GateKind { none, headwise, elementwise };
// Of attention's scores: slopes by head; a table by distance; factors of low rank, trained; such factors, given and not trained.
enum class BiasKind { none, alibi, relative, factors, fixed };

// Llama 3.1's stretching of the rotary wavelengths for contexts beyond those of the pretraining; kernels/rope.h has the formula.
struct RopeScaling {
    double factor = 1;  // how far the long wavelengths are stretched; 1 = not at all
    double low_freq_factor = 1, high_freq_factor = 4;
    int64_t original_max_position = 8192;  // the context of the pretraining

    bool operator==(const RopeScaling&) const = default;

    // "none", or "llama3:FACTOR:LOW:HIGH:ORIGINAL", from which the same numbers come back.
    std::string text() const;
    // Error(usage) that quotes a text of another form, or one whose numbers make no scaling.
    static RopeScaling parse(const std::string& text);
    // What is wrong with the numbers, in a few words; empty if they make a scaling.
    std::string fault() const;
};

struct ModelConfig {
    int64_t n_layer = 4, n_head = 4, n_kv_head = 4;
    int64_t d_model = 128, d_ff = 512;
    int64_t head_size = 32;     // n_head * head_size need not be d_model (Qwen3)
    int64_t vocab_size = 257;   // V
    int64_t max_seq_len = 256;  // rows of the position table; longest window
    NormKind norm = NormKind::layernorm;
    PositionKind position = PositionKind::learned;
    MlpKind mlp = MlpKind::gelu;
    bool bias = true;            // biases of linear layers and layernorms
    bool qkv_bias = false;       // without those: biases of q, k and v alone (Qwen2)
    bool qk_norm = false;        // rmsnorm of every query and key head
    bool tie_embeddings = true;  // the LM head is the embedding table
    double rope_theta = 10000;
    RopeScaling rope_scaling;
    double norm_eps = 1e-5;
    // of attention (kernels/attention.h)
    GateKind attn_gate = GateKind::none;  // of its output
    BiasKind attn_bias = BiasKind::none;  // of its scores
    int64_t bias_rank = 0;                // of factors and fixed: R; 0 for the others
    int64_t window = 0;                   // keys that a query sees; 0 = all before it
    double attn_softcap = 0;              // 0 = none
    bool attn_sinks = false;              // a learned number for each head beside its scores

    bool operator==(const ModelConfig&) const = default;

    int64_t padded_vocab() const { return (vocab_size + 63) / 64 * 64; }  // Vp: padded columns cost little, odd widths much
    int64_t q_width() const { return n_head * head_size; }
    int64_t kv_width() const { return n_kv_head * head_size; }
    // The packed projection: queries, keys, values, gate; a gate for each head is filled up to a multiple of 8, of rows that stay zero.
    int64_t gate_at() const { return q_width() + 2 * kv_width(); }
    int64_t gate_width() const { return attn_gate == GateKind::headwise ? n_head : attn_gate == GateKind::elementwise ? q_width() : 0; }
    int64_t qkv_width() const {
        return attn_gate == GateKind::headwise ? (gate_at() + gate_width() + 7) / 8 * 8 : gate_at() + gate_width();
    }
    bool has_factors() const { return attn_bias == BiasKind::factors || attn_bias == BiasKind::fixed; }
    bool has_position_tables() const { return position == PositionKind::learned || has_factors(); }  // of max_seq_len rows
    int64_t fc_width() const { return mlp == MlpKind::swiglu ? 2 * d_ff : d_ff; }                    // gate and up side by side

    // Error(usage) naming the field if the shape makes no model (heads not dividing, odd head size with rope, ...).
    void check() const;
    // Error(usage) if a context of so many tokens, asked for by `flag`, is longer than the model's tables by position.
    void check_context(int64_t tokens, const char* flag) const;
};

}  // namespace traincu
