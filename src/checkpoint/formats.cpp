#include "src/checkpoint/formats.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "src/checkpoint/state.h"

namespace traincu {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

bool is_llmc_model(const std::string& file) {
    std::error_code error;
    if (!fs::is_regular_file(file, error)) return false;
    int32_t magic = 0;
    return static_cast<bool>(std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(&magic), 4)) && magic == llmc_model_magic;
}

static std::string tokenizer_beside(const std::string& weights) {
    std::error_code error;
    const fs::path path = fs::path(weights).parent_path() / "tokenizer.json";
    return fs::exists(path, error) ? path.string() : "";
}

static ModelOnDisk found_checkpoint(const FoundCheckpoint& found) {
    auto meta = found.manifest.find("meta");
    const std::string weights = found.path + "/model.safetensors";
    const ModelConfig config = config_of_checkpoint(found);
    const std::string family = checkpoint_family(config);
    HuggingfaceWeights(weights, config, make_param_table(config), family);  // the manifest may describe another model
    return {ModelFormat::checkpoint,
            weights,
            found.path,
            tokenizer_beside(weights),
            found.step,
            config,
            family,
            meta != found.manifest.end() && meta->is_object() ? *meta : ordered_json::object()};
}

static ModelOnDisk found_safetensors(const std::string& weights) {
    std::string config_path = (fs::path(weights).parent_path() / "config.json").string();
    if (!fs::exists(config_path))
        throw Error(ExitCode::checkpoint, "there is no config.json beside " + weights, "put the model's config.json into the same folder")
            .file(config_path);
    const nlohmann::json fields = read_json_object(config_path);
    const ModelConfig config = config_from_huggingface(fields, config_path);
    const std::string family = fields.at("model_type").get<std::string>();
    HuggingfaceWeights(weights, config, make_param_table(config), family);  // every name, shape and type
    return {ModelFormat::safetensors, weights, "", tokenizer_beside(weights), -1, config, family, ordered_json::object()};
}

static ModelOnDisk newest_in_run(const std::string& run_dir) {
    std::string reasons;
    auto found = newest_checkpoint(run_dir, [&](const std::string& reason) { reasons += "; " + reason; });
    if (!found)
        throw Error(ExitCode::checkpoint, "no checkpoint in " + run_dir + " is sound" + reasons, "restore one from a copy, or train again")
            .file(run_dir);
    return found_checkpoint(*found);
}

ModelOnDisk find_model(const std::string& path) {
    std::error_code error;
    const fs::path place(path);
    if (!fs::exists(place, error))
        throw Error(ExitCode::usage, "there is no model at " + path,
                    "give a run's folder, a checkpoint's folder, a folder from Hugging Face or an llm.c .bin")
            .file(path);
    if (!fs::is_directory(place, error)) {
        if (is_llmc_model(path)) return {ModelFormat::llmc, path, "", "", -1, open_llmc_model(path).config, "gpt2", ordered_json::object()};
        return found_safetensors(path);
    }
    if (fs::exists(place / "manifest.json", error)) return found_checkpoint(open_checkpoint(path));
    if (!checkpoint_steps(path).empty()) return newest_in_run(path);
    for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
        if (fs::exists(place / name, error)) return found_safetensors((place / name).string());
    for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
        if (fs::exists(place / name, error))
            throw Error(ExitCode::checkpoint,
                        "the folder " + path + " holds its weights as " + name + ", a pickle that could run any program",
                        "convert it in Python: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes safetensors")
                .file((place / name).string());
    throw Error(ExitCode::checkpoint, "the folder " + path + " holds no checkpoint and no model.safetensors",
                "give a run's folder after its first checkpoint, or the checkpoint itself")
        .file(path);
}

std::unique_ptr<Tokenizer> tokenizer_of_model(const ModelOnDisk& model) {
    if (!model.tokenizer.empty()) return open_tokenizer(model.tokenizer);
    const auto name = model.meta.find("tokenizer");
    const bool named = name != model.meta.end() && name->is_string() && *name != "";
    return named ? open_tokenizer(name->get<std::string>()) : nullptr;
}

void load_model(const ModelOnDisk& model, const ParamTable& table, Tensor params) {
    ENSURE(params.is({table.flat_size}) && params.contiguous());
    const ModelSource source(model, table);
    std::memset(params.data, 0, static_cast<size_t>(params.bytes()));  // the gaps between rows, too
    for (size_t row = 0; row < table.rows.size(); row++) source.read_row(row, params.as<float>() + table.rows[row].offset);
}

ModelSource::ModelSource(const ModelOnDisk& model, const ParamTable& table) : table_(table) {
    if (model.format == ModelFormat::llmc)
        llmc_.emplace(open_llmc_model(model.weights));
    else
        huggingface_.emplace(model.weights, model.config, table, model.family);
}

void ModelSource::read_row(size_t row, float* out) const {
    if (llmc_)
        read_llmc_row(*llmc_, table_.rows[row], out);
    else
        huggingface_->read_row(row, out);
}

StoredType ModelSource::type_of(const std::string& exported_name) const {
    if (llmc_) return llmc_->dtype == Dtype::f32 ? StoredType::F32 : StoredType::BF16;
    return huggingface_->type_of(exported_name);
}

int64_t ModelOnDisk::trained_context() const {
    const auto options = meta.find("options");
    const int64_t positions = std::min<int64_t>(config.max_seq_len, 2048);
    if (options == meta.end() || !options->is_object()) return positions;
    const auto seq_len = options->find("seq-len");
    if (seq_len == options->end() || !seq_len->is_number_integer()) return positions;
    const auto context = seq_len->get<int64_t>();
    return context >= 1 && context <= 1 << 24 ? context : positions;  // the range of --seq-len
}

}  // namespace traincu
