#include "src/checkpoint/huggingface.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace traincu {

using nlohmann::ordered_json;

// ----------------------------------------------------------------------------------------------------------------------
// names

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
        case ParamKind::sinks:
        case ParamKind::relative_bias:
        case ParamKind::q_factors:
        case ParamKind::k_factors:
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
        case ParamKind::sinks:
            name = "self_attn.sinks";
            break;
        case ParamKind::relative_bias:
            name = "self_attn.relative_bias";
            break;
        case ParamKind::q_factors:
            name = "self_attn.q_factors";
            break;
        case ParamKind::k_factors:
            name = "self_attn.k_factors";
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

static bool is_gain(const ParamRow& row) {
    return !row.is_bias && (row.kind == ParamKind::norm1 || row.kind == ParamKind::norm2 || row.kind == ParamKind::final_norm ||
                            row.kind == ParamKind::q_norm || row.kind == ParamKind::k_norm);
}

std::vector<ExportedTensor> exported_tensors(const ModelConfig& config, const ParamTable& table, const std::string& family) {
    const bool gpt2 = family == "gpt2";
    std::vector<ExportedTensor> tensors;
    for (size_t i = 0; i < table.rows.size(); i++) {
        const ParamRow& row = table.rows[i];
        const std::string suffix = row.is_bias ? ".bias" : ".weight";
        // GPT-2 keeps q, k and v in one tensor.
        std::vector<ParamSlice> slices = named_slices(row, config);
        if (gpt2 && row.kind == ParamKind::qkv) slices = {{"", {{0, row.is_vector() ? row.cols : row.rows}}}};
        for (ParamSlice& slice : slices) {
            ExportedTensor tensor{(gpt2 ? gpt2_name(row) : llama_name(row, slice.name)) + suffix,
                                  static_cast<int>(i),
                                  slice,
                                  family == "qwen3_next" && is_gain(row),
                                  false,
                                  {slice.row_count()}};
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
// values

constexpr int64_t piece_values = int64_t{1} << 20;  // values held at a time, unless one stored row has more

// A tensor, or a range of one that is not transposed, as a stored matrix of `rows` x `cols`; its first value among the tensor's and in its
// row of the table. A vector is one column.
struct StoredMatrix {
    int64_t rows, cols, first, begin;
    int64_t rows_per_piece() const { return std::max<int64_t>(1, piece_values / cols); }
};

static std::vector<StoredMatrix> stored_matrices(const ExportedTensor& tensor, const ParamRow& row) {
    if (tensor.transposed) {
        ENSURE(tensor.slice.ranges.size() == 1);
        return {{tensor.shape[0], tensor.shape[1], 0, tensor.slice.ranges[0].begin * row.cols}};
    }
    std::vector<StoredMatrix> matrices;
    const int64_t cols = row.is_vector() ? 1 : row.cols;
    int64_t first = 0;
    for (const RowRange& range : tensor.slice.ranges) {
        matrices.push_back({range.count, cols, first, range.begin * cols});
        first += range.count * cols;
    }
    return matrices;
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

void export_values(const ExportedTensor& tensor, const ParamRow& row, const float* row_values,
                   const std::function<void(const float*, int64_t)>& sink) {
    std::vector<float> piece;
    for (const StoredMatrix& m : stored_matrices(tensor, row)) {
        const float* from = row_values + m.begin;
        for (int64_t first = 0; first < m.rows; first += m.rows_per_piece()) {
            const int64_t count = std::min(m.rows_per_piece(), m.rows - first);
            if (!tensor.transposed && !tensor.less_one) {
                sink(from + first * m.cols, count * m.cols);
                continue;
            }
            piece.resize(static_cast<size_t>(count * m.cols));
            if (tensor.transposed)
                in_squares(count, m.cols,
                           [&](int64_t i, int64_t j) { piece[static_cast<size_t>(i * m.cols + j)] = from[j * m.rows + first + i]; });
            else
                for (size_t i = 0; i < piece.size(); i++) piece[i] = from[first * m.cols + static_cast<int64_t>(i)] - 1;
            sink(piece.data(), count * m.cols);
        }
    }
}

static void import_values(const WeightFiles::Place& place, const ExportedTensor& tensor, const ParamRow& row, float* row_values) {
    std::vector<float> piece;
    for (const StoredMatrix& m : stored_matrices(tensor, row)) {
        float* to = row_values + m.begin;
        if (!tensor.transposed) {
            place.file->read_f32(*place.tensor, m.first, m.rows * m.cols, to);
            if (tensor.less_one)
                for (int64_t i = 0; i < m.rows * m.cols; i++) to[i] += 1;
            continue;
        }
        for (int64_t first = 0; first < m.rows; first += m.rows_per_piece()) {
            const int64_t count = std::min(m.rows_per_piece(), m.rows - first);
            piece.resize(static_cast<size_t>(count * m.cols));
            place.file->read_f32(*place.tensor, first * m.cols, count * m.cols, piece.data());
            in_squares(count, m.cols,
                       [&](int64_t i, int64_t j) { to[j * m.rows + first + i] = piece[static_cast<size_t>(i * m.cols + j)]; });
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// reading

// Constants that older versions of transformers stored among the weights.
static bool is_constant(const std::string& name) {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") || name.ends_with("rotary_emb.inv_freq");
}

HuggingfaceWeights::HuggingfaceWeights(const std::string& path, const ModelConfig& config, const ParamTable& table,
                                       const std::string& family)
    : files_(path), table_(table) {
    auto refuse = [](const std::string& file, const std::string& what) {
        throw Error(ExitCode::checkpoint, file + ": " + what, "the weights and the config.json beside them are not of one model")
            .file(file);
    };
    const std::string prefix = "transformer.";
    const bool bare = family == "gpt2" && files_.find("wte.weight");
    std::set<std::string> known;
    for (ExportedTensor& tensor : exported_tensors(config, table, family)) {
        const std::string stored_name = bare && tensor.name.starts_with(prefix) ? tensor.name.substr(prefix.size()) : tensor.name;
        const WeightFiles::Place place = files_.find(stored_name);
        if (!place) refuse(files_.path(), "the tensor " + stored_name + " is missing");
        if (place.tensor->shape != tensor.shape)
            refuse(place.file->path(), "the tensor " + stored_name + " has shape " + shape_text(place.tensor->shape) +
                                           ", the model needs " + shape_text(tensor.shape));
        const StoredType type = place.tensor->type;
        if (type != StoredType::F32 && type != StoredType::BF16 && type != StoredType::F16)
            refuse(place.file->path(), "the tensor " + stored_name + " has dtype " + name_of(type) + "; weights are F32, BF16 or F16");
        known.insert(stored_name);
        tensors_.push_back({std::move(tensor), place});
    }
    if (config.tie_embeddings) tied_head_ = files_.find("lm_head.weight");
    for (const SafetensorsFile& file : files_.files())
        for (const StoredTensor& stored : file.tensors())
            if (!known.count(stored.name) && !is_constant(stored.name) && &stored != tied_head_.tensor)
                refuse(file.path(), "the tensor " + stored.name + " belongs to no parameter of the model");
}

void HuggingfaceWeights::read_row(size_t row, float* out) const {
    const ParamRow& r = table_.rows[row];
    std::fill(out + r.used_numel(), out + r.numel(), 0.0f);
    for (const Imported& imported : tensors_) {
        if (imported.tensor.row != static_cast<int>(row)) continue;
        import_values(imported.place, imported.tensor, r, out);
        if (r.kind == ParamKind::token_embedding && tied_head_) check_tied_head(imported, out);
    }
}

void HuggingfaceWeights::check_tied_head(const Imported& embedding, const float* values) const {
    const auto& [file, head] = tied_head_;
    bool same = head->shape == embedding.tensor.shape && head->type == embedding.place.tensor->type;
    std::vector<float> piece;
    for (int64_t first = 0; same && first < head->numel(); first += piece_values) {
        const int64_t count = std::min(piece_values, head->numel() - first);
        piece.resize(static_cast<size_t>(count));
        file->read_f32(*head, first, count, piece.data());
        same = std::memcmp(piece.data(), values + first, static_cast<size_t>(count) * sizeof(float)) == 0;
    }
    if (!same)
        throw Error(ExitCode::checkpoint,
                    file->path() + ": config.json says that the head is the embedding, but a lm_head.weight of its own is stored",
                    "if the model has a head of its own, set tie_word_embeddings to false in config.json")
            .file(file->path());
}

StoredType HuggingfaceWeights::type_of(const std::string& exported_name) const {
    for (const Imported& imported : tensors_)
        if (imported.tensor.name == exported_name) return imported.place.tensor->type;
    ENSURE(!"a name of exported_tensors()");
    return StoredType::F32;
}

// ----------------------------------------------------------------------------------------------------------------------
// the files beside the weights

// How tokenizer.json writes the id: among the added tokens, or else in the model's vocabulary.
static std::string text_of_token(const nlohmann::json& tokenizer, int32_t id) {
    for (const nlohmann::json& token : tokenizer.value("added_tokens", nlohmann::json::array()))
        if (token.value("id", -1) == id) return token.value("content", std::string());
    for (const auto& [text, value] : tokenizer.at("model").at("vocab").items())
        if (value == id) return text;
    ENSURE(!"the end-of-text token is in the vocabulary");
    return "";
}

std::vector<TextFile> tokenizer_files(const Tokenizer& tokenizer, int64_t context) {
    const std::string json = tokenizer.json();
    const std::string end_of_text = text_of_token(nlohmann::json::parse(json), tokenizer.eot());
    const ordered_json tokenizer_config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                           {"bos_token", end_of_text},
                                           {"eos_token", end_of_text},
                                           {"pad_token", end_of_text},
                                           {"model_max_length", context},
                                           {"clean_up_tokenization_spaces", false}};
    const ordered_json generation_config = {
        {"bos_token_id", tokenizer.eot()}, {"eos_token_id", tokenizer.eot()}, {"pad_token_id", tokenizer.eot()}};
    return {{"tokenizer.json", json},
            {"tokenizer_config.json", tokenizer_config.dump(2) + "\n"},
            {"generation_config.json", generation_config.dump(2) + "\n"}};
}

}  // namespace traincu
