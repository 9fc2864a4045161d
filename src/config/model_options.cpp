#include "src/config/model_options.h"

#include "src/base/error.h"
#include "src/base/parse_number.h"

namespace traincu {

// --window as a number; 0: none.
static int64_t window_of(const std::string& text) {
    int64_t window = 0;
    if (text == "none") return window;
    if (parse_whole(text, window) && window >= 1 && window <= 1 << 28) return window;
    throw Error(ExitCode::usage, "--window '" + text + "': a token sees at least itself",
                "give the number of tokens, from 1 to 2^28, or none for all before it");
}

ModelConfig model_config(const Options& o) {
    if (o.n_head > 0 && o.head_size == 0 && o.d_model % o.n_head != 0)
        throw Error(
            ExitCode::usage,
            format("--n-head %lld does not divide --d-model %lld", static_cast<long long>(o.n_head), static_cast<long long>(o.d_model)),
            "choose a divisor, or give --head-size");
    ModelConfig c;
    c.n_layer = o.n_layer, c.n_head = o.n_head, c.n_kv_head = o.n_kv_head ? o.n_kv_head : o.n_head, c.d_model = o.d_model;
    c.head_size = o.head_size ? o.head_size : o.d_model / o.n_head;
    c.mlp = o.mlp == "swiglu" ? MlpKind::swiglu : MlpKind::gelu;
    c.d_ff = o.d_ff ? o.d_ff : c.mlp == MlpKind::swiglu ? (o.d_model * 8 / 3 + 63) / 64 * 64 : 4 * o.d_model;
    c.vocab_size = o.vocab_size, c.max_seq_len = o.max_seq_len ? o.max_seq_len : o.seq_len;
    c.norm = o.norm == "rmsnorm" ? NormKind::rmsnorm : NormKind::layernorm;
    c.position = o.position == "rope" ? PositionKind::rope : o.position == "none" ? PositionKind::none : PositionKind::learned;
    c.bias = o.bias, c.qkv_bias = o.qkv_bias, c.qk_norm = o.qk_norm, c.tie_embeddings = o.tie_embeddings;
    c.rope_theta = o.rope_theta, c.rope_scaling = RopeScaling::parse(o.rope_scaling), c.norm_eps = o.norm_eps;
    c.attn_gate = o.attn_gate == "headwise" ? GateKind::headwise : o.attn_gate == "elementwise" ? GateKind::elementwise : GateKind::none;
    const BiasOption bias = parse_attn_bias(o.attn_bias);
    c.attn_bias = bias.kind == "alibi"      ? BiasKind::alibi
                  : bias.kind == "relative" ? BiasKind::relative
                  : bias.kind == "factors"  ? BiasKind::factors
                  : bias.kind == "none"     ? BiasKind::none
                                            : BiasKind::fixed;
    // of a file the rank is known once it was read: src/command/fixed_bias.h
    if (bias.kind == "factors" || bias.kind == "fixed") c.bias_rank = std::stoll(bias.value);
    c.window = window_of(o.window), c.attn_softcap = o.attn_softcap, c.attn_sinks = o.attn_sinks;
    c.check();
    c.check_context(o.seq_len, "--seq-len");
    return c;
}

BiasOption parse_attn_bias(const std::string& text) {
    const size_t colon = text.find(':');
    const BiasOption bias{text.substr(0, colon), colon == std::string::npos ? "" : text.substr(colon + 1)};
    const bool ranked = bias.kind == "factors" || bias.kind == "fixed", filed = bias.kind == "file" || bias.kind == "spatial";
    const bool plain = bias.kind == "none" || bias.kind == "alibi" || bias.kind == "relative";
    const bool digits = !bias.value.empty() && bias.value.size() <= 4 && bias.value.find_first_not_of("0123456789") == std::string::npos;
    if (!(plain && colon == std::string::npos) && !(ranked && digits && std::stoll(bias.value) >= 1) && !(filed && !bias.value.empty()))
        throw Error(ExitCode::usage, "--attn-bias '" + text + "' is of no known form",
                    "give none, alibi, relative, factors:R as in factors:16, file:PATH or spatial:PATH");
    return bias;
}

static void set_attention_options(Options& o, const ModelConfig& c) {
    o.attn_gate = c.attn_gate == GateKind::headwise ? "headwise" : c.attn_gate == GateKind::elementwise ? "elementwise" : "none";
    o.attn_bias = c.attn_bias == BiasKind::alibi      ? "alibi"
                  : c.attn_bias == BiasKind::relative ? "relative"
                  : c.attn_bias == BiasKind::factors  ? "factors:" + std::to_string(c.bias_rank)
                  : c.attn_bias == BiasKind::fixed    ? "fixed:" + std::to_string(c.bias_rank)
                                                      : "none";
    o.window = c.window > 0 ? std::to_string(c.window) : "none", o.attn_softcap = c.attn_softcap, o.attn_sinks = c.attn_sinks;
}

void check_attention_options(const Options& o, const ModelConfig& c, const std::string& model) {
    const Options defaults;
    Options theirs;
    set_attention_options(theirs, c);
    const auto values = options_to_json(o), has = options_to_json(theirs), unasked = options_to_json(defaults);
    for (const char* name : {"attn-gate", "attn-bias", "window", "attn-softcap", "attn-sinks"})
        if (values[name] != unasked[name] && values[name] != has[name])
            throw Error(ExitCode::usage,
                        format("--%s %s contradicts the model %s, where it is %s", name, flag_text(values[name]).c_str(), model.c_str(),
                               flag_text(has[name]).c_str()),
                        format("leave --%s out: a model keeps the attention that it was trained with", name));
}

void set_model_options(Options& o, const ModelConfig& c) {
    o.n_layer = c.n_layer, o.n_head = c.n_head, o.n_kv_head = c.n_kv_head, o.d_model = c.d_model, o.d_ff = c.d_ff,
    o.head_size = c.head_size;
    o.vocab_size = c.vocab_size, o.max_seq_len = c.max_seq_len;
    o.norm = c.norm == NormKind::rmsnorm ? "rmsnorm" : "layernorm";
    o.position = c.position == PositionKind::rope ? "rope" : c.position == PositionKind::none ? "none" : "learned";
    o.mlp = c.mlp == MlpKind::swiglu ? "swiglu" : "gelu";
    o.bias = c.bias, o.qkv_bias = c.qkv_bias, o.qk_norm = c.qk_norm, o.tie_embeddings = c.tie_embeddings;
    o.rope_theta = c.rope_theta, o.rope_scaling = c.rope_scaling.text(), o.norm_eps = c.norm_eps;
    set_attention_options(o, c);
}

}  // namespace traincu
