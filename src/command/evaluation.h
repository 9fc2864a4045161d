// Loss over held-out tokens: used by ./train eval and by the validations of a training run.
#pragma once

#include <vector>

#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/model/instance.h"

namespace traincu {

struct Evaluation {
    double loss_sum = 0;  // nats
    int64_t tokens = 0;   // targets that counted
    int64_t bytes = 0;    // of text behind them; 0 where the tokenizer is unknown

    double loss() const { return tokens > 0 ? loss_sum / static_cast<double>(tokens) : 0; }
    double nats_per_byte() const { return bytes > 0 ? loss_sum / static_cast<double>(bytes) : -1; }
    double bits_per_byte() const { return bytes > 0 ? nats_per_byte() / 0.6931471805599453 : -1; }
};

class Evaluator {
public:
    // Declares the memory for batch_rows rows of seq_len tokens. tokenizer may be null: then bytes are not counted.
    Evaluator(WeightStore& weights, int64_t batch_rows, int64_t seq_len, const Tokenizer* tokenizer);

    const ModelInstance& instance() const { return instance_; }
    void allocate() { instance_.allocate(); }
    // The loader must hand out unshuffled steps of one micro-batch of batch_rows. Always the same tokens: from the beginning of the data.
    // max_tokens = 0: all of it.
    Evaluation run(Loader& data, int64_t max_tokens, Stream& stream);

private:
    WeightStore& weights_;
    int64_t batch_rows_, seq_len_;
    ModelInstance instance_;
    std::vector<int32_t> bytes_of_token_;
};

}  // namespace traincu
