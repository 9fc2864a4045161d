// All that a training run must keep to go on as if it had never stopped, written to a checkpoint and read back in one place.
#pragma once

#include <string>

#include "src/command/run_directory.h"
#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/model/instance.h"
#include "src/optim/optimizer.h"
#include "src/parallel/sharding.h"

namespace traincu {

struct RunState {
    int64_t step = 0, tokens = 0;  // optimizer steps done, tokens seen
    Loader* data = nullptr;        // its cursor
    WeightStore* weights = nullptr;
    Optimizer* optimizer = nullptr;  // master weights, moments, AdamW's own counter, the guard's windows
    Stream* stream = nullptr;        // where they are
    Tokenizer* tokenizer = nullptr;  // null: the data do not name one
    Sharding* sharding = nullptr;    // null: one rank
    Communicator* world = nullptr;   // of its ranks
};

// Commits a checkpoint of state.step and returns its path; the options and the tokenizer go with it. Error(io): nothing was changed.
// All ranks call it; rank 0 writes, and to the others the path is empty.
std::string save_run_state(Io& io, const RunDirectory& directory, const RunState& state, const Options& options);

// From directory.checkpoint. False if the data changed and their order begins anew.
bool restore_run_state(const RunDirectory& directory, RunState& state);

}  // namespace traincu
