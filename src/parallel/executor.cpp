#include "src/parallel/executor.h"

namespace traincu {

double Executor::mean_loss(const StepBatch& batch, Stream& stream) const {
    double sum = 0;
    stream.download(&sum, model_.loss_sum());
    return sum * loss_scale(batch);
}

void Executor::run(const std::vector<Instruction>& schedule, const StepBatch& batch, Stream& stream, const std::function<void()>& optimizer,
                   const std::function<void(int part)>& after_forward) {
    model_.clear_loss(stream);
    for (const Instruction& i : schedule) {
        const Range range(stream, [&] { return to_string(i); });
        switch (i.op) {
            case Op::load:
                model_.load(batch.micro_batches[static_cast<size_t>(i.micro_batch)], stream);
                break;
            case Op::prefetch:
                door_.prefetch(i.part, stream);
                break;
            case Op::acquire:
                door_.acquire(i.part, stream);
                break;
            case Op::release:
                door_.release(i.part);
                break;
            case Op::forward:
                model_.forward(i.part, loss_scale(batch), stream);
                if (after_forward) after_forward(i.part);
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
                door_.commit(i.part, i.last, stream);
                break;
            case Op::fold:
                ENSURE(tree_);
                tree_->fold(i.worker, door_.flat_gradients(), model_.loss_sum(), stream);
                break;
            case Op::optimizer:
                if (optimizer) optimizer();
                break;
        }
    }
}

}  // namespace traincu
