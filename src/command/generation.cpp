#include "src/command/generation.h"

#include <algorithm>

#include "src/device/transfer.h"

namespace traincu {

namespace {

ModelOptions generation_options(const WeightStore& weights, int64_t context) {
    ModelOptions options;
    options.config = weights.config, options.dtype = weights.dtype, options.wide_head = weights.door.precision().wide_head();
    options.max_tokens = context, options.cache_tokens = context, options.training = false;
    return options;
}

}  // namespace

Generator::Generator(WeightStore& weights, int64_t context)
    : weights_(weights), context_(context), instance_(generation_options(weights, context), weights.door, "sampling") {}

void Generator::feed(const int32_t* tokens, int64_t count, Stream& stream) {
    MicroBatch batch;
    const int64_t before = instance_.model.cached();
    for (int64_t i = 0; i < count; i++) {
        batch.tokens.push_back(tokens[i]);
        batch.targets.push_back(-1);
        batch.positions.push_back(static_cast<int32_t>(before + i));
        batch.loss_weights.push_back(0);
    }
    batch.segments = {{0, count, 0, before + count, before}};
    instance_.model.load(batch, stream);
    for (int part = 0; part + 1 < instance_.model.n_parts(); part++) {
        weights_.door.acquire(part, stream);
        instance_.model.forward(part, 0, stream);
        weights_.door.release(part);
    }
}

std::vector<int32_t> Generator::run(std::vector<int32_t> text, int64_t count, const SamplingOptions& options, uint64_t seed, int32_t stop,
                                    const std::function<void(int32_t)>& on_token, Stream& stream) {
    ENSURE(!text.empty());
    const Random random{seed, RandomStream::sampling};
    const size_t prompt_size = text.size();
    size_t fed = 0;  // tokens of `text` that are in the caches or were forgotten
    instance_.model.clear_cache();
    if (static_cast<int64_t>(text.size()) > context_) fed = text.size() - static_cast<size_t>(context_ / 2 + 1);
    for (int64_t i = 0; i < count; i++) {
        int64_t pending = static_cast<int64_t>(text.size() - fed);
        if (instance_.model.cached() + pending > context_) {  // full: begin again with the newer half
            instance_.model.clear_cache();
            pending = std::max<int64_t>(1, context_ / 2);
            fed = text.size() - static_cast<size_t>(pending);
        }
        feed(text.data() + fed, pending, stream);
        fed = text.size();
        const Tensor logits = instance_.model.logits_of_last(1, stream);
        HostCopy row(Tensor(logits.data, logits.dtype, {logits.cols()}), stream);
        const int32_t token = sample_token(row.download().tensor(), options, random.uniform(0, static_cast<uint64_t>(i)));
        if (token == stop) break;
        text.push_back(token);
        if (on_token) on_token(token);
    }
    return {text.begin() + static_cast<std::ptrdiff_t>(prompt_size), text.end()};
}

}  // namespace traincu
