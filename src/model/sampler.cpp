#include "src/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace traincu {

int32_t sample_token(Tensor logits, const SamplingOptions& options, double u) {
    struct Candidate {
        double weight;
        int32_t token;
    };  // weight: the logit, then exp of it
    std::vector<Candidate> candidates;
    const int64_t V = options.vocab_size > 0 ? std::min(options.vocab_size, logits.numel()) : logits.numel();
    dispatch_real(logits.dtype, [&](auto zero) {
        const auto* x = logits.as<decltype(zero)>();
        for (int64_t v = 0; v < V; v++) candidates.push_back({static_cast<double>(x[v]), static_cast<int32_t>(v)});
    });
    // Most probable first; equal logits in order of the token, so that ties are decided the same way everywhere.
    std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.weight > b.weight; });
    if (options.temperature == 0) return candidates[0].token;
    if (options.top_k > 0 && options.top_k < static_cast<int64_t>(candidates.size())) candidates.resize(static_cast<size_t>(options.top_k));

    const double top = candidates[0].weight;
    double total = 0;
    for (Candidate& c : candidates) total += c.weight = std::exp((c.weight - top) / options.temperature);
    double kept = 0;
    size_t count = 0;
    while (count < candidates.size() && (count == 0 || kept < options.top_p * total)) kept += candidates[count++].weight;

    double position = u * kept;
    for (size_t i = 0; i < count; i++) {
        position -= candidates[i].weight;
        if (position < 0) return candidates[i].token;
    }
    return candidates[count - 1].token;
}

}  // namespace traincu
