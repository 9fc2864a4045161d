#include "src/command/evaluation.h"

#include <algorithm>

#include "src/parallel/executor.h"

namespace traincu {

namespace {

ModelOptions evaluation_options(const ModelConfig& config, int64_t max_tokens) {
    ModelOptions options;
    options.config = config, options.max_tokens = max_tokens, options.training = false;
    return options;
}

// The first `rows` windows of a micro-batch.
void keep_rows(MicroBatch& batch, int64_t rows, int64_t seq_len) {
    const size_t n = static_cast<size_t>(std::min(rows * seq_len, batch.T()));
    batch.tokens.resize(n), batch.targets.resize(n), batch.positions.resize(n), batch.loss_weights.resize(n);
    std::erase_if(batch.segments, [&](const Segment& s) { return s.q_start >= static_cast<int64_t>(n); });
}

}  // namespace

Evaluator::Evaluator(WeightStore& weights, int64_t batch_rows, int64_t seq_len, const Tokenizer* tokenizer)
    : weights_(weights),
      batch_rows_(batch_rows),
      seq_len_(seq_len),
      instance_(evaluation_options(weights.config, batch_rows * seq_len), weights.door, "validation") {
    if (!tokenizer) return;
    for (int32_t id = 0; id < tokenizer->vocab_size(); id++)
        bytes_of_token_.push_back(static_cast<int32_t>(tokenizer->decode(std::span(&id, 1)).size()));
}

Evaluation Evaluator::run(Loader& data, int64_t max_tokens, Stream& stream) {
    Evaluation result;
    Executor executor(instance_.model, weights_.door);
    const auto schedule = evaluation_schedule(instance_.model.n_parts());
    int64_t rows = data.samples_per_epoch();
    if (max_tokens > 0) rows = std::min(rows, std::max<int64_t>(1, max_tokens / seq_len_));
    data.seek({});
    for (int64_t row = 0; row < rows; row += batch_rows_) {
        StepBatch batch = data.next();
        MicroBatch& micro = batch.micro_batches.at(0);
        keep_rows(micro, rows - row, seq_len_);
        batch.loss_tokens = std::count_if(micro.targets.begin(), micro.targets.end(), [](int32_t target) { return target >= 0; });
        result.loss_sum += executor.run(schedule, batch, stream) * static_cast<double>(batch.loss_tokens);
        result.tokens += batch.loss_tokens;
        for (int32_t target : micro.targets)
            if (target >= 0 && static_cast<size_t>(target) < bytes_of_token_.size())
                result.bytes += bytes_of_token_[static_cast<size_t>(target)];
    }
    return result;
}

}  // namespace traincu
