// The manifest of a checkpoint whose other files are whole. The input is its text up to the hash, which is then made right: so the rules
// behind the hash are reached. What opens is used as a model, and as the state that a run resumes from.
#include "src/checkpoint/formats.h"
#include "src/command/run_state.h"
#include "tests/fuzz/model.h"

namespace traincu::fuzz {

namespace {

constexpr const char *folder = "run/step_0000000003", *hash_lead = ",\n  \"hash\": \"";

std::string sealed(std::string_view text) {
    return std::string(text) + hash_lead + hash_text(hash_bytes(text.data(), static_cast<int64_t>(text.size()))) + "\"\n}\n";
}

// What a run has when it resumes; made once.
struct ResumingRun {
    ResumingRun() : weights(smallest("gpt2"), Dtype::f32, false), optimizer(weights.door, {}, arena) {
        weights.allocate(stream);
        arena.allocate();
        optimizer.bind(stream);
        put_file("data.bin", packed(20240520, 1, 40) + std::string(1012 + 80, '\0'));
        LoaderConfig config;
        config.shards = {scratch_folder() + "/data.bin"};
        config.seq_len = 3, config.vocab_size = 50257;
        loader = std::make_unique<Loader>(config);
    }
    RunState state() { return {0, 0, loader.get(), &weights, &optimizer, &stream}; }

    WeightStore weights;
    Arena arena{"optimizer"};
    Optimizer optimizer;
    Stream stream;
    std::unique_ptr<Loader> loader;
};
ResumingRun& resuming_run() {
    static ResumingRun run;
    return run;
}

RunDirectory opened(const std::string& path) { return {scratch_folder() + "/run", nullptr, open_checkpoint(path)}; }

// The text of a valid manifest up to its hash.
std::string valid_manifest() {
    const std::string run = scratch_folder() + "/run";
    fs::remove_all(run);
    fs::create_directories(run);
    RealIo io;
    RunState state = resuming_run().state();
    state.step = 3;
    GuardState guard = resuming_run().optimizer.read_guard(Stream());
    guard.losses[0] = 2.5, guard.norms[0] = 1.0, guard.filled = 1;
    resuming_run().optimizer.write_guard(guard, Stream());
    const std::string path = save_run_state(io, {run, nullptr, {}}, state, Options());
    const std::string text = content_of(path + "/manifest.json");
    return text.substr(0, text.rfind(hash_lead));
}

// What was restored is saved and restored again.
void check_saved_again(const RunState& state, const nlohmann::ordered_json& meta) {
    const std::string run = scratch_folder() + "/again";
    fs::remove_all(run);
    fs::create_directories(run);
    RealIo io;
    const FoundCheckpoint again = open_checkpoint(save_run_state(io, {run, nullptr, {}}, state, Options()));
    for (const char* name : {"tokens", "adam_steps", "epoch", "sample", "guard"}) {
        if (meta.at(name) == again.manifest.at("meta").at(name)) continue;
        ENSURE(name == std::string("guard"));  // an unknown key in it is not kept
        for (const auto& [key, value] : again.manifest.at("meta").at("guard").items()) ENSURE(meta.at("guard").at(key) == value);
    }
}

}  // namespace

bool fuzz_manifest(Bytes input) {
    static const std::string valid = valid_manifest();
    const std::string file = put_file(std::string(folder) + "/manifest.json", sealed(text_of(input)));
    const std::string path = scratch_folder() + "/" + folder;
    return accepted([&] {
        const FoundCheckpoint found = open_checkpoint(path);
        ENSURE(found.step == 3);
        const ModelConfig config = config_of_checkpoint(found);
        const ModelOnDisk model = find_model(scratch_folder() + "/run");
        ENSURE(model.config == config && model.step == 3);
        const ParamTable table = make_param_table(config);
        if (Arenas::fits(table)) {
            Arenas arenas(config);
            load_model(model, arenas.table, arenas.params);
            read_checkpoint(found, config, arenas.table, arenas.params, arenas.m, arenas.v);
        }
        const RunDirectory directory = opened(path);
        check_resume(directory, Options(), resuming_run().loader->fingerprint());
        RunState state = resuming_run().state();
        if (restore_run_state(directory, state)) check_saved_again(state, directory.meta());
    });
}

Seeds manifest_seeds() { return {valid_manifest()}; }

}  // namespace traincu::fuzz
