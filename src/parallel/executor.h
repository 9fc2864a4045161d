// The executor runs a schedule on a model: the only place where the parts of a training step come together.
#pragma once

#include <functional>

#include "src/model/batch.h"
#include "src/model/transformer.h"
#include "src/parallel/schedule.h"

namespace traincu {

class Executor {
public:
    Executor(Transformer& model, WeightDoor& door) : model_(model), door_(door) {}

    // Runs the instructions over the step's micro-batches. Gradients are those of the mean loss over the step's loss tokens, and are added
    // to what the gradient arena holds. `optimizer` is called for the optimizer instruction, with the mean loss.
    // Returns the mean loss per loss token.
    double run(const std::vector<Instruction>& schedule, const StepBatch& batch, Stream& stream,
               const std::function<void(double)>& optimizer = {});

private:
    Transformer& model_;
    WeightDoor& door_;
};

}  // namespace traincu
