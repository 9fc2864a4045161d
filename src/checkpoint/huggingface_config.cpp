#include "src/checkpoint/huggingface_config.h"

#include <cmath>

#include "src/base/json.h"
#include "src/checkpoint/io.h"

namespace traincu {

using nlohmann::json;
using nlohmann::ordered_json;

std::string family_of(const ModelConfig& c) {
    const bool plain_scores = c.attn_bias == BiasKind::none && c.window == 0 && c.attn_softcap == 0 && !c.attn_sinks;
    if (!plain_scores || c.attn_gate == GateKind::headwise) return "traincu";
    const bool gated = c.attn_gate == GateKind::elementwise;
    if (!gated && c.norm == NormKind::layernorm && c.position == PositionKind::learned && c.mlp == MlpKind::gelu && c.bias && !c.qk_norm &&
        c.n_kv_head == c.n_head && c.q_width() == c.d_model)
        return "gpt2";
    if (c.norm == NormKind::rmsnorm && c.position == PositionKind::rope && c.mlp == MlpKind::swiglu && !c.bias) {
        if (c.qk_norm) return c.qkv_bias ? "traincu" : gated ? "qwen3_next" : "qwen3";
        if (gated) return "traincu";
        if (c.qkv_bias) return "qwen2";
        return c.d_model % c.n_head == 0 ? "llama" : "traincu";  // transformers insists, whatever the head size
    }
    return "traincu";
}

std::string checkpoint_family(const ModelConfig& c) {
    const std::string family = family_of(c);
    return family == "qwen3_next" ? "traincu" : family;
}

static const char* name_of(NormKind kind) { return kind == NormKind::layernorm ? "layernorm" : "rmsnorm"; }
static const char* name_of(PositionKind kind) {
    return kind == PositionKind::learned ? "learned" : kind == PositionKind::rope ? "rope" : "none";
}
static const char* name_of(MlpKind kind) { return kind == MlpKind::gelu ? "gelu" : "swiglu"; }
static const char* name_of(GateKind kind) {
    return kind == GateKind::headwise ? "headwise" : kind == GateKind::elementwise ? "elementwise" : "none";
}
static const char* name_of(BiasKind kind) {
    switch (kind) {
        case BiasKind::none:
            return "none";
        case BiasKind::alibi:
            return "alibi";
        case BiasKind::relative:
            return "relative";
        case BiasKind::factors:
            return "factors";
        case BiasKind::fixed:
            return "fixed";
    }
    return "none";
}

ordered_json config_fields(const ModelConfig& c) {
    return {{"n_layer", c.n_layer},
            {"n_head", c.n_head},
            {"n_kv_head", c.n_kv_head},
            {"d_model", c.d_model},
            {"d_ff", c.d_ff},
            {"head_size", c.head_size},
            {"vocab_size", c.vocab_size},
            {"max_seq_len", c.max_seq_len},
            {"norm", name_of(c.norm)},
            {"position", name_of(c.position)},
            {"mlp", name_of(c.mlp)},
            {"bias", c.bias},
            {"qkv_bias", c.qkv_bias},
            {"qk_norm", c.qk_norm},
            {"tie_embeddings", c.tie_embeddings},
            {"rope_theta", c.rope_theta},
            {"rope_scaling", c.rope_scaling.text()},
            {"norm_eps", c.norm_eps},
            {"attn_gate", name_of(c.attn_gate)},
            {"attn_bias", name_of(c.attn_bias)},
            {"bias_rank", c.bias_rank},
            {"window", c.window},
            {"attn_softcap", c.attn_softcap},
            {"attn_sinks", c.attn_sinks}};
}

// ----------------------------------------------------------------------------------------------------------------------
// reading

namespace {

// Takes fields out of an untrusted object, with their types and ranges checked.
class FieldReader {
public:
    FieldReader(const json& fields, const std::string& file) : fields_(fields), file_(file) {
        if (!fields.is_object()) refuse("the model's fields are no object");
    }

    bool contains(const char* name) const { return fields_.contains(name); }
    bool has(const char* name) const { return contains(name) && !fields_.at(name).is_null(); }  // null: Python's None
    const json& at(const char* name) const {
        auto found = fields_.find(name);
        if (found == fields_.end()) refuse(format("the field %s is missing", name));
        return *found;
    }

