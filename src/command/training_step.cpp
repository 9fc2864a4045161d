#include "src/command/training_step.h"

#include <chrono>
#include <cstring>

#include "kernels/matmul.h"
#include "src/command/run_setup.h"
#include "src/model/flops.h"

namespace traincu {

TrainingStep::TrainingStep(const Options& o, ModelInstance& trainer, WeightStore& weights, Optimizer& optimizer, Guard& guard,
                           double peak_flops)
    : options_(o),
      weights_(weights),
      optimizer_(optimizer),
      guard_(guard),
      peak_flops_(peak_flops),
      executor_(trainer.model, weights.door),
      schedule_(training_schedule(trainer.model.n_parts(), step_shape(o).micro_batches(), o.recompute != "none")),
      lr_{o.lr_schedule, o.lr, o.min_lr_fraction, o.warmup_steps, o.max_steps, o.decay_fraction} {}

StepRecord TrainingStep::run(int64_t step, const StepBatch& batch, Stream& stream) {
    const auto start = std::chrono::steady_clock::now();
    const double products_before = matmul_seconds();
    StepRecord record;
    record.step = step + 1, record.max_steps = options_.max_steps, record.lr = lr_.at(step);
    const Tensor gradients = weights_.door.flat_gradients();
    std::memset(gradients.data, 0, static_cast<size_t>(gradients.bytes()));
    record.loss = executor_.run(schedule_, batch, stream, [&](double loss) {
        record.grad_norm = Optimizer::global_norm(gradients, stream);
        record.skipped = guard_.judge(loss, record.grad_norm);
        if (!record.skipped.empty()) return;
        const double clip = Optimizer::clip_factor(record.grad_norm, options_.grad_clip);
        optimizer_.update(weights_.door.flat_weights(), gradients, record.lr, clip, stream);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    record.ms = 1e3 * seconds;
    record.tok_per_s = static_cast<double>(batch.tokens) / seconds;
    record.mfu = training_flops_per_token(weights_.config, options_.seq_len) * record.tok_per_s / peak_flops_;
    record.gemm_fraction = (matmul_seconds() - products_before) / seconds;
    return record;
}

}  // namespace traincu
