// What a model's attention looks at, layer by layer: ./train eval --attention-stats. Computed on the host from q, k and lse of each block.
#pragma once

#include <span>
#include <vector>

#include "kernels/attention_tiles.h"
#include "src/device/stream.h"
#include "src/model/transformer.h"

namespace traincu {

// Sums over heads and over the queries that have at least `fewest_before` keys before their own; P is a row of probabilities over n keys.
struct LayerAttention {
    static constexpr int64_t fewest_before = 8;
    int64_t rows = 0;             // heads times queries
    double first = 0;             // P of the first key of the segment: of the document, or of the window
    double uniform = 0;           // 1/n: what it would be if all keys were equal
    double entropy = 0;           // - sum P log P
    double relative_entropy = 0;  // the same over log n
    double largest = 0;           // |x| of the residual stream, in the middle and at the end of the block; over all tokens

    double mean(double sum) const { return rows > 0 ? sum / static_cast<double>(rows) : 0; }
};

// q (T,NH,HS), k (T,NKV,HS), lse (T,NH) in the host's memory, of one type (f32 or f64). Error if a row's probabilities do not add up to 1:
// then the scores are not scale q . k, and nothing here would be true.
void add_attention(LayerAttention& sums, const Tensor& q, const Tensor& k, const Tensor& lse, std::span<const Segment> segments,
                   double scale);

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
