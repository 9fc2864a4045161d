#include "src/command/attention_stats.h"

#include <algorithm>
#include <cmath>

#include "src/device/transfer.h"

namespace traincu {

namespace {

template <class T>
void add_rows(LayerAttention& sums, const Tensor& q, const Tensor& k, const Tensor& lse, std::span<const Segment> segments, double scale) {
    const int64_t NH = q.shape[1], HS = q.shape[2], group = NH / k.shape[1];
    double first = 0, uniform = 0, entropy = 0, relative = 0, worst = 0;
    int64_t rows = 0;
    for (const Segment& s : segments) {
#pragma omp parallel for schedule(dynamic, 8) reduction(+ : first, uniform, entropy, relative, rows) reduction(max : worst)
        for (int64_t i = 0; i < s.q_len; i++) {
            const int64_t keys = s.kv_len - s.q_len + i + 1;
            if (keys <= LayerAttention::fewest_before) continue;
            for (int64_t h = 0; h < NH; h++) {
                const T* query = q.as<T>() + (s.q_start + i) * q.row_stride + h * HS;
                const double log_sum = static_cast<double>(lse.as<T>()[(s.q_start + i) * lse.row_stride + h]);
                double total = 0, row_entropy = 0;
                for (int64_t j = 0; j < keys; j++) {
                    const T* key = k.as<T>() + (s.kv_start + j) * k.row_stride + h / group * HS;
                    double dot = 0;
                    for (int64_t d = 0; d < HS; d++) dot += static_cast<double>(query[d]) * static_cast<double>(key[d]);
                    const double log_p = scale * dot - log_sum, p = std::exp(log_p);
                    if (j == 0) first += p;
                    total += p;
                    if (p > 0) row_entropy -= p * log_p;
                }
                const double n = static_cast<double>(keys), off = std::abs(total - 1);
                uniform += 1 / n, entropy += row_entropy, relative += row_entropy / std::log(n), rows++;
                worst = std::max(worst, std::isfinite(off) ? off : 1e9);  // NaN is lost in a maximum
            }
        }
    }
    if (worst > 0.02)
        throw Error(ExitCode::data, format("--attention-stats: probabilities of a row add up to 1 only within %.2g", worst),
                    "the model's scores are not plain products of queries and keys, or are not finite");
    sums.first += first, sums.uniform += uniform, sums.entropy += entropy, sums.relative_entropy += relative, sums.rows += rows;
}

template <class T>
double largest(const Tensor& x, const Tensor& added) {
    double most = 0;
    for (int64_t i = 0; i < x.numel(); i++) {
        const double there = static_cast<double>(x.as<T>()[i]);
        most = std::max({most, std::abs(there), std::abs(there + static_cast<double>(added.as<T>()[i]))});
    }
    return most;
}

}  // namespace

void add_attention(LayerAttention& sums, const Tensor& q, const Tensor& k, const Tensor& lse, std::span<const Segment> segments,
                   double scale) {
    dispatch_real(q.dtype, [&](auto real) { add_rows<decltype(real)>(sums, q, k, lse, segments, scale); });
}

void AttentionStats::add(const Transformer& model, int layer, const Stream& stream) {
    const Slot& slot = model.slot();
    const BlockSlot& block = slot.blocks[static_cast<size_t>(layer)];
    const ModelConfig& c = config_;
    auto host = [&](const Tensor& t) { return HostCopy(t.slice_rows(0, slot.T), stream); };
    // without QK-norm q and k are columns of qkv
    HostCopy qk = host(c.qk_norm ? block.qk : block.qkv), lse = host(block.lse), mid = host(block.x_mid), branch = host(slot.branch);
    for (HostCopy* copy : {&qk, &lse, &mid, &branch}) copy->download();
    const Tensor q = qk.tensor().slice_cols(0, c.q_width()).view({slot.T, c.n_head, c.head_size});
    const Tensor k = qk.tensor().slice_cols(c.q_width(), c.kv_width()).view({slot.T, c.n_kv_head, c.head_size});
    LayerAttention& sums = layers_[static_cast<size_t>(layer)];
    add_attention(sums, q, k, lse.tensor(), slot.segments, 1 / std::sqrt(static_cast<double>(c.head_size)));
    dispatch_real(mid.tensor().dtype,
                  [&](auto real) { sums.largest = std::max(sums.largest, largest<decltype(real)>(mid.tensor(), branch.tensor())); });
}

}  // namespace traincu
