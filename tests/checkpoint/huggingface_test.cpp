#include <map>
#include <set>

#include "src/checkpoint/huggingface.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

static std::map<std::string, ExportedTensor> by_name(const Arenas& arenas) {
    std::map<std::string, ExportedTensor> map;
    for (ExportedTensor& tensor : exported_tensors(arenas.config, arenas.table)) {
        CHECK_MESSAGE(map.count(tensor.name) == 0, tensor.name);
        map[tensor.name] = tensor;
    }
    return map;
}

TEST_SUITE("huggingface") {
    TEST_CASE("huggingface: the families are told apart") {
        for (const std::string& family : families()) CHECK(family_of(small_model(family)) == family);
        ModelConfig wide = small_model("gpt2");
        wide.head_size = 8;  // heads do not add up to the width: GPT-2 cannot express it
        CHECK(family_of(wide) == "traincu");
        ModelConfig uneven = small_model("llama");
        uneven.d_model = 18;  // 4 heads: transformers refuses a Llama whose width is no multiple of the heads
        CHECK(family_of(uneven) == "traincu");
        ModelConfig both = small_model("qwen3");
        both.qkv_bias = true;
        CHECK(family_of(both) == "traincu");
    }

    TEST_CASE("huggingface: GPT-2 has the names, shapes and orientation of GPT2LMHeadModel") {
        Arenas arenas(small_model("gpt2"));
        const std::map<std::string, std::vector<int64_t>> expected = {{"transformer.wte.weight", {67, 18}},
                                                                      {"transformer.wpe.weight", {5, 18}},
                                                                      {"transformer.ln_f.weight", {18}},
                                                                      {"transformer.ln_f.bias", {18}},
                                                                      {"transformer.h.1.ln_1.weight", {18}},
                                                                      {"transformer.h.1.ln_1.bias", {18}},
                                                                      {"transformer.h.1.attn.c_attn.weight", {18, 54}},
                                                                      {"transformer.h.1.attn.c_attn.bias", {54}},
                                                                      {"transformer.h.1.attn.c_proj.weight", {18, 18}},
                                                                      {"transformer.h.1.attn.c_proj.bias", {18}},
                                                                      {"transformer.h.1.ln_2.weight", {18}},
                                                                      {"transformer.h.1.ln_2.bias", {18}},
                                                                      {"transformer.h.1.mlp.c_fc.weight", {18, 37}},
                                                                      {"transformer.h.1.mlp.c_fc.bias", {37}},
                                                                      {"transformer.h.1.mlp.c_proj.weight", {37, 18}},
                                                                      {"transformer.h.1.mlp.c_proj.bias", {18}}};
        auto tensors = by_name(arenas);
        CHECK(tensors.size() == 4 + 2 * 12);
        for (const auto& entry : expected) {
            REQUIRE_MESSAGE(tensors.count(entry.first) == 1, entry.first);
            CHECK_MESSAGE(tensors[entry.first].shape == entry.second, entry.first);
        }
        CHECK(tensors.count("transformer.h.0.attn.c_attn.weight") == 1);
        CHECK(tensors.count("lm_head.weight") == 0);  // tied
    }

    TEST_CASE("huggingface: Llama, Qwen2 and Qwen3 have the names and shapes of their classes") {
        for (const std::string family : {"llama", "qwen2", "qwen3"}) {
            Arenas arenas(small_model(family));
            std::map<std::string, std::vector<int64_t>> expected = {{"model.embed_tokens.weight", {67, 20}},
                                                                    {"model.norm.weight", {20}},
                                                                    {"lm_head.weight", {67, 20}},
                                                                    {"model.layers.0.self_attn.q_proj.weight", {24, 20}},
                                                                    {"model.layers.0.self_attn.k_proj.weight", {12, 20}},
                                                                    {"model.layers.0.self_attn.v_proj.weight", {12, 20}},
                                                                    {"model.layers.0.self_attn.o_proj.weight", {20, 24}},
                                                                    {"model.layers.0.mlp.gate_proj.weight", {37, 20}},
                                                                    {"model.layers.0.mlp.up_proj.weight", {37, 20}},
                                                                    {"model.layers.0.mlp.down_proj.weight", {20, 37}},
                                                                    {"model.layers.0.input_layernorm.weight", {20}},
                                                                    {"model.layers.0.post_attention_layernorm.weight", {20}}};
            if (family == "qwen2") {
                expected["model.layers.0.self_attn.q_proj.bias"] = {24};
                expected["model.layers.0.self_attn.k_proj.bias"] = expected["model.layers.0.self_attn.v_proj.bias"] = {12};
            }
            if (family == "qwen3")
                expected["model.layers.0.self_attn.q_norm.weight"] = expected["model.layers.0.self_attn.k_norm.weight"] = {6};
            auto tensors = by_name(arenas);
            CHECK(tensors.size() == 3 + 2 * (expected.size() - 3));
            for (const auto& entry : expected) {
                REQUIRE_MESSAGE(tensors.count(entry.first) == 1, entry.first);
                CHECK_MESSAGE(tensors[entry.first].shape == entry.second, entry.first);
                CHECK_FALSE(tensors[entry.first].transposed);
            }
        }
    }

    TEST_CASE("huggingface: exported values are those of the arena, transposed only where GPT-2 is, every parameter once") {
        for (const std::string& family : families()) {
            Arenas arenas(small_model(family));
            arenas.fill(3);
            std::vector<int> seen(static_cast<size_t>(arenas.table.flat_size), 0);
            for (const ExportedTensor& tensor : exported_tensors(arenas.config, arenas.table)) {
                const ParamRow& row = arenas.table.rows[static_cast<size_t>(tensor.row)];
                std::vector<float> out;
                export_values(tensor, row, arenas.params_memory.data() + row.offset,
                              [&](const float* values, int64_t count) { out.insert(out.end(), values, values + count); });
                const int64_t count = tensor.slice.row_count(), width = row.is_vector() ? 1 : row.cols;
                const int64_t rows = row.is_vector() ? 1 : count, cols = row.is_vector() ? count : row.cols;
                const int64_t start = row.offset + tensor.slice.ranges.at(0).begin * width;
                REQUIRE(tensor.slice.ranges.size() == 1);
                REQUIRE(static_cast<int64_t>(out.size()) == rows * cols);
                int wrong = 0;
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t c = 0; c < cols; c++) {
                        const float& stored = out[static_cast<size_t>(tensor.transposed ? c * rows + r : r * cols + c)];
                        wrong += std::memcmp(&stored, &arenas.params_memory[static_cast<size_t>(start + r * cols + c)], 4) != 0;
                        seen[static_cast<size_t>(start + r * cols + c)]++;
                    }
                CHECK_MESSAGE(wrong == 0, tensor.name);
            }
            for (const ParamRow& row : arenas.table.rows)
                for (int64_t i = 0; i < row.numel(); i++)
                    REQUIRE(seen[static_cast<size_t>(row.offset + i)] == (i < row.used_numel() ? 1 : 0));
        }
    }

    TEST_CASE("huggingface: with a gate, q_proj holds each head's query rows and then its gate's") {
        for (GateKind gate : {GateKind::headwise, GateKind::elementwise}) {
            Arenas arenas(model_with_attention(gate, BiasKind::relative));  // 4 query heads of 6, 2 key heads, d_model 20
            const int64_t width = gate == GateKind::headwise ? 1 : 6, C = 20, gate_at = 4 * 6 + 2 * 2 * 6;
            for (size_t i = 0; i < arenas.params_memory.size(); i++) arenas.params_memory[i] = static_cast<float>(i);
            auto tensors = by_name(arenas);
            const ExportedTensor& q = tensors["model.layers.1.self_attn.q_proj.weight"];
            CHECK(q.shape == std::vector<int64_t>{4 * (6 + width), C});
            const ParamRow& row = arenas.table.rows[static_cast<size_t>(q.row)];
            CHECK(row.rows == (gate == GateKind::headwise ? 56 : 72));
            CHECK(row.used_rows == gate_at + 4 * width);
            std::vector<float> out;
            export_values(q, row, arenas.params_memory.data() + row.offset,
                          [&](const float* values, int64_t count) { out.insert(out.end(), values, values + count); });
            REQUIRE(static_cast<int64_t>(out.size()) == 4 * (6 + width) * C);
            for (int64_t h = 0; h < 4; h++)
                for (int64_t r = 0; r < 6 + width; r++) {
                    const int64_t from = r < 6 ? h * 6 + r : gate_at + h * width + r - 6;
                    REQUIRE(out[static_cast<size_t>((h * (6 + width) + r) * C)] == static_cast<float>(row.offset + from * C));
                }
            CHECK(tensors["model.layers.0.self_attn.sinks.weight"].shape == std::vector<int64_t>{4});
            CHECK(tensors["model.layers.0.self_attn.relative_bias.weight"].shape == std::vector<int64_t>{4, 144});
        }
    }

    TEST_CASE("huggingface: Qwen3-Next stores its gains less 1, its checkpoints do not") {
        Arenas arenas(small_model("qwen3_next"));
        CHECK(family_of(arenas.config) == "qwen3_next");
        CHECK(checkpoint_family(arenas.config) == "traincu");
        for (size_t i = 0; i < arenas.params_memory.size(); i++) arenas.params_memory[i] = 1 + static_cast<float>(i % 64) / 64;
        for (const char* family : {"qwen3_next", "traincu"})
            for (const ExportedTensor& tensor : exported_tensors(arenas.config, arenas.table, family)) {
                const ParamRow& row = arenas.table.rows[static_cast<size_t>(tensor.row)];
                const bool gain = tensor.name.find("norm") != std::string::npos, less = gain && family == std::string("qwen3_next");
                std::vector<float> out;
                export_values(tensor, row, arenas.params_memory.data() + row.offset,
                              [&](const float* values, int64_t count) { out.insert(out.end(), values, values + count); });
                CHECK_MESSAGE(out[0] == arenas.params_memory[static_cast<size_t>(row.offset + tensor.slice.ranges[0].begin *
                                                                                                  (row.is_vector() ? 1 : row.cols))] -
                                            (less ? 1 : 0),
                              tensor.name);
            }
        const nlohmann::ordered_json config = huggingface_config(arenas.config, {});
        CHECK(config["architectures"][0] == "Qwen3NextForCausalLM");
        CHECK(config_from_huggingface(nlohmann::json::parse(config.dump()), "f") == arenas.config);
        for (const char* field : {"num_experts", "partial_rotary_factor", "layer_types"}) {  // their defaults are other models
            nlohmann::json without = nlohmann::json::parse(config.dump());
            without.erase(field);
            CHECK(error_of([&] { config_from_huggingface(without, "f"); }).code() == ExitCode::checkpoint);
        }
    }

    TEST_CASE("huggingface: a matrix of several pieces is transposed right across their borders") {
        ModelConfig config = small_model("gpt2");
        config.n_layer = 1, config.n_head = config.n_kv_head = 1, config.head_size = config.d_model = 1100, config.d_ff = 1900;
        Arenas arenas(config);
        for (size_t i = 0; i < arenas.params_memory.size(); i++) arenas.params_memory[i] = static_cast<float>(i % 8388593);
        for (const ExportedTensor& tensor : exported_tensors(config, arenas.table)) {
            if (tensor.name != "transformer.h.0.mlp.c_fc.weight") continue;
            const ParamRow& row = arenas.table.rows[static_cast<size_t>(tensor.row)];
            std::vector<float> out;
            int pieces = 0;
            export_values(tensor, row, arenas.params_memory.data() + row.offset,
                          [&](const float* values, int64_t count) { out.insert(out.end(), values, values + count), pieces++; });
            CHECK(pieces > 1);
            int wrong = 0;
            for (int64_t o = 0; o < 1900; o++)
                for (int64_t i = 0; i < 1100; i++)
                    wrong += out[static_cast<size_t>(i * 1900 + o)] != arenas.params_memory[static_cast<size_t>(row.offset + o * 1100 + i)];
            CHECK(wrong == 0);
        }
    }

    TEST_CASE("huggingface: config.json has the fields that transformers reads") {
        auto gpt2 = huggingface_config(small_model("gpt2"), {{"eos_token_id", 66}});
        CHECK(gpt2["architectures"][0] == "GPT2LMHeadModel");
        CHECK(gpt2["model_type"] == "gpt2");
        CHECK(gpt2["n_embd"] == 18);
        CHECK(gpt2["n_inner"] == 37);
        CHECK(gpt2["n_positions"] == 5);
        CHECK(gpt2["activation_function"] == "gelu_new");
        CHECK(gpt2["eos_token_id"] == 66);
        CHECK(gpt2["bos_token_id"].is_null());
        auto qwen = huggingface_config(small_model("qwen3"), {});
        CHECK(qwen["architectures"][0] == "Qwen3ForCausalLM");
        CHECK(qwen["num_key_value_heads"] == 2);
        CHECK(qwen["head_dim"] == 6);
        CHECK(qwen["hidden_act"] == "silu");
        CHECK(qwen["tie_word_embeddings"] == false);
        CHECK(qwen["rms_norm_eps"] == 1e-5);
        CHECK(qwen["rope_theta"] == 10000);
        CHECK(qwen["torch_dtype"] == "float32");
        CHECK(huggingface_config(small_model("qwen3"), {}, "bfloat16")["torch_dtype"] == "bfloat16");
        auto llama = huggingface_config(small_model("llama"), {});
        CHECK(llama["architectures"][0] == "LlamaForCausalLM");
        CHECK(llama["rope_scaling"] == nlohmann::ordered_json{{"rope_type", "llama3"},
                                                              {"factor", 8.0},
                                                              {"low_freq_factor", 1.0},
                                                              {"high_freq_factor", 4.0},
                                                              {"original_max_position_embeddings", 3}});
        CHECK_FALSE(qwen.contains("rope_scaling"));
        auto qwen2 = huggingface_config(small_model("qwen2"), {});
        CHECK(qwen2["architectures"][0] == "Qwen2ForCausalLM");
        CHECK(qwen2["model_type"] == "qwen2");
        // what transformers reads stands there once: no second description that could go stale
        for (const char* family : {"gpt2", "llama", "qwen2", "qwen3"})
            CHECK_FALSE(huggingface_config(small_model(family), {}).contains("traincu"));
        CHECK(huggingface_config(small_model("traincu"), {}).contains("traincu"));
    }

    TEST_CASE("huggingface: every ModelConfig comes back from its config.json, exactly") {
        TempDir dir;
        int count = 0;
        for (int bits = 0; bits < 384; bits++) {
            ModelConfig c = small_model("llama");
            c.norm = bits & 1 ? NormKind::layernorm : NormKind::rmsnorm;
            c.bias = c.norm == NormKind::layernorm && bits & 2;
            c.mlp = bits & 4 ? MlpKind::gelu : MlpKind::swiglu;
            c.qk_norm = bits & 8, c.tie_embeddings = bits & 16;
            c.position = (bits >> 5) % 3 == 0 ? PositionKind::learned : (bits >> 5) % 3 == 1 ? PositionKind::rope : PositionKind::none;
            if (c.position != PositionKind::rope || bits >= 192) c.rope_scaling = {};
            c.qkv_bias = !c.bias && bits % 192 >= 96;
            c.rope_theta = 500000.1, c.norm_eps = 1.0 / 3;  // digits that only full precision keeps
            write_file(dir / "config.json", huggingface_config(c, {}).dump());
            CHECK(read_config_json(dir / "config.json") == c);
            count++;
        }
        CHECK(count == 384);
    }

    TEST_CASE("huggingface: a config.json that makes no model is refused by field") {
        TempDir dir;
        const nlohmann::ordered_json sound = config_fields(small_model("llama"));
        auto refused = [&](const char* field, nlohmann::ordered_json value) {
            nlohmann::ordered_json fields = sound;
            if (value.is_discarded())
                fields.erase(field);
            else
                fields[field] = value;
            Error error = error_of([&] { config_from_fields(fields, "f"); });
            CHECK(error.code() == ExitCode::checkpoint);
            CHECK_MESSAGE(std::string(error.what()).find(field) != std::string::npos, error.what());
        };
        for (auto& [field, value] : sound.items()) {
            const std::set<std::string> later = {"qkv_bias",  "rope_scaling", "attn_gate",    "attn_bias",
                                                 "bias_rank", "window",       "attn_softcap", "attn_sinks"};
            const bool newer = later.contains(field);  // older checkpoints have none
            if (!newer) refused(field.c_str(), nlohmann::ordered_json(nlohmann::ordered_json::value_t::discarded));
            refused(field.c_str(), {{"no", "value"}});
            refused(field.c_str(), nullptr);
            if (value.is_number_integer())
                for (nlohmann::ordered_json bad :
                     std::vector<nlohmann::ordered_json>{0, -1, 1.5, "4", true, 1e300, uint64_t{1} << 63, int64_t{1} << 62})
                    if (bad != 0 || !newer) refused(field.c_str(), bad);
        }
        refused("attn_gate", "sideways"), refused("attn_bias", "file"), refused("attn_softcap", -1);
        CHECK(error_of([&] { config_from_fields({{"n_layer", 1}}, "f"); }).code() == ExitCode::checkpoint);
        refused("rope_scaling", "llama3:1:2");
        nlohmann::ordered_json older = sound;
        for (const char* field :
             {"qkv_bias", "rope_scaling", "attn_gate", "attn_bias", "bias_rank", "window", "attn_softcap", "attn_sinks"})
            older.erase(field);
        ModelConfig unscaled = small_model("llama");
        unscaled.rope_scaling = {};
        CHECK(config_from_fields(older, "f") == unscaled);
        nlohmann::ordered_json uneven = sound;
        uneven["n_kv_head"] = 3;
        CHECK(error_of([&] { config_from_fields(uneven, "f"); }).code() == ExitCode::checkpoint);

        for (const char* text : {"", "{", "[]", "null", "{}", "{\"traincu\":[]}", "{\"model_type\":\"traincu\"}",
                                 "{\"model_type\":\"traincu\",\"traincu\":[]}", "{\"model_type\":\"traincu\",\"traincu\":{}}", "\xFF"}) {
            write_file(dir / "config.json", text);
            CHECK(error_of([&] { read_config_json(dir / "config.json"); }).code() == ExitCode::checkpoint);
        }
        write_file(dir / "config.json", std::string(500000, '['));
        CHECK(error_of([&] { read_config_json(dir / "config.json"); }).code() == ExitCode::checkpoint);
    }
}
