#include "src/command/run_state.h"

#include "src/checkpoint/state.h"

namespace traincu {

using Json = nlohmann::ordered_json;

std::string save_run_state(Io& io, const RunDirectory& directory, const RunState& state, const Options& options) {
    const Cursor cursor = state.data->cursor();
    Json meta = {{"tokens", state.tokens},
                 {"adam_steps", state.optimizer->steps()},
                 {"epoch", cursor.epoch},
                 {"sample", cursor.sample},
                 {"guard", state.guard->state()},
                 {"options", options_to_json(options)},
                 {"data", state.data->fingerprint()},
                 {"tokenizer", state.tokenizer ? state.tokenizer->name() : ""}};
    std::vector<TextFile> beside;
    if (state.tokenizer) {
        meta["bos_token_id"] = meta["eos_token_id"] = state.tokenizer->eot();
        beside = tokenizer_files(*state.tokenizer, options.seq_len);
    }
    return write_checkpoint(io, directory.path, state.step, state.weights->config, state.weights->table, state.weights->door.flat_weights(),
                            state.optimizer->m(), state.optimizer->v(), meta, beside);
}

// A counter of the run; Error(checkpoint) if it is not a whole number of at least 0.
static int64_t counter(const RunDirectory& directory, const Json& object, const char* name) {
    const int64_t value = integer_field(object, name);
    if (value < 0)
        throw Error(ExitCode::checkpoint, format("the manifest of %s says that %s is negative", directory.checkpoint->path.c_str(), name),
                    "use another checkpoint")
            .file(directory.checkpoint->path + "/manifest.json");
    return value;
}

bool restore_run_state(const RunDirectory& directory, RunState& state) try {
    const Json& meta = directory.meta();
    read_checkpoint(*directory.checkpoint, state.weights->config, state.weights->table, state.weights->door.flat_weights(),
                    state.optimizer->m(), state.optimizer->v());
    state.step = directory.checkpoint->step, state.tokens = counter(directory, meta, "tokens");
    state.optimizer->set_steps(counter(directory, meta, "adam_steps"));
    for (const char* name : {"skipped", "consecutive_skips", "consecutive_nonfinite"}) counter(directory, meta.at("guard"), name);
    state.guard->restore(meta.at("guard"));
    if (meta.at("data") != state.data->fingerprint()) return false;
    state.data->seek({counter(directory, meta, "epoch"), counter(directory, meta, "sample")});
    return true;
} catch (const nlohmann::json::exception& exception) {
    throw unknown_meta(directory, exception);
}

}  // namespace traincu
