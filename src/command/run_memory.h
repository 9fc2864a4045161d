// All memory of a training run, declared from its options in one place. A run allocates it; ./train plan only reads the arenas' tables,
// so that what is planned is what is taken, to the byte.
#pragma once

#include <memory>
#include <vector>

#include "src/command/evaluation.h"
#include "src/command/generation.h"
#include "src/config/options.h"
#include "src/model/instance.h"
#include "src/optim/optimizer.h"
#include "src/parallel/gradient_tree.h"
#include "src/parallel/sharding.h"

namespace traincu {

// What a run does besides training steps.
struct RunUses {
    bool validates = false, samples = false;
};

struct RunMemory {
    // o: vocabulary, batch and --recompute resolved. Declares only; Error(usage) where the options describe no model.
    RunMemory(const Options& o, const RunUses& uses, int rank = 0);

    std::vector<const Arena*> arenas() const;
    // On the stream's device. Error(memory) with the account by arena where it has less.
    void allocate(const Stream& stream);

    WeightStore weights;
    std::unique_ptr<GradientTree> tree;  // --determinism ranks, where this rank has several logical workers
    Arena exchange{"exchange"};          // what sums over ranks need beside the gradients
    std::unique_ptr<Sharding> sharding;  // of several ranks
    Arena optimizer_arena{"optimizer"};
    Optimizer optimizer;
    ModelInstance trainer;
    std::unique_ptr<ForwardPass> validation;  // null where the run does not validate
    std::unique_ptr<Generator> generator;     // null where it does not sample
};

// --recompute auto becomes the mode that computes least among those that leave a tenth of the available bytes free; block if none does.
// Other values stay.
void resolve_recompute(Options& o, const RunUses& uses, int64_t available);

}  // namespace traincu