    // With `optional`, an absent field leaves the value as it is.
    void integer(const char* name, int64_t& value, int64_t largest, bool optional = false, int64_t smallest = 1) const {
        if (optional && !has(name)) return;
        const json& field = at(name);
        if (!field.is_number_integer() || field < smallest || field > largest)
            refuse(format("%s must be a whole number from %lld to %lld", name, static_cast<long long>(smallest),
                          static_cast<long long>(largest)));
        value = field.get<int64_t>();
    }
    void real(const char* name, double& value, bool optional = false) const {
        if (optional && !has(name)) return;
        if (!at(name).is_number()) refuse(format("%s must be a number", name));
        value = at(name).get<double>();
    }
    void positive(const char* name, double& value, bool optional = false) const {
        real(name, value, optional);
        if (!(value > 0) || std::isinf(value)) refuse(format("%s must be a number above 0", name));
    }
    void flag(const char* name, bool& value, bool optional = false) const {
        if (optional && !has(name)) return;
        if (!at(name).is_boolean()) refuse(format("%s must be true or false", name));
        value = at(name).get<bool>();
    }
    void text(const char* name, std::string& value, bool optional = false) const {
        if (optional && !has(name)) return;
        if (!at(name).is_string()) refuse(format("%s must be a text", name));
        value = at(name).get<std::string>();
    }
    template <class Kind>
    void choice(const char* name, Kind& value, std::initializer_list<Kind> choices) const {
        for (Kind kind : choices)
            if (at(name) == name_of(kind)) return void(value = kind);
        refuse(format("%s has a value that this program does not know", name));
    }
    // A field whose other values would change the computation.
    void only(const char* name, const json& neutral) const {
        if (has(name) && at(name) != neutral) not_done(name);
    }

