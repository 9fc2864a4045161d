#include "src/command/training_step.h"

#include <cstring>

#include "kernels/copy.h"
#include "kernels/matmul.h"
#include "src/command/run_setup.h"
#include "src/model/flops.h"
#include "src/optim/guard.h"

namespace traincu {

TrainingStep::TrainingStep(const Options& o, RunMemory& memory, Communicator* world, double peak_flops, Stream& stream)
    : options_(o),
      weights_(memory.weights),
      optimizer_(memory.optimizer),
      sharding_(memory.sharding.get()),
      world_(world),
      model_(memory.trainer.model),
      peak_flops_(peak_flops),
      stream_(stream),
      executor_(model_, weights_.door, memory.tree.get()),
      schedule_(training_schedule(model_.n_parts(), step_shape(o).micro_batches(), o.recompute != "none",
                                  memory.tree ? memory.tree->workers() : 1)),
      lr_{o.lr_schedule, o.lr, o.min_lr_fraction, o.warmup_steps, o.max_steps, o.decay_fraction} {
    for (Slot& slot : slots_) {
        slot.guard_state = PinnedMemory(stream, sizeof(GuardState));
        if (stream.on_gpu()) slot.begin = gpu::create_event(), slot.end = gpu::create_event();
    }
}

static TrafficRecord traffic_record(const Traffic& traffic) {
    TrafficRecord record;
    const auto &weights = traffic.of(Cargo::weights), &gradients = traffic.of(Cargo::gradients), &other = traffic.of(Cargo::other);
    record.weights_inside = weights.inside_node, record.weights_between = weights.between_nodes;
    record.gradients_inside = gradients.inside_node, record.gradients_between = gradients.between_nodes;
    record.other = other.inside_node + other.between_nodes;
    record.waited_ms = 1e3 * traffic.waited_seconds;
    return record;
}

TrainingStep::~TrainingStep() {
    for (Slot& slot : slots_)
        if (slot.begin) gpu::destroy_event(slot.begin), gpu::destroy_event(slot.end);
}

void TrainingStep::submit(int64_t step, const StepBatch& batch) {
    ENSURE(under_way() < 2);
    Slot& slot = slots_[next_slot_];
    Flight flight{{}, next_slot_, under_way() > 0, Clock::now()};
    next_slot_ = (next_slot_ + 1) % slots_.size();
    StepRecord& record = flight.record;
    record.step = step + 1, record.max_steps = options_.max_steps, record.lr = lr_.at(step), record.tokens = batch.tokens;
    if (stream_.on_gpu()) gpu::record(slot.begin, stream_.handle());

    const double products_before = matmul_seconds();
    const Tensor gradients = weights_.door.flat_gradients();
    zero(gradients, stream_);
    if (world_) world_->traffic() = {};
    if (sharding_) sharding_->begin_step(step);
    executor_.run(schedule_, batch, stream_, [&] {
        const GuardParams guard{loss_scale(batch), options_.skip_zscore, options_.grad_clip};
        if (sharding_) sharding_->finish_gradients(model_.loss_sum(), stream_);
        optimizer_.sum_squares(stream_);
        if (sharding_) sharding_->finish_squares(optimizer_.squares(), stream_);
        optimizer_.update(model_.loss_sum(), record.lr, guard, stream_);
        if (sharding_) sharding_->publish_weights(optimizer_, stream_);
    });
    if (world_) record.traffic = traffic_record(world_->traffic());

    const Tensor state = optimizer_.guard_state();
    if (stream_.on_gpu()) {
        gpu::copy(slot.guard_state.data(), state.data, state.bytes(), stream_.handle());
        gpu::record(slot.end, stream_.handle());
    } else {
        std::memcpy(slot.guard_state.data(), state.data, sizeof(GuardState));
        record.ms = 1e3 * std::chrono::duration<double>(Clock::now() - flight.begin).count();
        record.gemm_fraction = 1e3 * (matmul_seconds() - products_before) / record.ms;
    }
    flights_.push_back(std::move(flight));
}

TrainingStep::Result TrainingStep::collect() {
    ENSURE(under_way() > 0);
    const Flight flight = std::move(flights_.front());
    flights_.pop_front();
    const Slot &slot = slots_[flight.slot], &before = slots_[(flight.slot + slots_.size() - 1) % slots_.size()];
    StepRecord record = flight.record;
    if (stream_.on_gpu()) {
        gpu::synchronize(slot.end);
        if (world_) world_->progress();  // throws where a peer was lost, and what was computed is worth nothing
        record.ms = gpu::milliseconds(flight.follows ? before.end : slot.begin, slot.end);
    }
    GuardState guard;
    std::memcpy(&guard, slot.guard_state.data(), sizeof guard);
    record.loss = guard.loss, record.grad_norm = guard.norm, record.skipped = skip_reason(guard);
    record.tok_per_s = 1e3 * static_cast<double>(record.tokens) / record.ms;
    record.mfu = training_flops_per_token(weights_.config, options_.seq_len) * record.tok_per_s / peak_flops_;
    return {record, guard.consecutive_nonfinite, guard.overflows};
}

void check_finite(const TrainingStep::Result& result) {
    const StepRecord& record = result.record;
    if (result.overflows > 0)
        throw Error(ExitCode::numerical,
                    format("%lld weights left the range of the 16-bit type they are stored in (fp16: 65504) at step %lld",
                           static_cast<long long>(result.overflows), static_cast<long long>(record.step)),
                    "resume from the last checkpoint with --precision-of linear=bf16, whose range is fp32's, or with a lower --lr")
            .step(record.step);
    if (result.nonfinite_row < 3) return;
    throw Error(ExitCode::numerical,
                format("three steps in a row were not finite (%s): the weights are those of step %lld", record.skipped.c_str(),
                       static_cast<long long>(record.step - 3)),
                "resume from the last checkpoint with a lower --lr, a longer --warmup-steps or a smaller --grad-clip")
        .step(record.step);
}

}  // namespace traincu
