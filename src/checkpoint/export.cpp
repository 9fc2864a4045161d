#include "src/checkpoint/export.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "src/base/arena.h"
#include "src/checkpoint/commit.h"

namespace traincu {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr const char *weights_file = "model.safetensors", *config_file = "config.json";
// What stands beside the weights and belongs to the model as it is, whoever wrote it.
constexpr const char* companions[] = {"generation_config.json",  "tokenizer.json", "tokenizer_config.json",
                                      "special_tokens_map.json", "vocab.json",     "merges.txt",
                                      "chat_template.jinja"};
constexpr int64_t largest_companion = int64_t{256} << 20;

// Narrows values of one tensor and appends them. A finite value must stay finite.
class Narrower {
public:
    Narrower(FileWriter& file, StoredType type) : file_(file), type_(type) {}

    void append(const std::string& tensor, const float* values, int64_t count) {
        if (type_ == StoredType::F32) return file_.append(values, count * 4);
        narrow_.resize(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; i++) {
            const uint16_t bits = type_ == StoredType::BF16 ? float_to_bf16(values[i]) : float_to_half(values[i]);
            const float back = type_ == StoredType::BF16 ? bf16_to_float(bits) : half_to_float(bits);
            if (std::isinf(back) && !std::isinf(values[i]))
                throw Error(ExitCode::usage,
                            format("the tensor %s holds %g, which is too large for %s", tensor.c_str(), static_cast<double>(values[i]),
                                   name_of(type_)),
                            type_ == StoredType::F16 ? "export with --dtype bfloat16 or float32" : "export with --dtype float32");
            narrow_[static_cast<size_t>(i)] = bits;
        }
        file_.append(narrow_.data(), count * 2);
    }

private:
    FileWriter& file_;
    StoredType type_;
    std::vector<uint16_t> narrow_;
};

// Token ids of the source's config.json: whole numbers, or lists of them; anything else is left out.
ordered_json token_ids(const json& config) {
    ordered_json ids = ordered_json::object();
    for (const char* name : {"bos_token_id", "eos_token_id"}) {
        const json value = config.value(name, json());
        const bool list =
            value.is_array() && std::all_of(value.begin(), value.end(), [](const json& id) { return id.is_number_integer(); });
        if (value.is_number_integer() || list) ids[name] = value;
    }
    return ids;
}

const char* torch_name(StoredType type) { return type == StoredType::BF16 ? "bfloat16" : type == StoredType::F16 ? "float16" : "float32"; }

// The folder that `out` stands in, and its own name there.
std::pair<std::string, std::string> split(const std::string& out) {
    fs::path path(out);
    if (path.filename().empty()) path = path.parent_path();  // a slash at the end
    const std::string name = path.filename().string(), parent = path.parent_path().string();
    if (name.empty() || name == "." || name == "..")
        throw Error(ExitCode::usage, "--out '" + out + "' is no name for a new folder or file", "choose another");
    return {parent.empty() ? "." : parent, name};
}

void check_free(const std::string& out, bool replace, const std::function<std::string()>& obstacle) {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(out, error))) return;
    if (!replace) throw Error(ExitCode::usage, out + " is there already", "choose another --out, or give --force").file(out);
    if (std::string what = obstacle(); !what.empty())
        throw Error(ExitCode::usage, "--force replaces exports only, but " + what, "choose another --out, or remove it yourself").file(out);
}

void check_room(Io& io, const std::string& parent, int64_t bytes) {
    if (const int64_t free = io.free_space(parent); free < bytes)
        throw Error(ExitCode::io,
                    format("no room for the export: %s needed, %s free in %s", human_bytes(bytes).c_str(), human_bytes(free).c_str(),
                           parent.c_str()),
                    "free some space, or write elsewhere with --out")
            .file(parent);
}

}  // namespace

