#include "src/command/choice_scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/error.h"
#include "src/parallel/agree.h"

namespace traincu {

namespace {

// Appends a context with a completion as a segment. The last token of the completion is only a target; the one before the completion
// predicts its first. Returns the row of the completion's first loss.
int64_t append_sequence(MicroBatch& batch, std::span<const int32_t> context, std::span<const int32_t> completion) {
    const int64_t begin = batch.T(), n = static_cast<int64_t>(context.size() + completion.size()) - 1;
    batch.tokens.insert(batch.tokens.end(), context.begin(), context.end());
    batch.tokens.insert(batch.tokens.end(), completion.begin(), completion.end() - 1);
    batch.targets.insert(batch.targets.end(), context.size() - 1, -1);
    batch.targets.insert(batch.targets.end(), completion.begin(), completion.end());
    for (int64_t t = 0; t < n; t++) batch.positions.push_back(static_cast<int32_t>(t));
    batch.loss_weights.insert(batch.loss_weights.end(), static_cast<size_t>(n), 1.0f);
    batch.segments.push_back({begin, n, begin, n, 0});
    return begin + static_cast<int64_t>(context.size()) - 1;
}

// Fills the batch up to T tokens with tokens that nobody asks for, in short segments: attention then costs little.
void pad(MicroBatch& batch, int64_t T) {
    constexpr int64_t longest = 64;
    while (batch.T() < T) {
        const int64_t begin = batch.T(), n = std::min(longest, T - begin);
        batch.segments.push_back({begin, n, begin, n, 0});
        const size_t end = static_cast<size_t>(begin + n);
        batch.tokens.resize(end, 0), batch.targets.resize(end, -1), batch.positions.resize(end, 0), batch.loss_weights.resize(end, 0.0f);
    }
}

// What of the context is used: its end, as much as leaves room for the completion in T tokens.
std::span<const int32_t> kept_context(std::span<const int32_t> context, size_t completion_tokens, int64_t T) {
    const size_t room = static_cast<size_t>(T) + 1 - completion_tokens;
    return context.last(std::min(context.size(), room));
}

}  // namespace

double ChoiceScore::standard_error(double p) const { return examples > 1 ? std::sqrt(p * (1 - p) / static_cast<double>(examples - 1)) : 0; }

ChoiceScore judge(std::span<const ChoiceExample> examples, std::span<const double> losses) {
    ChoiceScore score;
    const double* loss = losses.data();
    for (const ChoiceExample& example : examples) {
        int64_t by_sum = -1, by_mean = -1;
        double least_sum = std::numeric_limits<double>::infinity(), least_mean = least_sum;
        for (size_t i = 0; i < example.completions.size(); i++, loss++) {
            const double mean = *loss / static_cast<double>(example.completions[i].size());
            if (*loss < least_sum) least_sum = *loss, by_sum = static_cast<int64_t>(i);
            if (mean < least_mean) least_mean = mean, by_mean = static_cast<int64_t>(i);
        }
        score.examples++;
        score.right_by_sum += by_sum == example.label, score.right_by_mean += by_mean == example.label;
    }
    ENSURE(loss == losses.data() + losses.size());
    return score;
}

ChoiceScorer::ChoiceScorer(ForwardPass& pass, std::span<const ChoiceExample> examples, const std::string& name, int64_t seq_len,
                           int64_t max_examples)
    : pass_(pass), examples_(examples), seq_len_(seq_len) {
    ENSURE(seq_len > 0 && seq_len <= pass.max_tokens());
    if (max_examples > 0) examples_ = examples.first(std::min(examples.size(), static_cast<size_t>(max_examples)));
    for (size_t i = 0; i < examples_.size(); i++)
        for (const auto& completion : examples_[i].completions)
            if (static_cast<int64_t>(completion.size()) > seq_len)
                throw Error(ExitCode::data,
                            format("%s: example %zu has a completion of %zu tokens, more than the model's context of %lld", name.c_str(), i,
                                   completion.size(), static_cast<long long>(seq_len)),
                            "evaluate with a longer --seq-len, or leave such examples out of the set")
                    .file(name);
}

std::vector<double> ChoiceScorer::completion_losses(Stream& stream, const std::function<void(double)>& progress, Communicator* world) {
    struct Scored {
        int64_t row, count;  // where its losses stand in the batch
    };
    std::vector<double> losses;
    std::vector<Scored> waiting;
    MicroBatch batch;
    int batches = 0;
    auto compute = [&] {
        if (waiting.empty()) return;
        if (world && batches++ % world->size() != world->rank()) {  // another rank's
            losses.resize(losses.size() + waiting.size());
            return batch.clear(), waiting.clear();
        }
        if (stream.on_gpu()) pad(batch, pass_.max_tokens());  // matrix products are measured once for each number of rows
        pass_.loss_sum(batch, stream);
        const std::vector<float> loss = pass_.losses(stream);
        for (const Scored& s : waiting) {
            double sum = 0;
            for (int64_t t = 0; t < s.count; t++) sum += loss[static_cast<size_t>(s.row + t)];
            losses.push_back(sum);
        }
        batch.clear(), waiting.clear();
    };
    for (size_t i = 0; i < examples_.size(); i++) {
        for (const auto& completion : examples_[i].completions) {
            const auto context = kept_context(examples_[i].context, completion.size(), seq_len_);
            if (batch.T() + static_cast<int64_t>(context.size() + completion.size()) - 1 > pass_.max_tokens()) {
                compute();
                if (progress) progress(static_cast<double>(i) / static_cast<double>(examples_.size()));
            }
            waiting.push_back({append_sequence(batch, context, completion), static_cast<int64_t>(completion.size())});
        }
    }
    compute();
    if (world) sum_over_ranks(*world, losses);
    return losses;
}

}  // namespace traincu
