#include "src/parallel/executor.h"

namespace traincu {

double Executor::run(const std::vector<Instruction>& schedule, const StepBatch& batch, Stream& stream,
                     const std::function<void(double)>& optimizer) {
    const double tokens = static_cast<double>(batch.loss_tokens > 0 ? batch.loss_tokens : 1);
    const int head = model_.n_parts() - 1;
    double loss_sum = 0;
    for (const Instruction& i : schedule) {
        switch (i.op) {
            case Op::load:
                model_.load(batch.micro_batches[static_cast<size_t>(i.micro_batch)]);
                break;
            case Op::prefetch:
                door_.prefetch(i.part);
                break;
            case Op::acquire:
                door_.acquire(i.part);
                break;
            case Op::release:
                door_.release(i.part);
                break;
            case Op::forward:
                model_.forward(i.part, 1.0 / tokens, stream);
                if (i.part == head) loss_sum += model_.loss_sum(stream);
                break;
            case Op::recompute:
                model_.recompute(i.part, stream);
                break;
            case Op::backward_input:
                model_.backward_input(i.part, stream);
                break;
            case Op::backward_weight:
                model_.backward_weight(i.part, stream);
                break;
            case Op::commit:
                door_.commit(i.part, i.last);
                break;
            case Op::optimizer:
                if (optimizer) optimizer(loss_sum / tokens);
                break;
        }
    }
    return loss_sum / tokens;
}

}  // namespace traincu
