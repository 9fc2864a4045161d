// ./train inspect: what is in a file or folder, and whether it is whole.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/base/arena.h"
#include "src/checkpoint/formats.h"
#include "src/checkpoint/huggingface.h"
#include "src/checkpoint/llmc.h"
#include "src/checkpoint/state.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/data/choices.h"
#include "src/data/shard.h"

namespace traincu {

namespace fs = std::filesystem;

static long long number(int64_t n) { return static_cast<long long>(n); }

static void print_model(const ModelConfig& c) {
    std::printf(
        "model       %s: %lld layers, %lld heads (%lld for keys) of %lld, width %lld, feed-forward %lld, vocabulary %lld, window %lld\n",
        family_of(c).c_str(), number(c.n_layer), number(c.n_head), number(c.n_kv_head), number(c.head_size), number(c.d_model),
        number(c.d_ff), number(c.vocab_size), number(c.max_seq_len));
    std::printf("parameters  %lld\n", number(make_param_table(c).count()));
}

static void print_tensors(const std::vector<StoredTensor>& tensors) {
    size_t width = 0;
    for (const StoredTensor& tensor : tensors) width = std::max(width, tensor.name.size());
    std::printf("tensors     %zu\n", tensors.size());
    for (const StoredTensor& tensor : tensors)
        std::printf("  %-*s  %-4s  %s\n", static_cast<int>(std::min<size_t>(width, 80)), tensor.name.c_str(), name_of(tensor.type),
                    shape_text(tensor.shape).c_str());
}

static void inspect_safetensors(const std::string& path) {
    SafetensorsFile file(path);
    int64_t values = 0;
    for (const StoredTensor& tensor : file.tensors()) values += tensor.numel();
    std::printf("file        %s: safetensors, %s\n", path.c_str(), human_bytes(file.size()).c_str());
    for (const auto& [key, value] : file.metadata()) std::printf("metadata    %s = %s\n", key.c_str(), value.c_str());
    std::printf("values      %lld\n", number(values));
    print_tensors(file.tensors());
    std::printf("integrity   the header is sound and covers the file; safetensors has no checksums\n");
}

// A folder from Hugging Face, or one that another program wrote in its form. `weights`: the file, or the index of several.
static void inspect_huggingface(const std::string& folder, const std::string& weights) {
    const ModelOnDisk model = find_model(folder);
    const WeightFiles files(weights);
    std::printf("folder      %s: model in Hugging Face's form\n", folder.c_str());
    print_model(model.config);
    std::vector<StoredTensor> tensors;
    std::set<std::string> types;
    for (const SafetensorsFile& file : files.files()) {
        std::printf("file        %s  %s\n", fs::path(file.path()).filename().c_str(), human_bytes(file.size()).c_str());
        for (const StoredTensor& tensor : file.tensors()) tensors.push_back(tensor), types.insert(name_of(tensor.type));
    }
    std::string all_types;
    for (const std::string& type : types) all_types += " " + type;
    std::printf("dtype      %s\n", all_types.c_str());
    std::printf("tokenizer   %s\n", model.tokenizer.empty() ? "none beside it" : "tokenizer.json");
    print_tensors(tensors);
    std::printf("integrity   every tensor of config.json's model is there, in its shape; safetensors has no checksums\n");
}

static void inspect_llmc(const std::string& path) {
    LlmcModel model = open_llmc_model(path);
    std::printf("file        %s: llm.c model, %s, %s\n", path.c_str(), name_of(model.dtype), human_bytes(model.file.size()).c_str());
    print_model(model.config);
    std::printf("integrity   the size fits the header; llm.c's files have no checksums\n");
}

static void inspect_checkpoint(const FoundCheckpoint& found) {
    std::printf("folder      %s: checkpoint of step %lld\n", found.path.c_str(), number(found.step));
    std::printf("written by  %s\n", found.manifest.value("build", std::string("unknown")).c_str());
    print_model(config_of_checkpoint(found));
    for (const auto& file : found.manifest.at("files"))
        std::printf("file        %-18s  %s, xxh3 %s\n", file.at("name").get<std::string>().c_str(),
                    human_bytes(integer_field(file, "bytes")).c_str(), file.at("xxh3").get<std::string>().c_str());
    std::string meta = found.manifest.value("meta", nlohmann::ordered_json()).dump();
    if (meta.size() > 400) meta = meta.substr(0, 400) + " ...";
    std::printf("meta        %s\n", meta.c_str());
    print_tensors(SafetensorsFile(found.path + "/model.safetensors").tensors());
    std::printf("integrity   manifest, sizes and every block's hash agree\n");
}

static void inspect_run(const std::string& path) {
    const std::vector<int64_t> steps = checkpoint_steps(path);
    std::printf("folder      %s: run with %zu checkpoint%s\n", path.c_str(), steps.size(), steps.size() == 1 ? "" : "s");
    std::string damage;
    int64_t newest = -1;
    for (int64_t step : steps) {
        try {
            FoundCheckpoint found = open_checkpoint(path + "/" + checkpoint_name(step));
            std::printf("checkpoint  %s  sound\n", checkpoint_name(step).c_str());
            newest = std::max(newest, found.step);
        } catch (const Error& error) {
            std::printf("checkpoint  %s  DAMAGED: %s\n", checkpoint_name(step).c_str(), error.what());
            if (damage.empty()) damage = error.what();
        }
    }
    if (newest >= 0) std::printf("resumes at  step %lld\n", number(newest));
    if (!damage.empty())
        throw Error(ExitCode::checkpoint, "this run has damaged checkpoints; the first: " + damage,
                    "training goes on from the newest sound one")
            .file(path);
}

static void inspect(const std::string& path) {
    std::error_code error;
    if (!fs::exists(path, error)) throw Error(ExitCode::usage, "there is nothing at " + path, "check the path").file(path);
    if (fs::is_directory(path, error)) {
        if (fs::exists(path + "/manifest.json", error)) return inspect_checkpoint(open_checkpoint(path));
        if (!checkpoint_steps(path).empty()) return inspect_run(path);
        for (const char* weights : {"/model.safetensors", "/model.safetensors.index.json"})
            if (fs::exists(path + weights, error) && fs::exists(path + "/config.json", error))
                return inspect_huggingface(path, path + weights);
        if (fs::exists(path + "/model.safetensors", error)) return inspect_safetensors(path + "/model.safetensors");
        if (fs::exists(path + "/config.json", error)) find_model(path);  // says what is missing
        throw Error(ExitCode::checkpoint, "the folder " + path + " holds no checkpoint and no model.safetensors",
                    "give a run's folder or a file")
            .file(path);
    }
    if (is_llmc_model(path)) return inspect_llmc(path);
    if (is_choice_set(path)) return (void)std::fputs(describe_choices(path).c_str(), stdout);
    if (fs::path(path).extension() == ".safetensors") return inspect_safetensors(path);
    std::fputs(describe_shard(path).c_str(), stdout);  // anything else is a shard, or refused as one
}

int inspect_command(int argc, char** argv) {
    CLI::App app(
        "Shows what is in a file or folder, and checks that it is whole: token shards (every id), multiple-choice sets, safetensors "
        "(every\n"
        "rule of the header), folders from Hugging Face (every tensor of the model), models\n"
        "of llm.c (header and size), checkpoints (every hash), runs (every checkpoint). Nothing is changed.\n"
        "Examples:  ./train inspect runs/demo            which checkpoints are sound, and where it would resume\n"
        "           ./train inspect data/books_val_*.bin  tokens, documents and the beginning of each shard\n"
        "Exit code: 0 all sound, 3 a shard is damaged, 4 a checkpoint or model is damaged, 2 nothing there.",
        "./train inspect");
    std::vector<std::string> paths;
    app.add_option("PATH", paths, "shards, multiple-choice sets, .safetensors, llm.c's .bin, checkpoint folders, run folders")->required();
    if (!parse_command_line(app, argc, argv)) return 0;

    // One bad file does not hide the others: all are shown, and the first fault is the verdict.
    std::optional<Error> fault;
    for (const std::string& path : paths) {
        if (&path != &paths.front()) std::printf("\n");
        auto note = [&](const Error& error) {
            std::printf("FAULT       %s\n", error.what());
            if (!fault) fault = error;
        };
        try {
            inspect(path);
        } catch (const Error& error) {
            note(error);
        } catch (const nlohmann::json::exception& exception) {  // a manifest with sound hashes and odd fields
            note(Error(ExitCode::checkpoint, path + ": the manifest is not of the expected form: " + exception.what(),
                       "use another checkpoint")
                     .file(path));
        }
    }
    std::fflush(stdout);
    if (fault) throw *fault;
    return 0;
}

}  // namespace traincu