void export_huggingface(Io& io, const ModelOnDisk& model, const std::string& out, const ExportOptions& options) {
    const auto [parent, name] = split(out);
    check_free(out, options.replace, [&out = out]() -> std::string {
        if (fs::is_symlink(fs::symlink_status(out)) || !fs::is_directory(out)) return out + " is no folder";
        for (const auto& entry : fs::directory_iterator(out)) {
            const std::string file = entry.path().filename().string();
            const bool ours = file == weights_file || file == config_file ||
                              std::find(std::begin(companions), std::end(companions), file) != std::end(companions);
            if (!ours) return out + " also holds " + file;
        }
        return "";
    });
    const ParamTable table = make_param_table(model.config);
    const ModelSource source(model, table);
    const std::string family = family_of(model.config);
    const std::vector<ExportedTensor> tensors = exported_tensors(model.config, table, family);
    std::vector<StoredTensor> stored;
    for (const ExportedTensor& tensor : tensors)
        stored.push_back({tensor.name, options.type.value_or(source.type_of(tensor.name)), tensor.shape, 0, 0});
    const std::string header = safetensors_header(stored, {{"format", "pt"}});

    ordered_json ids = ordered_json::object();
    std::vector<TextFile> texts;
    const fs::path folder = fs::path(model.weights).parent_path();
    if (model.format != ModelFormat::llmc) {
        ids = token_ids(read_json_object((folder / config_file).string()));
        for (const char* companion : companions)
            if (const fs::path path = folder / companion; fs::exists(path))
                texts.push_back({companion, read_small_file(path.string(), largest_companion)});
    }
    texts.push_back({config_file, huggingface_config(model.config, ids, torch_name(stored[0].type), family).dump(2) + "\n"});

    auto write_weights = [&](FileWriter& file) {
        file.append(header.data(), static_cast<int64_t>(header.size()));
        std::vector<float> row_values;
        int loaded = -1;
        for (size_t i = 0; i < tensors.size(); i++) {
            const ParamRow& row = table.rows[static_cast<size_t>(tensors[i].row)];
            if (tensors[i].row != loaded) {
                loaded = tensors[i].row;
                row_values.resize(static_cast<size_t>(row.numel()));
                source.read_row(static_cast<size_t>(loaded), row_values.data());
            }
            Narrower narrower(file, stored[i].type);
            export_values(tensors[i], row, row_values.data(),
                          [&](const float* values, int64_t count) { narrower.append(tensors[i].name, values, count); });
            options.progress(static_cast<int64_t>(i) + 1, static_cast<int64_t>(tensors.size()));
        }
    };
    std::vector<CheckpointFile> files = {{weights_file, stored.back().offset + stored.back().bytes, write_weights}};
    for (const TextFile& text : texts) files.push_back(text_file(text.name, text.text));
    check_room(io, parent, files[0].bytes);
    commit_folder(io, parent, name, files, options.replace);
}

void export_llmc(Io& io, const ModelOnDisk& model, const std::string& out, const ExportOptions& options) {
    const auto [parent, name] = split(out);
    check_llmc_shape(model.config);
    check_free(out, options.replace, [&out = out] { return is_llmc_model(out) ? std::string() : out + " is no model of llm.c"; });
    const ParamTable table = make_param_table(model.config);
    const ModelSource source(model, table);
    const StoredType type = options.type.value_or(source.type_of(exported_tensors(model.config, table, model.family)[0].name));
    if (type == StoredType::F16) throw Error(ExitCode::usage, "llm.c has no fp16 models", "export with --dtype float32 or bfloat16");
    const Dtype dtype = type == StoredType::F32 ? Dtype::f32 : Dtype::bf16;
    const std::vector<LlmcPiece> pieces = llmc_pieces(model.config, table);
    const std::array<int32_t, 256> header = llmc_header(model.config, dtype);
    int64_t bytes = static_cast<int64_t>(sizeof header);
    for (const LlmcPiece& piece : pieces) bytes += (table.rows[piece.row].used_numel() + piece.zeros) * size_of(dtype);
    check_room(io, parent, bytes);

    commit_file(io, parent, name, bytes, options.replace, [&](FileWriter& file) {
        file.append(header.data(), static_cast<int64_t>(sizeof header));
        Narrower narrower(file, type);
        std::vector<float> values;
        for (size_t i = 0; i < pieces.size(); i++) {
            const ParamRow& row = table.rows[pieces[i].row];
            values.resize(static_cast<size_t>(row.numel()));
            source.read_row(pieces[i].row, values.data());
            narrower.append(row.name, values.data(), row.used_numel());
            values.assign(static_cast<size_t>(pieces[i].zeros), 0.0f);
            narrower.append(row.name, values.data(), pieces[i].zeros);
            options.progress(static_cast<int64_t>(i) + 1, static_cast<int64_t>(pieces.size()));
        }
    });
}

}  // namespace traincu
