// The executor runs a schedule on a model: the only place where the parts of a training step come together.
#pragma once

#include <functional>

#include "src/model/batch.h"
#include "src/model/transformer.h"
#include "src/parallel/gradient_tree.h"
#include "src/parallel/schedule.h"

namespace traincu {

class Executor {
public:
    // tree: of schedules that fold
    Executor(Transformer& model, WeightDoor& door, GradientTree* tree = nullptr) : model_(model), door_(door), tree_(tree) {}

    // Runs the instructions over the step's micro-batches (on a GPU: puts them in line). Gradients are those of the mean loss over the
    // step's loss tokens, and are added to what the gradient arena holds. `optimizer` is called for the optimizer instruction,
    // `after_forward` after each part's forward. The sum of the losses is in the model's loss_sum().
    void run(const std::vector<Instruction>& schedule, const StepBatch& batch, Stream& stream, const std::function<void()>& optimizer = {},
             const std::function<void(int part)>& after_forward = {});

    // Mean loss per loss token of the batch that was run last. The host waits for it.
    double mean_loss(const StepBatch& batch, Stream& stream) const;

private:
    Transformer& model_;
    WeightDoor& door_;
    GradientTree* tree_;
};

}  // namespace traincu
