#include "src/checkpoint/formats.h"

#include <filesystem>
#include <fstream>

#include "src/checkpoint/huggingface.h"
#include "src/checkpoint/llmc.h"
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

static ModelOnDisk found_checkpoint(const FoundCheckpoint& found) {
    auto meta = found.manifest.find("meta");
    return {ModelFormat::checkpoint,
            found.path + "/model.safetensors",
            found.path,
            found.step,
            config_of_checkpoint(found),
            meta != found.manifest.end() && meta->is_object() ? *meta : ordered_json::object()};
}

static ModelOnDisk found_safetensors(const std::string& weights) {
    std::string config_path = (fs::path(weights).parent_path() / "config.json").string();
    if (!fs::exists(config_path))
        throw Error(ExitCode::checkpoint, "there is no config.json beside " + weights, "put the model's config.json into the same folder")
            .file(config_path);
    ModelConfig config = read_config_json(config_path);
    check_tensors(SafetensorsFile(weights), exported_tensors(config, make_param_table(config)));
    return {ModelFormat::safetensors, weights, "", -1, config, ordered_json::object()};
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
                    "give a run's folder, a checkpoint's folder, a model.safetensors or an llm.c .bin")
            .file(path);
    if (!fs::is_directory(place, error)) {
        if (is_llmc_model(path)) return {ModelFormat::llmc, path, "", -1, open_llmc_model(path).config, ordered_json::object()};
        return found_safetensors(path);
    }
    if (fs::exists(place / "manifest.json", error)) return found_checkpoint(open_checkpoint(path));
    if (!checkpoint_steps(path).empty()) return newest_in_run(path);
    if (fs::exists(place / "model.safetensors", error)) return found_safetensors((place / "model.safetensors").string());
    throw Error(ExitCode::checkpoint, "the folder " + path + " holds no checkpoint and no model.safetensors",
                "give a run's folder after its first checkpoint, or the checkpoint itself")
        .file(path);
}

void load_model(const ModelOnDisk& model, const ParamTable& table, Tensor params) {
    if (model.format == ModelFormat::llmc) return read_llmc_weights(open_llmc_model(model.weights), table, params);
    read_weights(SafetensorsFile(model.weights), model.config, table, params);
}

int64_t ModelOnDisk::trained_context() const {
    const auto options = meta.find("options");
    return options != meta.end() && options->is_object() ? options->value("seq-len", config.max_seq_len) : config.max_seq_len;
}

}  // namespace traincu
