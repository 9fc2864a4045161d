// Multiple choice: a model answers a question by the completion that it finds most likely after the context.
//
//   loss(i) = -log p(completion_i | context) = sum over the completion's tokens, in nats
//   acc        share of the questions where the right completion has the least loss
//   acc_norm   the same with the loss divided by the completion's number of tokens: what llm.c prints, and its curves show
//
// Every context with one of its completions is a segment of its own, with positions from 0, and as many of them as fit are computed at
// once. Where context and completion are longer than the model's context, tokens are cut from the left of the context, as many as need
// be; the completion is always scored whole.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "src/command/evaluation.h"
#include "src/data/choices.h"

namespace traincu {

struct ChoiceScore {
    int64_t examples = 0, right_by_sum = 0, right_by_mean = 0;

    double acc() const { return share(right_by_sum); }
    double acc_norm() const { return share(right_by_mean); }
    // Of a share p of n independent questions: sqrt(p (1-p) / (n-1)); 0 for a single one.
    double standard_error(double p) const;

private:
    double share(int64_t right) const { return examples > 0 ? static_cast<double>(right) / static_cast<double>(examples) : 0; }
};

// Judges the losses of all completions of all examples, in their order. Among equals the first wins, as in llm.c; what is not a number
// never wins.
ChoiceScore judge(std::span<const ChoiceExample> examples, std::span<const double> losses);

class ChoiceScorer {
public:
    // The examples must outlive the scorer. seq_len: the context, in tokens; it must fit the pass. Error(data) naming `name` where a
    // completion is longer than that. max_examples = 0: all of them.
    ChoiceScorer(ForwardPass& pass, std::span<const ChoiceExample> examples, const std::string& name, int64_t seq_len,
                 int64_t max_examples);

    std::span<const ChoiceExample> examples() const { return examples_; }
    // The loss of every completion, one example after another. progress: the share done, 0 to 1. world: its ranks compute every size-th
    // batch each, and all have the result.
    std::vector<double> completion_losses(Stream& stream, const std::function<void(double)>& progress = {}, Communicator* world = nullptr);
    ChoiceScore run(Stream& stream, const std::function<void(double)>& progress = {}, Communicator* world = nullptr) {
        return judge(examples_, completion_losses(stream, progress, world));
    }

private:
    ForwardPass& pass_;
    std::span<const ChoiceExample> examples_;
    int64_t seq_len_;
};

}  // namespace traincu
