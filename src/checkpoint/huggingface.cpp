#include "src/checkpoint/huggingface.h"

#include <algorithm>
#include <cstring>

namespace traincu {

using nlohmann::ordered_json;

// ----------------------------------------------------------------------------------------------------------------------
// families and names

std::string family_of(const ModelConfig& c) {
    if (c.norm == NormKind::layernorm && c.position == PositionKind::learned && c.mlp == MlpKind::gelu && c.bias && !c.qk_norm &&
        c.n_kv_head == c.n_head && c.q_width() == c.d_model)
        return "gpt2";
    if (c.norm == NormKind::rmsnorm && c.position == PositionKind::rope && c.mlp == MlpKind::swiglu && !c.bias)
        return c.qk_norm ? "qwen3" : "llama";
    return "traincu";
}

static std::string gpt2_name(const ParamRow& row) {
    const char* name = nullptr;
    switch (row.kind) {
        case ParamKind::token_embedding:
            name = "wte";
            break;
        case ParamKind::position_embedding:
            name = "wpe";
            break;
        case ParamKind::norm1:
            name = "ln_1";
            break;
        case ParamKind::qkv:
            name = "attn.c_attn";
            break;
        case ParamKind::attention_out:
            name = "attn.c_proj";
            break;
        case ParamKind::norm2:
            name = "ln_2";
            break;
        case ParamKind::fc:
            name = "mlp.c_fc";
            break;
        case ParamKind::mlp_out:
            name = "mlp.c_proj";
            break;
        case ParamKind::final_norm:
            name = "ln_f";
            break;
        case ParamKind::lm_head:
            return "lm_head";
        case ParamKind::q_norm:
        case ParamKind::k_norm:
            break;
    }
    ENSURE(name);
    return row.layer >= 0 ? format("transformer.h.%d.%s", row.layer, name) : format("transformer.%s", name);
}

static std::string llama_name(const ParamRow& row, const std::string& slice) {
    std::string name;
    switch (row.kind) {
        case ParamKind::token_embedding:
            name = "embed_tokens";
            break;
        case ParamKind::position_embedding:
            name = "embed_positions";
            break;
        case ParamKind::norm1:
            name = "input_layernorm";
            break;
        case ParamKind::qkv:
            name = "self_attn." + slice + "_proj";
            break;
        case ParamKind::q_norm:
            name = "self_attn.q_norm";
            break;
        case ParamKind::k_norm:
            name = "self_attn.k_norm";
            break;
        case ParamKind::attention_out:
            name = "self_attn.o_proj";
            break;
        case ParamKind::norm2:
            name = "post_attention_layernorm";
            break;
        case ParamKind::fc:
            name = "mlp." + (slice.empty() ? "up" : slice) + "_proj";
            break;  // a gelu network has no gate
        case ParamKind::mlp_out:
            name = "mlp.down_proj";
            break;
        case ParamKind::final_norm:
            name = "norm";
            break;
        case ParamKind::lm_head:
            return "lm_head";
    }
    return row.layer >= 0 ? format("model.layers.%d.%s", row.layer, name.c_str()) : "model." + name;
}

std::vector<ExportedTensor> exported_tensors(const ModelConfig& config, const ParamTable& table) {
    const bool gpt2 = family_of(config) == "gpt2";
    std::vector<ExportedTensor> tensors;
    for (size_t i = 0; i < table.rows.size(); i++) {
        const ParamRow& row = table.rows[i];
        const std::string suffix = row.is_bias ? ".bias" : ".weight";
        // GPT-2 keeps q, k and v in one tensor.
        std::vector<ParamSlice> slices = named_slices(row, config);
        if (gpt2 && row.kind == ParamKind::qkv) slices = {{"", 0, row.is_vector() ? row.cols : row.rows}};
        for (ParamSlice& slice : slices) {
            ExportedTensor tensor{
                (gpt2 ? gpt2_name(row) : llama_name(row, slice.name)) + suffix, static_cast<int>(i), slice, false, {slice.row_count}};
            bool linear = row.kind == ParamKind::qkv || row.kind == ParamKind::attention_out || row.kind == ParamKind::fc ||
                          row.kind == ParamKind::mlp_out;
            tensor.transposed = gpt2 && linear && !row.is_bias;
            if (!row.is_vector()) tensor.shape.insert(tensor.transposed ? tensor.shape.begin() : tensor.shape.end(), row.cols);
            tensors.push_back(std::move(tensor));
        }
    }
    return tensors;
}

// ----------------------------------------------------------------------------------------------------------------------
// config.json

static const char* name_of(NormKind kind) { return kind == NormKind::layernorm ? "layernorm" : "rmsnorm"; }
static const char* name_of(PositionKind kind) {
    return kind == PositionKind::learned ? "learned" : kind == PositionKind::rope ? "rope" : "none";
}
static const char* name_of(MlpKind kind) { return kind == MlpKind::gelu ? "gelu" : "swiglu"; }

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
            {"qk_norm", c.qk_norm},
            {"tie_embeddings", c.tie_embeddings},
            {"rope_theta", c.rope_theta},
            {"norm_eps", c.norm_eps}};
}

