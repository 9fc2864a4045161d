// The presets: published model shapes, llm.c's recipes, and small models for CPUs.
#include "src/config/options.h"

namespace traincu {

using Json = nlohmann::ordered_json;

namespace {

// GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases, tied embeddings.
Json gpt2(int n_layer, int n_head, int d_model) {
    return {{"n-layer", n_layer},  {"n-head", n_head},       {"d-model", d_model},    {"seq-len", 1024},
            {"max-seq-len", 1024}, {"norm", "layernorm"},    {"position", "learned"}, {"mlp", "gelu"},
            {"bias", true},        {"tie-embeddings", true}, {"vocab-size", 50257},   {"batch-size", 4}};
}

// Llama 3 (Dubey et al. 2024): rotary positions of base 500,000, RMSNorm, SwiGLU, grouped-query attention.
Json llama3(int n_layer, int n_head, int n_kv_head, int d_model, int d_ff, int head_size, bool tied) {
    return {{"n-layer", n_layer}, {"n-head", n_head},       {"n-kv-head", n_kv_head}, {"d-model", d_model},
            {"d-ff", d_ff},       {"head-size", head_size}, {"seq-len", 4096},        {"norm", "rmsnorm"},
            {"position", "rope"}, {"rope-theta", 500000},   {"norm-eps", 1e-5},       {"mlp", "swiglu"},
            {"bias", false},      {"tie-embeddings", tied}, {"vocab-size", 128256},   {"batch-size", 1}};
}

// Qwen3 (Yang et al. 2025): as Llama, with QK-norm, heads of 128, base 1,000,000.
Json qwen3(int n_layer, int n_head, int d_model, int d_ff, bool tied) {
    return {{"n-layer", n_layer},   {"n-head", n_head}, {"n-kv-head", 8},    {"d-model", d_model}, {"d-ff", d_ff},
            {"head-size", 128},     {"seq-len", 4096},  {"norm", "rmsnorm"}, {"position", "rope"}, {"rope-theta", 1000000},
            {"norm-eps", 1e-6},     {"mlp", "swiglu"},  {"bias", false},     {"qk-norm", true},    {"tie-embeddings", tied},
            {"vocab-size", 151936}, {"batch-size", 1}};
}

Json merged(Json base, const Json& more) {
    base.update(more);
    return base;
}

// llm.c's published recipe for GPT-2 on FineWeb: 0.5M tokens a step, cosine to zero.
Json llmc_recipe(double lr, int steps) {
    return {{"batch-size", 64},
            {"total-batch-tokens", 524288},
            {"max-steps", steps},
            {"lr", lr},
            {"min-lr-fraction", 0},
            {"warmup-steps", 700},
            {"lr-schedule", "cosine"},
            {"weight-decay", 0.1},
            {"beta1", 0.9},
            {"beta2", 0.95},
            {"grad-clip", 1},
            {"val-every", 250},
            {"val-tokens", 10485760},
            {"checkpoint-every", 1000},
            {"shuffle", true}};
}

const std::vector<std::pair<std::string, Json>>& presets() {
    static const Json modern = {{"norm", "rmsnorm"}, {"position", "rope"}, {"mlp", "swiglu"},
                                {"bias", false},     {"qk-norm", true},    {"tie-embeddings", true}};
    static const std::vector<std::pair<std::string, Json>> table = {
        // clang-format off
        {"demo", merged(modern, {{"n-layer", 4}, {"n-head", 2}, {"d-model", 128}, {"d-ff", 256}, {"seq-len", 256}, {"batch-size", 8},
                                 {"max-steps", 2000}, {"lr", 4e-3}, {"min-lr-fraction", 0}, {"lr-schedule", "linear"}, {"warmup-steps", 80},
                                 {"val-every", 250}, {"sample-every", 500}, {"checkpoint-every", 500}})},
        // clang-format on
        {"tiny", {{"n-layer", 2}, {"n-head", 2}, {"d-model", 32}, {"seq-len", 64}, {"batch-size", 4}, {"max-steps", 200}, {"lr", 3e-3}}},
        {"small-gpt2",
         merged(gpt2(6, 6, 384), {{"seq-len", 256}, {"max-seq-len", 256}, {"batch-size", 16}, {"vocab-size", 0}, {"lr", 1e-3}})},
        {"small-llama", merged(modern, {{"n-layer", 6},
                                        {"n-head", 6},
                                        {"n-kv-head", 2},
                                        {"d-model", 384},
                                        {"qk-norm", false},
                                        {"seq-len", 256},
                                        {"batch-size", 16}})},
        {"gpt2-124m", gpt2(12, 12, 768)},
        {"gpt2-350m", gpt2(24, 16, 1024)},
        {"gpt2-774m", gpt2(36, 20, 1280)},
        {"gpt2-1558m", gpt2(48, 25, 1600)},
        {"gpt2-124m-llmc", merged(gpt2(12, 12, 768), llmc_recipe(6e-4, 19560))},
        {"gpt2-350m-llmc", merged(gpt2(24, 16, 1024), llmc_recipe(3e-4, 60000))},
        {"llama3-1b", llama3(16, 32, 8, 2048, 8192, 64, true)},
        {"llama3-3b", llama3(28, 24, 8, 3072, 8192, 128, true)},
        {"llama3-8b", llama3(32, 32, 8, 4096, 14336, 128, false)},
        {"qwen3-0.6b", qwen3(28, 16, 1024, 3072, true)},
        {"qwen3-1.7b", qwen3(28, 16, 2048, 6144, true)},
        {"qwen3-4b", qwen3(36, 32, 2560, 9728, true)},
        {"qwen3-8b", qwen3(36, 32, 4096, 12288, false)},
    };
    return table;
}

}  // namespace

std::vector<std::string> preset_names() {
    std::vector<std::string> names;
    for (const auto& [name, values] : presets()) names.push_back(name);
    return names;
}

Json preset(const std::string& wanted) {
    std::string known;
    for (const auto& [name, values] : presets()) {
        if (name == wanted) return values;
        known += " " + name;
    }
    throw Error(ExitCode::usage, format("--preset %s is not known", wanted.c_str()), "choose one of" + known);
}

}  // namespace traincu
