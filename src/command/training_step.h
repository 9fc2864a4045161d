// One optimizer step: forward, backward, guard, clip, update.
#pragma once

#include <chrono>
#include <deque>
#include <vector>

#include "src/config/options.h"
#include "src/command/run_memory.h"
#include "src/device/transfer.h"
#include "src/optim/lr_schedule.h"
#include "src/parallel/executor.h"
#include "src/report/log.h"

namespace traincu {

// A step is submitted, and its record collected later. On a CPU submit() does all the work. On a GPU it only puts it in line, so that the
// host reads the next batch, and puts the next step in line, while the GPU computes: nothing between two steps waits.
class TrainingStep {
public:
    // world: of several ranks, whose traffic is counted; else null. peak_flops: of all ranks, what MFU is told against.
    TrainingStep(const Options& options, RunMemory& memory, Communicator* world, double peak_flops, Stream& stream);
    ~TrainingStep();
    TrainingStep(const TrainingStep&) = delete;
    TrainingStep& operator=(const TrainingStep&) = delete;

    // Takes the weights from `step` updates to one more, or leaves weights, moments and AdamW's counter as they are where the guard
    // refuses. At most two steps may be under way.
    void submit(int64_t step, const StepBatch& batch);
    int64_t under_way() const { return static_cast<int64_t>(flights_.size()); }

    struct Result {
        StepRecord record;      // what the log says of the step, but for the time still to go; its tokens are those of the step
        int64_t nonfinite_row;  // steps in a row up to this one whose loss or norm was not finite
        int64_t overflows;      // weights beyond the range of their 16-bit type
    };
    // Of the oldest step under way: waits until it is done.
    Result collect();

private:
    using Clock = std::chrono::steady_clock;
    struct Flight {
        StepRecord record;
        size_t slot;
        bool follows = false;  // on the heels of the step before
        Clock::time_point begin;
    };
    // What comes back of a step that is under way.
    struct Slot {
        PinnedMemory guard_state;
        gpu::EventHandle begin = nullptr, end = nullptr;
    };

    const Options& options_;
    WeightStore& weights_;
    Optimizer& optimizer_;
    Sharding* sharding_;
    Communicator* world_;
    Transformer& model_;
    double peak_flops_;
    Stream& stream_;
    Executor executor_;
    std::vector<Instruction> schedule_;
    LrSchedule lr_;
    std::array<Slot, 3> slots_;  // of two steps under way, and of the one before: its end is when the next began
    size_t next_slot_ = 0;
    std::deque<Flight> flights_;
};

// Error(numerical) after three steps in a row that were not finite, or where weights left the range of the type they are stored in.
void check_finite(const TrainingStep::Result& result);

}  // namespace traincu
