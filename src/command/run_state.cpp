#include "src/command/run_state.h"

#include "kernels/gemm_cache.h"
#include "src/checkpoint/state.h"
#include "src/optim/guard.h"
#include "src/optim/master_copy.h"

namespace traincu {

using Json = nlohmann::ordered_json;

std::string save_run_state(Io& io, const RunDirectory& directory, const RunState& state, const Options& options) {
    const Cursor cursor = state.data->cursor();
    const GuardState guard = state.optimizer->read_guard(*state.stream);
    Json meta = {{"tokens", state.tokens},
                 {"adam_steps", guard.adam_steps},
                 {"epoch", cursor.epoch},
                 {"sample", cursor.sample},
                 {"guard", guard_to_json(guard)},
                 {"options", options_to_json(options)},
                 {"data", state.data->fingerprint()},
                 {"tokenizer", state.tokenizer ? state.tokenizer->name() : ""}};
    if (state.stream->on_gpu()) meta["gemm_choices"] = gemm_cache().used();
    std::vector<TextFile> beside;
    if (state.tokenizer) {
        meta["bos_token_id"] = meta["eos_token_id"] = state.tokenizer->eot();
        beside = tokenizer_files(*state.tokenizer, options.seq_len);
    }
    if (state.sharding) state.sharding->settle(*state.stream);
    const ParamTable& table = state.weights->table;
    MasterCopy params(state.weights->door, state.optimizer, *state.stream);
    MomentCopy m(*state.optimizer, table, state.optimizer->m(), *state.stream),
        v(*state.optimizer, table, state.optimizer->v(), *state.stream);
    params.download(state.world), m.download(state.world), v.download(state.world);
    if (state.world && state.world->rank() > 0) return "";
    MasterCopy replica(state.weights->door, nullptr, *state.stream);
    const bool follow = state.weights->door.precision().follow_masters;
    return write_checkpoint(io, directory.path, state.step, state.weights->config, table, params.tensor(), m.tensor(), v.tensor(), meta,
                            beside, follow ? replica.download().tensor() : Tensor());
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
    const ParamTable& table = state.weights->table;
    MasterCopy params(state.weights->door, state.optimizer, *state.stream);
    MomentCopy m(*state.optimizer, table, state.optimizer->m(), *state.stream),
        v(*state.optimizer, table, state.optimizer->v(), *state.stream);
    read_checkpoint(*directory.checkpoint, state.weights->config, table, params.tensor(), m.tensor(), v.tensor());
    params.upload(), m.upload(), v.upload();
    if (state.weights->door.precision().follow_masters) {
        MasterCopy replica(state.weights->door, nullptr, *state.stream);
        if (read_replica(*directory.checkpoint, state.weights->config, table, replica.tensor())) replica.upload();
    }
    state.step = directory.checkpoint->step, state.tokens = counter(directory, meta, "tokens");
    for (const char* name : {"skipped", "consecutive_skips", "consecutive_nonfinite"}) counter(directory, meta.at("guard"), name);
    GuardState guard = guard_from_json(meta.at("guard"));
    guard.adam_steps = counter(directory, meta, "adam_steps");
    state.optimizer->write_guard(guard, *state.stream);
    if (state.stream->on_gpu() && meta.contains("gemm_choices")) gemm_cache().adopt(gemm_choices_from_json(meta["gemm_choices"]));
    if (meta.at("data") != state.data->fingerprint()) return false;
    state.data->seek({counter(directory, meta, "epoch"), counter(directory, meta, "sample")});
    return true;
} catch (const nlohmann::json::exception& exception) {
    throw unknown_meta(directory, exception);
}

}  // namespace traincu