namespace {

// Takes fields out of an untrusted object, with their types and ranges checked.
class FieldReader {
public:
    FieldReader(const ordered_json& fields, const std::string& file) : fields_(fields), file_(file) {}

    void integer(const char* name, int64_t& value, int64_t largest) const {
        const ordered_json& field = at(name);
        if (!field.is_number_integer() || field < 1 || field > largest)
            refuse(format("%s must be a whole number from 1 to %lld", name, static_cast<long long>(largest)));
        value = field.get<int64_t>();
    }
    void real(const char* name, double& value) const {
        if (!at(name).is_number()) refuse(format("%s must be a number", name));
        value = at(name).get<double>();
    }
    void flag(const char* name, bool& value) const {
        if (!at(name).is_boolean()) refuse(format("%s must be true or false", name));
        value = at(name).get<bool>();
    }
    template <class Kind>
    void choice(const char* name, Kind& value, std::initializer_list<Kind> choices) const {
        for (Kind kind : choices)
            if (at(name) == name_of(kind)) return void(value = kind);
        refuse(format("%s has a value that this program does not know", name));
    }
    [[noreturn]] void refuse(const std::string& what) const {
        throw Error(ExitCode::checkpoint, format("%s: %s", file_.c_str(), what.c_str()),
                    "this describes no model of this program; was the file edited?")
            .file(file_);
    }

private:
    const ordered_json& at(const char* name) const {
        auto found = fields_.find(name);
        if (found == fields_.end()) refuse(format("the field %s is missing", name));
        return *found;
    }
    const ordered_json& fields_;
    const std::string& file_;
};

}  // namespace