    [[noreturn]] void refuse(const std::string& what) const {
        throw Error(ExitCode::checkpoint, format("%s: %s", file_.c_str(), what.c_str()),
                    "this describes no model of this program; was the file edited?")
            .file(file_);
    }
    [[noreturn]] void not_done(const char* name) const {
        std::string value = at(name).dump(-1, ' ', false, json::error_handler_t::replace);
        if (value.size() > 60) value = value.substr(0, 60) + "...";
        throw Error(ExitCode::checkpoint, format("%s: %s is %s, which this program does not compute", file_.c_str(), name, value.c_str()),
                    "only models of the plain GPT-2, Llama, Qwen2 and Qwen3 forms can be used, and Qwen3-Next's without its linear layers "
                    "and experts")
            .file(file_);
    }
    const std::string& file() const { return file_; }

private:
    const json& fields_;
    const std::string& file_;
};

// The bounds keep every product below 2^63; no model comes near them.
constexpr int64_t most_layers = 10'000, most_heads = 65'536, widest = 1 << 20, widest_mlp = 1 << 22, widest_head = 1 << 14,
                  most_tokens = 1 << 28;

ModelConfig checked(const ModelConfig& c, const FieldReader& reader) {
    if (c.q_width() > 1 << 24) reader.refuse("heads x head size is beyond 2^24");
    if (c.has_factors() && c.bias_rank * c.n_head > (int64_t{1} << 38) / c.max_seq_len)
        reader.refuse("the factors of attention's bias are beyond 2^38 numbers");
    if (!(c.norm_eps >= 0 && c.norm_eps <= 1)) reader.refuse("the epsilon of the norms must be from 0 to 1");
    try {
        c.check();
    } catch (const Error& error) {
        reader.refuse(error.what());
    }
    return c;
}

RopeScaling read_scaling(const FieldReader& fields, int64_t context) {
    RopeScaling s;
    fields.real("factor", s.factor), fields.real("low_freq_factor", s.low_freq_factor);
    fields.real("high_freq_factor", s.high_freq_factor);
    s.original_max_position = context;
    fields.integer("original_max_position_embeddings", s.original_max_position, most_tokens, true);
    if (std::string fault = s.fault(); !fault.empty()) fields.refuse("rope scaling: " + fault);
    return s.factor == 1 ? RopeScaling{} : s;
}

// rope_theta and rope_scaling of old, or the rope_parameters that hold both; where there are two, rope_scaling wins, as in transformers.
void read_rope(const FieldReader& fields, ModelConfig& c) {
    fields.positive("rope_theta", c.rope_theta, true);
    fields.only("partial_rotary_factor", 1.0);
    for (const char* name : {"rope_scaling", "rope_parameters"}) {
        if (!fields.has(name)) continue;
        const json& object = fields.at(name);
        if (!object.is_object()) fields.refuse(format("%s must be an object", name));
        if (object.empty()) continue;
        for (const auto& [key, value] : object.items())
            if (value.is_structured()) fields.not_done(name);  // parameters by kind of layer, or by frequency
        const FieldReader rope(object, fields.file());
        rope.positive("rope_theta", c.rope_theta, true);
        rope.only("partial_rotary_factor", 1.0);
        std::string type = "default";
        rope.text(rope.has("rope_type") ? "rope_type" : "type", type, true);
        if (type == "llama3") {
            fields.only("original_max_position_embeddings", object.value("original_max_position_embeddings", json(c.max_seq_len)));
            c.rope_scaling = read_scaling(rope, c.max_seq_len);
        } else if (type != "default") {
            fields.not_done(name);
        }
        return;
    }
}

ModelConfig read_gpt2(const FieldReader& fields) {
    ModelConfig c;
    c.n_layer = c.n_head = 12, c.d_model = 768, c.vocab_size = 50257, c.max_seq_len = 1024;
    fields.integer("n_layer", c.n_layer, most_layers, true), fields.integer("n_head", c.n_head, most_heads, true);
    fields.integer("n_embd", c.d_model, widest, true), fields.integer("n_positions", c.max_seq_len, most_tokens, true);
    c.d_ff = 4 * c.d_model;
    fields.integer("n_inner", c.d_ff, widest_mlp, true);
    fields.real("layer_norm_epsilon", c.norm_eps, true);
    std::string activation = "gelu_new";
    fields.text("activation_function", activation, true);
    if (activation != "gelu_new" && activation != "gelu_pytorch_tanh") fields.not_done("activation_function");
    fields.only("scale_attn_weights", true), fields.only("scale_attn_by_inverse_layer_idx", false);
    fields.only("add_cross_attention", false), fields.only("pruned_heads", json::object());
    if (c.d_model % c.n_head != 0) fields.refuse("n_head does not divide n_embd");
    c.n_kv_head = c.n_head, c.head_size = c.d_model / c.n_head;
    return c;
}

// Llama and its descendants: what differs are three defaults, and two fields that only some of them have.
ModelConfig read_llama(const FieldReader& fields, const std::string& family) {
    const bool qwen = family != "llama", next = family == "qwen3_next";
    if (next) {  // whose defaults are experts, three linear layers of four, and rotation of a quarter of each head
        for (const char* name : {"num_experts", "partial_rotary_factor", "layer_types"}) fields.at(name);
        if (fields.at("num_experts") != 0) fields.not_done("num_experts");
    }
    ModelConfig c;
    c.norm = NormKind::rmsnorm, c.position = PositionKind::rope, c.mlp = MlpKind::swiglu, c.bias = false;
    c.qkv_bias = family == "qwen2", c.qk_norm = family == "qwen3" || next, c.tie_embeddings = false;
    if (next) c.attn_gate = GateKind::elementwise;
    c.n_layer = c.n_head = 32, c.d_model = 4096, c.d_ff = qwen ? 22016 : 11008, c.norm_eps = 1e-6;
    c.vocab_size = qwen ? 151936 : 32000, c.max_seq_len = qwen ? 32768 : 2048;
    fields.integer("num_hidden_layers", c.n_layer, most_layers, true), fields.integer("num_attention_heads", c.n_head, most_heads, true);
    // null: as many as query heads; left out: the same in Llama, and 32 in Qwen's classes
    c.n_kv_head = qwen && !fields.contains("num_key_value_heads") ? (next ? 2 : 32) : c.n_head;
    fields.integer("num_key_value_heads", c.n_kv_head, most_heads, true);
    fields.integer("hidden_size", c.d_model, widest, true), fields.integer("intermediate_size", c.d_ff, widest_mlp, true);
    fields.integer("max_position_embeddings", c.max_seq_len, most_tokens, true);
    fields.real("rms_norm_eps", c.norm_eps, true);
    c.head_size = next ? 256 : family == "qwen3" ? 128 : c.d_model / c.n_head;
    if (!fields.has("head_dim") && family != "qwen3" && !next && c.d_model % c.n_head != 0)
        fields.refuse("num_attention_heads does not divide hidden_size, and there is no head_dim");
    fields.integer("head_dim", c.head_size, widest_head, true);
    std::string activation = "silu";
    fields.text("hidden_act", activation, true);
    if (activation != "silu" && activation != "swish") fields.not_done("hidden_act");
    if (family != "qwen2") fields.only("attention_bias", false);
    fields.only("mlp_bias", false);
    read_rope(fields, c);
    if (!qwen) return c;

    bool windowed = false;
    double full_layers = 28;  // the layers after these slide
    fields.flag("use_sliding_window", windowed, true);
    fields.real("max_window_layers", full_layers, true);
    if (fields.has("layer_types")) {
        const json& types = fields.at("layer_types");
        if (!types.is_array() || static_cast<int64_t>(types.size()) != c.n_layer)
            fields.refuse("layer_types must list the kind of every layer");
        for (const json& type : types)
            if (type != "full_attention") fields.not_done("layer_types");
    } else if (windowed && (fields.has("sliding_window") || !fields.contains("sliding_window")) &&
               full_layers < static_cast<double>(c.n_layer)) {
        fields.not_done("use_sliding_window");
    }
    return c;
}

}  // namespace

ModelConfig config_from_fields(const json& fields, const std::string& file) {
    FieldReader reader(fields, file);
    ModelConfig c;
    reader.integer("n_layer", c.n_layer, most_layers), reader.integer("n_head", c.n_head, most_heads),
        reader.integer("n_kv_head", c.n_kv_head, most_heads);
    reader.integer("d_model", c.d_model, widest), reader.integer("d_ff", c.d_ff, widest_mlp),
        reader.integer("head_size", c.head_size, widest_head);
    reader.integer("vocab_size", c.vocab_size, most_tokens), reader.integer("max_seq_len", c.max_seq_len, most_tokens);
    reader.choice("norm", c.norm, {NormKind::layernorm, NormKind::rmsnorm});
    reader.choice("position", c.position, {PositionKind::learned, PositionKind::rope, PositionKind::none});
    reader.choice("mlp", c.mlp, {MlpKind::gelu, MlpKind::swiglu});
    reader.flag("bias", c.bias), reader.flag("qk_norm", c.qk_norm), reader.flag("tie_embeddings", c.tie_embeddings);
    reader.real("rope_theta", c.rope_theta), reader.real("norm_eps", c.norm_eps);
    if (reader.contains("qkv_bias")) reader.flag("qkv_bias", c.qkv_bias);
    if (reader.contains("rope_scaling")) {
        std::string text;
        reader.text("rope_scaling", text);
        try {
            c.rope_scaling = RopeScaling::parse(text);
        } catch (const Error& error) {
            reader.refuse(std::string("rope_scaling: ") + error.what());
        }
    }
    if (reader.contains("attn_gate")) reader.choice("attn_gate", c.attn_gate, {GateKind::none, GateKind::headwise, GateKind::elementwise});
    if (reader.contains("attn_bias"))
        reader.choice("attn_bias", c.attn_bias, {BiasKind::none, BiasKind::alibi, BiasKind::relative, BiasKind::factors, BiasKind::fixed});
    if (reader.contains("bias_rank")) reader.integer("bias_rank", c.bias_rank, widest_head, false, 0);
    if (reader.contains("window")) reader.integer("window", c.window, most_tokens, false, 0);
    if (reader.contains("attn_softcap")) reader.real("attn_softcap", c.attn_softcap);
    if (!(c.attn_softcap >= 0 && c.attn_softcap <= 1e6)) reader.refuse("attn_softcap must be from 0 to 1e6");
    if (reader.contains("attn_sinks")) reader.flag("attn_sinks", c.attn_sinks);
    return checked(c, reader);
}

ModelConfig config_from_huggingface(const json& object, const std::string& file) {
    const FieldReader fields(object, file);
    std::string family;
    fields.text("model_type", family);
    if (family == "traincu") return config_from_fields(fields.at("traincu"), file);
    if (family != "gpt2" && family != "llama" && family != "qwen2" && family != "qwen3" && family != "qwen3_next")
        throw Error(ExitCode::checkpoint, format("%s: the model_type \"%s\" is not known", file.c_str(), family.c_str()),
                    "models of the types gpt2, llama, qwen2, qwen3 and qwen3_next can be used")
            .file(file);
    // Whatever the family, these turn a model into another one.
    for (const char* name : {"quantization_config", "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier",
                             "num_experts", "num_local_experts", "n_routed_experts", "attention_sinks"})
        if (family != "qwen3_next" || name != std::string("num_experts")) fields.only(name, nullptr);
    for (const char* name : {"embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"}) fields.only(name, 1.0);
    fields.only("is_causal", true), fields.only("use_bidirectional_attention", false), fields.only("is_encoder_decoder", false);
    ModelConfig c = family == "gpt2" ? read_gpt2(fields) : read_llama(fields, family);
    fields.integer("vocab_size", c.vocab_size, most_tokens, true);
    fields.flag("tie_word_embeddings", c.tie_embeddings, true);
    return checked(c, fields);
}

json read_json_object(const std::string& path) {
    json object = parse_untrusted(read_small_file(path, 1 << 20), 16, path, ExitCode::checkpoint);
    if (!object.is_object())
        throw Error(ExitCode::checkpoint, path + " is not a JSON object", "the file is damaged or of another kind: copy it again")
            .file(path);
    return object;
}

ModelConfig read_config_json(const std::string& path) { return config_from_huggingface(read_json_object(path), path); }

// ----------------------------------------------------------------------------------------------------------------------
// writing

ordered_json huggingface_config(const ModelConfig& c, const ordered_json& meta, const std::string& dtype,
                                const std::string& wanted_family) {
    const std::string family = wanted_family.empty() ? family_of(c) : wanted_family;
    ordered_json j;
    j["architectures"] = {family == "gpt2"         ? "GPT2LMHeadModel"
                          : family == "llama"      ? "LlamaForCausalLM"
                          : family == "qwen2"      ? "Qwen2ForCausalLM"
                          : family == "qwen3"      ? "Qwen3ForCausalLM"
                          : family == "qwen3_next" ? "Qwen3NextForCausalLM"
                                                   : "TrainCuForCausalLM"};
    j["model_type"] = family;
    j["vocab_size"] = c.vocab_size;
    if (family == "gpt2") {
        j["n_layer"] = c.n_layer, j["n_head"] = c.n_head, j["n_embd"] = c.d_model, j["n_inner"] = c.d_ff, j["n_positions"] = c.max_seq_len;
        j["activation_function"] = "gelu_new", j["layer_norm_epsilon"] = c.norm_eps;
        j["resid_pdrop"] = 0.0, j["embd_pdrop"] = 0.0, j["attn_pdrop"] = 0.0;  // this program trains without dropout
    } else if (family != "traincu") {
        j["num_hidden_layers"] = c.n_layer, j["num_attention_heads"] = c.n_head, j["num_key_value_heads"] = c.n_kv_head;
        j["hidden_size"] = c.d_model, j["intermediate_size"] = c.d_ff, j["head_dim"] = c.head_size,
        j["max_position_embeddings"] = c.max_seq_len;
        j["hidden_act"] = "silu", j["rms_norm_eps"] = c.norm_eps, j["attention_dropout"] = 0.0;
        if (family != "qwen2") j["attention_bias"] = false;
        if (family == "qwen3_next") {
            j["num_experts"] = 0, j["partial_rotary_factor"] = 1.0;
            j["layer_types"] = std::vector<std::string>(static_cast<size_t>(c.n_layer), "full_attention");
        }
        // the older spelling, which transformers 4 and 5 both read
        j["rope_theta"] = c.rope_theta;
        const RopeScaling& s = c.rope_scaling;
        if (s.factor != 1)
            j["rope_scaling"] = {{"rope_type", "llama3"},
                                 {"factor", s.factor},
                                 {"low_freq_factor", s.low_freq_factor},
                                 {"high_freq_factor", s.high_freq_factor},
                                 {"original_max_position_embeddings", s.original_max_position}};
    }
    j["tie_word_embeddings"] = c.tie_embeddings;
    j["torch_dtype"] = dtype;
    for (const char* id : {"bos_token_id", "eos_token_id"}) j[id] = meta.is_object() && meta.contains(id) ? meta[id] : ordered_json();
    if (family == "traincu") j["traincu"] = config_fields(c);
    return j;
}

}  // namespace traincu
