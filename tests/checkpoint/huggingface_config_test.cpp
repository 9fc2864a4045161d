// config.json as other programs write it: what is read from it, which defaults hold, what is refused by name, and what lies in it.
#include "src/checkpoint/huggingface_config.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

using nlohmann::json;

static json small_llama() {
    return {{"model_type", "llama"},        {"vocab_size", 67},         {"hidden_size", 20},        {"intermediate_size", 37},
            {"num_hidden_layers", 2},       {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"head_dim", 6},
            {"max_position_embeddings", 5}, {"rms_norm_eps", 1e-5}};
}
static json with(json fields, const char* name, const json& value) {
    fields[name] = value;
    return fields;
}
static ModelConfig read(const json& fields) { return config_from_huggingface(fields, "config.json"); }
static std::string refusal(const json& fields) {
    Error error = error_of([&] { read(fields); });
    CHECK(error.code() == ExitCode::checkpoint);
    CHECK(error.json().find("\"file\":\"config.json\"") != std::string::npos);
    CHECK_FALSE(error.remedy().empty());
    return error.what();
}
static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_SUITE("huggingface") {
    TEST_CASE("config.json: the defaults are those of transformers") {
        ModelConfig gpt2 = read({{"model_type", "gpt2"}});  // GPT-2 124M
        CHECK(make_param_table(gpt2).count() == 124439808);
        CHECK(family_of(gpt2) == "gpt2");
        CHECK(gpt2.tie_embeddings);
        CHECK(gpt2.norm_eps == 1e-5);
        ModelConfig llama = read({{"model_type", "llama"}});  // Llama 2 7B, but for an epsilon of 1e-6
        CHECK(make_param_table(llama).count() == 6738415616);
        CHECK(llama.norm_eps == 1e-6);
        CHECK(llama.rope_theta == 10000);
        CHECK(llama.max_seq_len == 2048);
        CHECK_FALSE(llama.tie_embeddings);
        ModelConfig qwen2 = read({{"model_type", "qwen2"}});
        CHECK(family_of(qwen2) == "qwen2");
        CHECK(qwen2.n_kv_head == 32);
        CHECK(qwen2.d_ff == 22016);
        CHECK(qwen2.vocab_size == 151936);
        CHECK(qwen2.max_seq_len == 32768);
        CHECK(qwen2.head_size == 128);
        ModelConfig qwen3 = read({{"model_type", "qwen3"}, {"hidden_size", 1024}, {"num_attention_heads", 64}});
        CHECK(family_of(qwen3) == "qwen3");
        CHECK(qwen3.head_size == 128);
        CHECK(qwen3.n_kv_head == 32);
        CHECK(read({{"model_type", "qwen3"}, {"num_attention_heads", 8}, {"num_key_value_heads", nullptr}}).n_kv_head == 8);
        CHECK(read({{"model_type", "llama"}, {"num_attention_heads", 8}}).n_kv_head == 8);
        CHECK(read({{"model_type", "llama"}, {"num_attention_heads", 8}, {"head_dim", nullptr}}).head_size == 512);
        CHECK(read({{"model_type", "gpt2"}, {"n_inner", nullptr}}).d_ff == 3072);
        CHECK(read({{"model_type", "gpt2"}, {"n_inner", 100}, {"tie_word_embeddings", false}}).d_ff == 100);
    }

    TEST_CASE("config.json: rotary positions in the old spelling and the new") {
        const json scaling = {
            {"factor", 32.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
        json old_form = with(small_llama(), "rope_theta", 500000.0), new_form = small_llama(), typed = scaling, named = scaling;
        typed["type"] = "llama3", named["rope_type"] = "llama3";
        old_form["rope_scaling"] = typed;
        CHECK(read(old_form).rope_scaling == RopeScaling{32, 1, 4, 8192});
        CHECK(read(old_form).rope_theta == 500000);
        old_form["rope_scaling"] = named;
        CHECK(read(old_form).rope_scaling == RopeScaling{32, 1, 4, 8192});
        named["rope_theta"] = 500000.0;
        new_form["rope_parameters"] = named;
        CHECK(read(new_form) == read(old_form));
        new_form["rope_theta"] = 7.0;  // the object wins
        CHECK(read(new_form) == read(old_form));
        new_form["rope_scaling"] = nullptr;
        CHECK(read(new_form) == read(old_form));
        new_form["rope_scaling"] = {{"type", "default"}};  // of two objects rope_scaling wins, as in transformers
        CHECK(read(new_form).rope_scaling == RopeScaling{});
        CHECK(read(new_form).rope_theta == 7);
        named.erase("original_max_position_embeddings");
        CHECK(read(with(small_llama(), "rope_scaling", named)).rope_scaling.original_max_position == 5);  // the context
        CHECK(read(with(small_llama(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 9.0}})).rope_theta == 9);
        CHECK(read(with(small_llama(), "rope_parameters", json::object())).rope_theta == 10000);
    }

    TEST_CASE("config.json: what changes the computation and is not done here is refused by its name") {
        struct Case {
            const char *family, *field;
            json value;
        };
        const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}};
        const std::vector<Case> cases = {
            {"gpt2", "activation_function", "gelu"},
            {"gpt2", "activation_function", "relu"},
            {"gpt2", "scale_attn_weights", false},
            {"gpt2", "scale_attn_by_inverse_layer_idx", true},
            {"gpt2", "add_cross_attention", true},
            {"gpt2", "pruned_heads", {{"0", {1}}}},
            {"llama", "hidden_act", "gelu"},
            {"llama", "attention_bias", true},
            {"llama", "mlp_bias", true},
            {"llama", "partial_rotary_factor", 0.5},
            {"llama", "rope_scaling", yarn},
            {"llama", "rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
            {"llama", "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}},
            {"llama", "rope_parameters", yarn},
            {"llama", "rope_parameters", {{"rope_type", "longrope"}, {"short_factor", {1, 2}}}},
            {"llama", "rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}},
            {"llama", "rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}},
            {"llama", "quantization_config", {{"bits", 4}}},
            {"llama", "num_local_experts", 8},
            {"llama", "attn_logit_softcapping", 50.0},
            {"llama", "final_logit_softcapping", 30.0},
            {"llama", "logits_scaling", 8.0},
            {"qwen2", "use_sliding_window", true},
            {"qwen2", "num_experts", 60},
            {"qwen2", "layer_types", {"full_attention", "sliding_attention"}},
            {"qwen3", "attention_bias", true},
            {"qwen3", "use_sliding_window", true},
            {"qwen3", "is_causal", false},
        };
        for (const Case& c : cases) {
            CAPTURE(c.field);
            json fields = c.family == std::string("gpt2") ? json::object() : small_llama();
            fields["model_type"] = c.family, fields["max_window_layers"] = 1;
            CHECK_NOTHROW(read(fields));
            const std::string what = refusal(with(fields, c.field, c.value));
            const std::string name =
                has(c.field, "rotary") || !c.value.contains("partial_rotary_factor") ? c.field : "partial_rotary_factor";
            CHECK_MESSAGE(has(what, name), what);
            CHECK_MESSAGE(has(what, "does not compute"), what);
        }
        // and what says the same as leaving it out is not
        json idle = small_llama();
        idle["model_type"] = "qwen2", idle["use_sliding_window"] = true, idle["max_window_layers"] = 2, idle["sliding_window"] = 4;
        CHECK_NOTHROW(read(idle));
        idle["max_window_layers"] = 0, idle["sliding_window"] = nullptr;
        CHECK_NOTHROW(read(idle));
        idle["use_sliding_window"] = false, idle["layer_types"] = {"full_attention", "full_attention"};
        CHECK_NOTHROW(read(idle));
        for (const char* name : {"quantization_config", "num_experts", "partial_rotary_factor", "rope_scaling", "mlp_bias", "hidden_act"})
            CHECK_NOTHROW(read(with(small_llama(), name, nullptr)));
        for (const char* type : {"mistral", "gemma2", "qwen2_moe", "gpt_neox", "phi3", ""})
            CHECK(has(refusal(with(small_llama(), "model_type", type)), "model_type"));
    }

    TEST_CASE("config.json: wrong types, huge numbers and shapes that make no model name the field") {
        const std::vector<json> no_count = {
            0, -1, 1.5, "4", true, json::array(), json::object(), 1e300, uint64_t{1} << 63, int64_t{1} << 62};
        for (const char* field : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                  "num_key_value_heads", "head_dim", "max_position_embeddings"})
            for (const json& value : no_count) {
                const std::string what = refusal(with(small_llama(), field, value));
                CHECK_MESSAGE(has(what, field), what);
            }
        for (const char* field : {"n_layer", "n_head", "n_embd", "n_positions", "n_inner", "vocab_size"})
            for (const json& value : no_count) CHECK(has(refusal({{"model_type", "gpt2"}, {field, value}}), field));
        for (const json& value : std::vector<json>{"1e4", true, json::array(), 0, -1})
            CHECK(has(refusal(with(small_llama(), "rope_theta", value)), "rope_theta"));
        for (const json& value : std::vector<json>{"x", -1, 2, true}) refusal(with(small_llama(), "rms_norm_eps", value));
        for (const json& value : std::vector<json>{1, "true", json::array()})
            CHECK(has(refusal(with(small_llama(), "tie_word_embeddings", value)), "tie_word_embeddings"));
        for (const char* field : {"rope_scaling", "rope_parameters"})
            for (const json& value : std::vector<json>{1, "linear", json::array({1}), true})
                CHECK(has(refusal(with(small_llama(), field, value)), field));
        const json sound = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
        for (const char* field : {"factor", "low_freq_factor", "high_freq_factor"}) {
            json without = sound;
            without.erase(field);
            CHECK(has(refusal(with(small_llama(), "rope_scaling", without)), field));
            for (const json& value : std::vector<json>{"8", 0, -1, 1e300, nullptr})
                refusal(with(small_llama(), "rope_scaling", with(sound, field, value)));
        }
        refusal(with(small_llama(), "rope_scaling", with(sound, "original_max_position_embeddings", 1e30)));
        CHECK(has(refusal(with(with(small_llama(), "rope_scaling", sound), "original_max_position_embeddings", 7)),
                  "original_max_position_embeddings"));
        refusal(with(small_llama(), "num_key_value_heads", 3));
        refusal(with(small_llama(), "head_dim", 5));
        json uneven = small_llama();
        uneven["hidden_size"] = 21, uneven.erase("head_dim");
        CHECK(has(refusal(uneven), "num_attention_heads"));
        CHECK(has(refusal({{"model_type", "gpt2"}, {"n_head", 7}}), "n_head"));
        refusal({{"model_type", "qwen2"}, {"num_hidden_layers", 2}, {"layer_types", {"full_attention"}}});
        for (const json& type : std::vector<json>{nullptr, 1, json::array()})
            CHECK(has(refusal(with(small_llama(), "model_type", type)), "model_type"));
        CHECK(has(refusal(json::object()), "model_type"));
        refusal(json::array());
    }

    TEST_CASE("config.json: broken files") {
        TempDir dir;
        const std::string path = dir / "config.json";
        auto refused = [&](const std::string& text, const char* part) {
            write_file(path, text);
            Error error = error_of([&] { read_config_json(path); });
            CHECK(error.code() == ExitCode::checkpoint);
            CHECK_MESSAGE(has(error.what(), part), std::string(error.what()));
            CHECK(has(error.json(), "config.json"));
        };
        refused("", "not JSON");
        refused("{\"model_type\":\"gpt2\"", "not JSON");
        refused("[]", "not a JSON object");
        refused("{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_layer\":2}", "n_layer");
        refused("{\"x\":" + std::string(300'000, '['), "deeper");
        refused(std::string((1 << 20) + 1, ' '), "too large");
        refused(std::string("{\"model_type\":\"gpt2\"}\0", 22), "NUL");
        refused("{\"model_type\":\"gpt2\",\"n_layer\":99999999999999999999}", "n_layer");
        refused("{\"model_type\":\"gpt2\",\"layer_norm_epsilon\":1e999}", "config.json");
    }
}