ModelConfig config_from_fields(const ordered_json& fields, const std::string& file) {
    FieldReader reader(fields, file);
    if (!fields.is_object()) reader.refuse("the model's fields are no object");
    ModelConfig c;
    // The bounds keep every product below 2^63; no model comes near them.
    reader.integer("n_layer", c.n_layer, 10'000), reader.integer("n_head", c.n_head, 65'536),
        reader.integer("n_kv_head", c.n_kv_head, 65'536);
    reader.integer("d_model", c.d_model, 1 << 20), reader.integer("d_ff", c.d_ff, 1 << 22),
        reader.integer("head_size", c.head_size, 1 << 14);
    reader.integer("vocab_size", c.vocab_size, 1 << 28), reader.integer("max_seq_len", c.max_seq_len, 1 << 28);
    reader.choice("norm", c.norm, {NormKind::layernorm, NormKind::rmsnorm});
    reader.choice("position", c.position, {PositionKind::learned, PositionKind::rope, PositionKind::none});
    reader.choice("mlp", c.mlp, {MlpKind::gelu, MlpKind::swiglu});
    reader.flag("bias", c.bias), reader.flag("qk_norm", c.qk_norm), reader.flag("tie_embeddings", c.tie_embeddings);
    reader.real("rope_theta", c.rope_theta), reader.real("norm_eps", c.norm_eps);
    if (c.q_width() > 1 << 24) reader.refuse("n_head x head_size is beyond 2^24");
    try {
        c.check();
    } catch (const Error& error) {
        reader.refuse(error.what());
    }
    return c;
}

ordered_json huggingface_config(const ModelConfig& c, const ordered_json& meta) {
    const std::string family = family_of(c);
    ordered_json j;
    j["architectures"] = {family == "gpt2"    ? "GPT2LMHeadModel"
                          : family == "llama" ? "LlamaForCausalLM"
                          : family == "qwen3" ? "Qwen3ForCausalLM"
                                              : "TrainCuForCausalLM"};
    j["model_type"] = family;
    j["vocab_size"] = c.vocab_size;
    if (family == "gpt2") {
        j["n_layer"] = c.n_layer, j["n_head"] = c.n_head, j["n_embd"] = c.d_model, j["n_inner"] = c.d_ff, j["n_positions"] = c.max_seq_len;
        j["activation_function"] = "gelu_new", j["layer_norm_epsilon"] = c.norm_eps;
        j["resid_pdrop"] = 0.0, j["embd_pdrop"] = 0.0, j["attn_pdrop"] = 0.0;  // this program trains without dropout
    } else {
        j["num_hidden_layers"] = c.n_layer, j["num_attention_heads"] = c.n_head, j["num_key_value_heads"] = c.n_kv_head;
        j["hidden_size"] = c.d_model, j["intermediate_size"] = c.d_ff, j["head_dim"] = c.head_size,
        j["max_position_embeddings"] = c.max_seq_len;
        j["hidden_act"] = c.mlp == MlpKind::swiglu ? "silu" : "gelu_new";
        j["rms_norm_eps"] = c.norm_eps, j["rope_theta"] = c.rope_theta, j["attention_bias"] = c.bias, j["mlp_bias"] = c.bias;
        j["attention_dropout"] = 0.0;
    }
    j["tie_word_embeddings"] = c.tie_embeddings;
    j["torch_dtype"] = "float32";
    for (const char* id : {"bos_token_id", "eos_token_id"}) j[id] = meta.is_object() && meta.contains(id) ? meta[id] : ordered_json();
    j["traincu"] = config_fields(c);
    return j;
}

ordered_json read_json_object(const std::string& path) {
    InputFile file(path);
    auto refuse = [&](const char* what) {
        throw Error(ExitCode::checkpoint, format("%s %s", path.c_str(), what), "the file is damaged or of another kind: copy it again")
            .file(path);
    };
    if (file.size() > 1 << 20) refuse("is too large for a model's config.json");
    std::string text(static_cast<size_t>(file.size()), '\0');
    file.read(text.data(), file.size(), 0);
    ordered_json object = ordered_json::parse(text, nullptr, false);
    const bool cut = text.find('\0') != std::string::npos;  // the parser takes a NUL byte for the end
    if (!object.is_object() || cut) refuse("is not a JSON object");
    return object;
}

ModelConfig read_config_json(const std::string& path) {
    ordered_json object = read_json_object(path);
    auto ours = object.find("traincu");
    if (ours == object.end())
        throw Error(ExitCode::checkpoint, path + " has no \"traincu\" section: it was not written by this program",
                    "this version loads its own checkpoints and llm.c's .bin models")
            .file(path);
    return config_from_fields(*ours, path);
}

// ----------------------------------------------------------------------------------------------------------------------
// values

constexpr int64_t piece_values = int64_t{1} << 20;  // values held at a time, unless one stored row has more

// A tensor as a stored matrix of `rows` x `cols`, and the slice's first value in the arena. A vector is one column.
struct StoredMatrix {
    int64_t rows, cols, begin;
    int64_t rows_per_piece() const { return std::max<int64_t>(1, piece_values / cols); }
};

static StoredMatrix stored_matrix(const ExportedTensor& tensor, const ParamRow& row) {
    if (row.is_vector()) return {tensor.slice.row_count, 1, row.offset + tensor.slice.row_begin};
    return {tensor.shape[0], tensor.shape[1], row.offset + tensor.slice.row_begin * row.cols};
}

// Calls move(i, j) for i < rows, j < cols in small squares, so that neither side of a transposition strides through memory alone.
template <class Move>
static void in_squares(int64_t rows, int64_t cols, Move&& move) {
    constexpr int64_t side = 32;
    for (int64_t i0 = 0; i0 < rows; i0 += side)
        for (int64_t j0 = 0; j0 < cols; j0 += side)
            for (int64_t i = i0; i < std::min(i0 + side, rows); i++)
                for (int64_t j = j0; j < std::min(j0 + side, cols); j++) move(i, j);
}

void export_values(const ExportedTensor& tensor, const ParamRow& row, const Tensor& params,
                   const std::function<void(const float*, int64_t)>& sink) {
    const StoredMatrix m = stored_matrix(tensor, row);
    const float* from = params.as<float>() + m.begin;
    if (!tensor.transposed) return sink(from, m.rows * m.cols);
    std::vector<float> piece;
    for (int64_t first = 0; first < m.rows; first += m.rows_per_piece()) {
        int64_t count = std::min(m.rows_per_piece(), m.rows - first);
        piece.resize(static_cast<size_t>(count * m.cols));
        in_squares(count, m.cols, [&](int64_t i, int64_t j) { piece[static_cast<size_t>(i * m.cols + j)] = from[j * m.rows + first + i]; });
        sink(piece.data(), count * m.cols);
    }
}

static void import_values(const SafetensorsFile& file, const StoredTensor& stored, const ExportedTensor& tensor, const ParamRow& row,
                          const Tensor& params) {
    const StoredMatrix m = stored_matrix(tensor, row);
    float* to = params.as<float>() + m.begin;
    if (!tensor.transposed) return file.read_f32(stored, 0, m.rows * m.cols, to);
    std::vector<float> piece;
    for (int64_t first = 0; first < m.rows; first += m.rows_per_piece()) {
        int64_t count = std::min(m.rows_per_piece(), m.rows - first);
        piece.resize(static_cast<size_t>(count * m.cols));
        file.read_f32(stored, first * m.cols, count * m.cols, piece.data());
        in_squares(count, m.cols, [&](int64_t i, int64_t j) { to[j * m.rows + first + i] = piece[static_cast<size_t>(i * m.cols + j)]; });
    }
}

void check_tensors(const SafetensorsFile& file, const std::vector<ExportedTensor>& tensors) {
    auto refuse = [&](const std::string& what) {
        throw Error(ExitCode::checkpoint, file.path() + ": " + what, "the weights and the config.json beside them are not of one model")
            .file(file.path());
    };
    for (const ExportedTensor& tensor : tensors) {
        const StoredTensor* stored = file.find(tensor.name);
        if (!stored) refuse("the tensor " + tensor.name + " is missing");
        if (stored->shape != tensor.shape)
            refuse("the tensor " + tensor.name + " has shape " + shape_text(stored->shape) + ", the model needs " +
                   shape_text(tensor.shape));
        if (stored->type != StoredType::F32 && stored->type != StoredType::BF16 && stored->type != StoredType::F16)
            refuse("the tensor " + tensor.name + " has dtype " + name_of(stored->type) + "; weights are F32, BF16 or F16");
    }
    if (file.tensors().size() == tensors.size()) return;
    for (const StoredTensor& stored : file.tensors())
        if (std::none_of(tensors.begin(), tensors.end(), [&](const ExportedTensor& tensor) { return tensor.name == stored.name; }))
            refuse("the tensor " + stored.name + " belongs to no parameter of the model");
}

void read_weights(const SafetensorsFile& file, const ModelConfig& config, const ParamTable& table, const Tensor& params) {
    ENSURE(params.is({table.flat_size}) && params.contiguous());
    const std::vector<ExportedTensor> tensors = exported_tensors(config, table);
    check_tensors(file, tensors);
    std::memset(params.data, 0, static_cast<size_t>(params.bytes()));
    for (const ExportedTensor& tensor : tensors)
        import_values(file, *file.find(tensor.name), tensor, table.rows[static_cast<size_t>(tensor.row)], params);
}

}  // namespace traincu
