// Loss over held-out tokens: used by ./train eval and by the validations of a training run. Scoring multiple-choice questions
// (choice_scorer.h) shares the same forward pass and its memory.
#pragma once

#include <memory>
#include <vector>

#include "src/checkpoint/formats.h"
#include "src/command/attention_stats.h"
#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/model/instance.h"
#include "src/parallel/comm.h"

namespace traincu {

// The tokenizer of a data set: the one that `where` (--tokenizer) names, else the shard's, else the model's (null: there is none); the last
// two if they have no more tokens than the model (V). Null where there is none of these, with a note on stderr: then nothing is sampled and
// no bytes are counted. Error where `where` cannot be opened or has more tokens than the model, or where the shard's is another one.
std::unique_ptr<Tokenizer> choose_tokenizer(const std::string& where, const std::string& shard, const ModelOnDisk* model,
                                            int64_t vocab_size);

struct Evaluation {
    double loss_sum = 0;  // nats
    int64_t tokens = 0;   // targets that counted
    int64_t bytes = 0;    // of text behind them; 0 where the tokenizer is unknown

    double loss() const { return tokens > 0 ? loss_sum / static_cast<double>(tokens) : 0; }
    double nats_per_byte() const { return bytes > 0 ? loss_sum / static_cast<double>(bytes) : -1; }
    double bits_per_byte() const { return bytes > 0 ? nats_per_byte() / 0.6931471805599453 : -1; }
};

// The model's forward pass for evaluation: no gradients, and one block's memory serves all.
class ForwardPass {
public:
    // max_tokens: of the largest batch
    ForwardPass(WeightStore& weights, int64_t max_tokens);

    const ModelInstance& instance() const { return instance_; }
    const ModelConfig& config() const { return weights_.config; }
    int64_t max_tokens() const { return instance_.model.options().max_tokens; }
    void allocate(const Stream& stream) { instance_.allocate(stream); }

    // Nats, over the tokens that have a target. Where `stats` is given, each block's attention is added to it.
    double loss_sum(const MicroBatch& batch, Stream& stream, AttentionStats* stats = nullptr);
    std::vector<float> losses(Stream& stream) const;  // (T) of that batch's tokens; 0 without a target

private:
    WeightStore& weights_;
    ModelInstance instance_;
};

class Evaluator {
public:
    // The loader must hand out steps of one micro-batch of at most batch_rows * seq_len tokens, unshuffled. tokenizer may be null: then
    // bytes are not counted. max_tokens = 0: the whole data set.
    Evaluator(ForwardPass& pass, Loader& data, int64_t batch_rows, int64_t seq_len, int64_t max_tokens, const Tokenizer* tokenizer);

    // Always the same tokens: from the beginning of the data. world: its ranks compute every size-th batch each, and all have the result.
    Evaluation run(Stream& stream, AttentionStats* stats = nullptr, Communicator* world = nullptr);

private:
    ForwardPass& pass_;
    Loader& data_;
    int64_t batch_rows_, seq_len_, rows_;
    std::vector<int32_t> bytes_of_token_;
};

}  // namespace traincu
