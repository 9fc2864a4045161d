#include "src/base/process.h"
#include "src/command/evaluation.h"

#include <algorithm>
#include <cstdio>

#include "src/data/shard.h"
#include "src/parallel/agree.h"
#include "src/parallel/executor.h"

namespace traincu {

namespace {

// The model's, if it can be used.
std::unique_ptr<Tokenizer> usable_tokenizer(const ModelOnDisk& model) try {
    auto tokenizer = tokenizer_of_model(model);
    return tokenizer && tokenizer->vocab_size() <= model.config.vocab_size ? std::move(tokenizer) : nullptr;
} catch (const Error& error) {
    std::fprintf(stderr, "warning: the model's tokenizer is not used: %s (%s)\n", error.what(), error.remedy().c_str());
    return nullptr;
}

}  // namespace

std::unique_ptr<Tokenizer> choose_tokenizer(const std::string& where, const std::string& shard, const ModelOnDisk* model,
                                            int64_t vocab_size) {
    const Shard data(shard);
    std::string note;
    std::unique_ptr<Tokenizer> tokenizer = where.empty() ? tokenizer_of_shard(data, note) : open_tokenizer(where);
    if (tokenizer && !where.empty()) check_vocab_size(*tokenizer, vocab_size);
    if (tokenizer && tokenizer->vocab_size() > vocab_size) {  // an id of the shards that the model lacks is refused where it is read
        note = format("the shards' vocabulary has %lld tokens, the model %lld", static_cast<long long>(tokenizer->vocab_size()),
                      static_cast<long long>(vocab_size));
        tokenizer = nullptr;
    }
    if (!tokenizer && model) {
        tokenizer = usable_tokenizer(*model);
        const uint64_t stated = data.header().fingerprint;  // 0: the shard does not say
        if (tokenizer && stated != 0 && tokenizer->fingerprint() != stated) tokenizer = nullptr;
    }
    if (!tokenizer) traincu::note("%s: no text can be shown (--tokenizer names a vocabulary)", note.c_str());
    return tokenizer;
}

namespace {

ModelOptions evaluation_options(const WeightStore& weights, int64_t max_tokens) {
    ModelOptions options;
    options.config = weights.config, options.dtype = weights.dtype, options.wide_head = weights.door.precision().wide_head();
    options.max_tokens = max_tokens, options.training = false;
    return options;
}

// The first `rows` windows of a micro-batch.
void keep_rows(MicroBatch& batch, int64_t rows, int64_t seq_len) {
    const size_t n = static_cast<size_t>(std::min(rows * seq_len, batch.T()));
    batch.tokens.resize(n), batch.targets.resize(n), batch.positions.resize(n), batch.loss_weights.resize(n);
    std::erase_if(batch.segments, [&](const Segment& s) { return s.q_start >= static_cast<int64_t>(n); });
}

}  // namespace

ForwardPass::ForwardPass(WeightStore& weights, int64_t max_tokens)
    : weights_(weights), instance_(evaluation_options(weights, max_tokens), weights.door, "validation") {}

double ForwardPass::loss_sum(const MicroBatch& batch, Stream& stream, AttentionStats* stats) {
    StepBatch step;
    step.micro_batches.push_back(batch);
    step.tokens = batch.T();
    step.loss_tokens = std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t target) { return target >= 0; });
    Executor executor(instance_.model, weights_.door);
    const int n_layer = instance_.model.n_parts() - 2;
    executor.run(evaluation_schedule(instance_.model.n_parts()), step, stream, {}, [&](int part) {
        if (stats && part >= 1 && part <= n_layer) stats->add(instance_.model, part - 1, stream);
    });
    return executor.mean_loss(step, stream) * static_cast<double>(step.loss_tokens);
}

std::vector<float> ForwardPass::losses(Stream& stream) const {
    const Tensor losses = instance_.model.losses();
    std::vector<float> values(static_cast<size_t>(losses.numel()));
    stream.download(values.data(), losses);
    return values;
}

Evaluator::Evaluator(ForwardPass& pass, Loader& data, int64_t batch_rows, int64_t seq_len, int64_t max_tokens, const Tokenizer* tokenizer)
    : pass_(pass), data_(data), batch_rows_(batch_rows), seq_len_(seq_len), rows_(data.samples_per_epoch()) {
    ENSURE(batch_rows * seq_len <= pass.max_tokens());
    if (max_tokens > 0) rows_ = std::min(rows_, std::max<int64_t>(1, max_tokens / seq_len));
    if (!tokenizer) return;
    for (int32_t id = 0; id < tokenizer->vocab_size(); id++)
        bytes_of_token_.push_back(static_cast<int32_t>(tokenizer->decode(std::span(&id, 1)).size()));
}

Evaluation Evaluator::run(Stream& stream, AttentionStats* stats, Communicator* world) {
    Evaluation result;
    std::vector<double> sums(static_cast<size_t>(div_ceil(rows_, batch_rows_)));
    data_.seek({});
    for (size_t i = 0; i < sums.size(); i++) {
        StepBatch batch = data_.next();
        MicroBatch& micro = batch.micro_batches.at(0);
        keep_rows(micro, rows_ - static_cast<int64_t>(i) * batch_rows_, seq_len_);
        if (!world || static_cast<int>(i) % world->size() == world->rank()) sums[i] = pass_.loss_sum(micro, stream, stats);
        for (int32_t target : micro.targets) {
            if (target < 0) continue;
            result.tokens++;
            if (static_cast<size_t>(target) < bytes_of_token_.size()) result.bytes += bytes_of_token_[static_cast<size_t>(target)];
        }
    }
    if (world) sum_over_ranks(*world, sums);
    for (double sum : sums) result.loss_sum += sum;  // in one order, whoever computed them
    return result;
}

}  // namespace traincu
