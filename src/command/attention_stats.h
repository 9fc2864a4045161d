// What a model's attention looks at, layer by layer: ./train eval --attention-stats. Computed on the host from what each block's attention
// was given, and from its lse.
#pragma once

#include <span>
#include <vector>

#include "kernels/attention.h"
#include "src/device/stream.h"
#include "src/model/transformer.h"

namespace traincu {

// Sums over heads and over the queries that have at least `fewest_before` keys before their own. P is a row of probabilities over the n
// keys that the query sees and, where the head has one, the sink.
struct LayerAttention {
    static constexpr int64_t fewest_before = 8;
    static constexpr double closed_below = 0.05;
    int64_t rows = 0;    // heads times queries
    double first = 0;    // P of the first key of the segment (of the document, or of the row of tokens); 0 where the sliding window
                         // leaves it out
    double uniform = 0;  // 1/n, 0 in such rows: what `first` would be if all keys in sight were equal and there were no sink
    double entropy = 0;  // - sum P log P over the keys, without the sink: P divided by what they have together
    double relative_entropy = 0;  // the same over log n
    bool has_sinks = false;
    double sink = 0;     // P of the sink
    double largest = 0;  // |x| of the residual stream, in the middle and at the end of the block; over all tokens
    int64_t gates = 0;   // numbers of the gate, of all tokens
    double gate = 0;     // sum of sigmoid(gate)
    int64_t closed = 0;  // those below closed_below

    double mean(double sum) const { return rows > 0 ? sum / static_cast<double>(rows) : 0; }
    double mean_gate() const { return gates > 0 ? gate / static_cast<double>(gates) : 0; }
    double closed_share() const { return gates > 0 ? static_cast<double>(closed) / static_cast<double>(gates) : 0; }
};

// `in` (v is not read) and lse (T,NH) in the host's memory, of one type (f32 or f64). Error if a row's probabilities do not add up to 1:
// then lse is not that of these scores, and nothing here would be true.
void add_attention(LayerAttention& sums, const AttentionInputs& in, const Tensor& lse, std::span<const Segment> segments,
                   const AttentionParams& params);

class AttentionStats {
public:
    explicit AttentionStats(const ModelConfig& config) : config_(config), layers_(static_cast<size_t>(config.n_layer)) {}

    // After the forward of block `layer`, whose memory the next one may overwrite.
    void add(const Transformer& model, int layer, const Stream& stream);
    const std::vector<LayerAttention>& layers() const { return layers_; }

private:
    const ModelConfig& config_;
    std::vector<LayerAttention> layers_;
};

}  // namespace traincu
