// Generation with a key/value cache: used by ./train generate and by the samples of a training run.
#pragma once

#include <functional>
#include <vector>

#include "src/model/instance.h"
#include "src/model/sampler.h"

namespace traincu {

class Generator {
public:
    // context: tokens that the model can look back on; when it is full, the older half is forgotten.
    Generator(WeightStore& weights, int64_t context);

    const ModelInstance& instance() const { return instance_; }
    void allocate(const Stream& stream) { instance_.allocate(stream); }

    // Continues `prompt` (not empty) by up to `count` tokens, or until `stop` (-1: never) came; on_token is called with each as it is
    // chosen. The tokens depend on weights, prompt, options and seed only. Returns the new tokens, without `stop`.
    std::vector<int32_t> run(std::vector<int32_t> prompt, int64_t count, const SamplingOptions& options, uint64_t seed, int32_t stop,
                             const std::function<void(int32_t)>& on_token, Stream& stream);

private:
    void feed(const int32_t* tokens, int64_t count, Stream& stream);  // through all blocks, into the caches

    WeightStore& weights_;
    int64_t context_;
    ModelInstance instance_;
};

}  // namespace traincu
