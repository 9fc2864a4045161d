// What the checkpoint tests share: a folder that goes away, small models of every family, arenas of arbitrary bits.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "src/base/philox.h"
#include "src/checkpoint/state.h"
#include "tests/support/files.h"

namespace traincu::test {

// Sizes are odd wherever the family allows it.
inline ModelConfig small_model(const std::string& family) {
    ModelConfig c;
    c.n_layer = 2, c.n_head = c.n_kv_head = 3, c.head_size = 6, c.d_model = 18, c.d_ff = 37, c.vocab_size = 67, c.max_seq_len = 5;
    if (family == "gpt2") return c;
    c.n_head = 4, c.n_kv_head = 2, c.d_model = 20, c.position = PositionKind::rope, c.mlp = MlpKind::swiglu, c.norm = NormKind::rmsnorm, c.bias = false,
    c.tie_embeddings = false;
    if (family == "llama") c.rope_scaling = {8, 1, 4, 3};
    if (family == "qwen2") c.qkv_bias = true;
    if (family == "qwen3") c.qk_norm = true;
    if (family == "traincu")
        c.norm = NormKind::layernorm, c.bias = true, c.qk_norm = true, c.position = PositionKind::learned, c.mlp = MlpKind::gelu;
    if (family == "qwen3_next") c.qk_norm = true, c.attn_gate = GateKind::elementwise;
    return c;
}
// Attention with all that has rows of its own, in a family of this program's own.
inline ModelConfig model_with_attention(GateKind gate, BiasKind bias) {
    ModelConfig c = small_model("llama");
    c.attn_gate = gate, c.attn_bias = bias, c.bias_rank = c.has_factors() ? 3 : 0, c.attn_sinks = true, c.window = 3, c.attn_softcap = 20;
    return c;
}
inline const std::vector<std::string>& families() {
    static const std::vector<std::string> names = {"gpt2", "llama", "qwen2", "qwen3", "traincu"};
    return names;
}

// The arenas of one model. The bits are arbitrary (NaN payloads, infinities, -0): a checkpoint keeps bits, not numbers.
struct Arenas {
    // part_multiple: as several ranks pad their parts; the padding holds -1, which nobody must see.
    explicit Arenas(const ModelConfig& model, int64_t part_multiple = 16)
        : config(model), table(make_param_table(model, {}, part_multiple)) {
        for (auto* memory : {&params_memory, &m_memory, &v_memory}) memory->assign(static_cast<size_t>(table.flat_size), -1.0f);
        params = view(params_memory), m = view(m_memory), v = view(v_memory);
    }
    Arenas(const Arenas&) = delete;

    // Alignment gaps and padding rows hold zeros, as in a run.
    Arenas& fill(uint64_t seed) {
        Random random{seed, RandomStream::init};
        for (auto* memory : {&params_memory, &m_memory, &v_memory}) {
            std::fill(memory->begin(), memory->end(), 0.0f);
            uint32_t which = memory == &params_memory ? 0 : memory == &m_memory ? 1 : 2;
            for (const ParamRow& row : table.rows)
                for (int64_t i = 0; i < row.used_numel(); i++) {
                    uint32_t bits = random.bits(which, static_cast<uint64_t>(row.offset + i))[0];
                    std::memcpy(memory->data() + row.offset + i, &bits, 4);
                }
        }
        return *this;
    }
    bool same_bits(const Arenas& other) const {
        return same_params(other) && same(m_memory, other.m_memory) && same(v_memory, other.v_memory);
    }
    bool same_params(const Arenas& other) const { return same(params_memory, other.params_memory); }

    ModelConfig config;
    ParamTable table;
    std::vector<float> params_memory, m_memory, v_memory;
    Tensor params, m, v;

private:
    Tensor view(std::vector<float>& memory) { return Tensor(memory.data(), Dtype::f32, {table.flat_size}); }
    static bool same(const std::vector<float>& a, const std::vector<float>& b) {
        return std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
    }
};

inline nlohmann::ordered_json some_meta(int64_t step) {
    return {{"run_id", "r1"},
            {"tokens", step * 4096},
            {"cursor", {{"epoch", 1}, {"sample", 77}}},
            {"tokenizer", "bytes"},
            {"window", {0.1, 1e-300, 2.5}}};
}

inline std::string save(Io& io, const std::string& run_dir, int64_t step, Arenas& arenas) {
    return write_checkpoint(io, run_dir, step, arenas.config, arenas.table, arenas.params, arenas.m, arenas.v, some_meta(step));
}

// The Error that `body` throws, or a failed test.
inline Error error_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& error) {
        return error;
    } catch (const std::exception& other) {
        FAIL_CHECK("not an Error: " << other.what());
        return Error(ExitCode::done, "not an Error");
    }
    FAIL_CHECK("nothing was thrown");
    return Error(ExitCode::done, "nothing thrown");
}

inline std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
}

// What is wrong with the folders that are called checkpoints; empty if all of them are whole.
inline std::string damage_in(const std::string& run_dir) {
    std::string reasons;
    for (int64_t step : checkpoint_steps(run_dir)) try {
            open_checkpoint(run_dir + "/" + checkpoint_name(step));
        } catch (const Error& error) {
            reasons += std::string(error.what()) + "\n";
        }
    return reasons;
}

inline void ignore(const std::string&) {}

}  // namespace traincu::test
