// One optimizer step: forward, backward, guard, clip, update.
#pragma once

#include <vector>

#include "src/config/options.h"
#include "src/model/instance.h"
#include "src/optim/guard.h"
#include "src/optim/lr_schedule.h"
#include "src/optim/optimizer.h"
#include "src/parallel/executor.h"
#include "src/report/log.h"

namespace traincu {

class TrainingStep {
public:
    // peak_flops: what MFU is told against.
    TrainingStep(const Options& options, ModelInstance& trainer, WeightStore& weights, Optimizer& optimizer, Guard& guard,
                 double peak_flops);

    // Takes the weights from `step` updates to one more, or leaves weights, moments and AdamW's counter as they are where the guard
    // refuses. Returns what the log says of it, but for the tokens seen so far and the time still to go.
    StepRecord run(int64_t step, const StepBatch& batch, Stream& stream);

private:
    const Options& options_;
    WeightStore& weights_;
    Optimizer& optimizer_;
    Guard& guard_;
    double peak_flops_;
    Executor executor_;
    std::vector<Instruction> schedule_;
    LrSchedule lr_;
};

}  // namespace traincu
