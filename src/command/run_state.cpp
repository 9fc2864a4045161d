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

bool restore_run_state(const RunDirectory& directory, RunState& state) {
    const Json& meta = directory.meta();
    read_checkpoint(*directory.checkpoint, state.weights->config, state.weights->table, state.weights->door.flat_weights(),
                    state.optimizer->m(), state.optimizer->v());
    state.step = directory.checkpoint->step, state.tokens = meta.at("tokens");
    state.optimizer->set_steps(meta.at("adam_steps"));
    state.guard->restore(meta.at("guard"));
    if (meta.at("data") != state.data->fingerprint()) return false;
    state.data->seek({meta.at("epoch"), meta.at("sample")});
    return true;
}

}  // namespace traincu
