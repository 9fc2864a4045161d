#include "src/command/attention_stats.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "src/device/transfer.h"

namespace traincu {

namespace {

// What the model adds to scale q . k, and all else of the contract that a row of P depends on.
template <class T>
class Scores {
public:
    Scores(const AttentionInputs& in, const AttentionParams& params)
        : in_(in), params_(params), NH_(in.q.shape[1]), NKV_(in.k.shape[1]), HS_(in.q.shape[2]) {
        ENSURE(!in.dense);  // no model has one: a matrix from a file is kept as factors
    }
    // Of query i and key j of segment s.
    double operator()(const Segment& s, int64_t i, int64_t h, int64_t j) const {
        const int64_t kv_head = h / (NH_ / NKV_), distance = s.kv_len - s.q_len + i - j, position = s.first_position + i;
        double x = params_.scale * dot(in_.q.as<T>() + (s.q_start + i) * in_.q.row_stride + h * HS_,
                                       in_.k.as<T>() + (s.kv_start + j) * in_.k.row_stride + kv_head * HS_, HS_);
        if (params_.softcap > 0) x = params_.softcap * std::tanh(x / params_.softcap);
        if (in_.slopes) x -= static_cast<double>(in_.slopes.as<T>()[h]) * static_cast<double>(distance);
        if (in_.relative) x += static_cast<double>(in_.relative.as<T>()[h * relative_buckets + relative_bucket(distance)]);
        if (in_.q_factors) {
            const int64_t R = in_.q_factors.shape[2];
            x += dot(in_.q_factors.as<T>() + (position * NH_ + h) * R, in_.k_factors.as<T>() + ((position - distance) * NKV_ + kv_head) * R,
                     R);
        }
        return x;
    }

private:
    static double dot(const T* a, const T* b, int64_t n) {
        double sum = 0;
        for (int64_t d = 0; d < n; d++) sum += static_cast<double>(a[d]) * static_cast<double>(b[d]);
        return sum;
    }
    const AttentionInputs& in_;
    const AttentionParams& params_;
    const int64_t NH_, NKV_, HS_;
};

template <class T>
void add_rows(LayerAttention& sums, const AttentionInputs& in, const Tensor& lse, std::span<const Segment> segments,
              const AttentionParams& params) {
    const int64_t NH = in.q.shape[1];
    const Scores<T> score(in, params);
    double first = 0, uniform = 0, entropy = 0, relative = 0, sink = 0, worst = 0;
    int64_t rows = 0;
    for (const Segment& s : segments) {
#pragma omp parallel for schedule(dynamic, 8) reduction(+ : first, uniform, entropy, relative, sink, rows) reduction(max : worst)
        for (int64_t i = 0; i < s.q_len; i++) {
            const int64_t last = s.kv_len - s.q_len + i;  // the query's own key
            if (last < LayerAttention::fewest_before) continue;
            const int64_t begin = params.window > 0 ? std::max<int64_t>(0, last - params.window + 1) : 0;
            const double n = static_cast<double>(last + 1 - begin);
            for (int64_t h = 0; h < NH; h++) {
                const double log_sum = static_cast<double>(lse.as<T>()[(s.q_start + i) * lse.row_stride + h]);
                double of_keys = 0, p_log_p = 0;
                for (int64_t j = begin; j <= last; j++) {
                    const double log_p = score(s, i, h, j) - log_sum, p = std::exp(log_p);
                    if (j == 0) first += p;
                    of_keys += p;
                    if (p > 0) p_log_p += p * log_p;
                }
                const double of_sink = in.sinks ? std::exp(static_cast<double>(in.sinks.as<T>()[h]) - log_sum) : 0;
                const double off = std::abs(of_keys + of_sink - 1);
                const double row_entropy = of_keys > 0 ? std::log(of_keys) - p_log_p / of_keys : 0;  // of P / of_keys
                if (begin == 0) uniform += 1 / n;
                if (n > 1) relative += row_entropy / std::log(n);
                entropy += row_entropy, sink += of_sink, rows++;
                worst = std::max(worst, std::isfinite(off) ? off : 1e9);  // NaN is lost in a maximum
            }
        }
    }
    if (worst > 0.02)
        throw Error(ExitCode::data, format("--attention-stats: probabilities of a row add up to 1 only within %.2g", worst),
                    "the model's scores are not finite, or so large that their type cannot tell them apart");
    sums.first += first, sums.uniform += uniform, sums.entropy += entropy, sums.relative_entropy += relative, sums.sink += sink;
    sums.rows += rows, sums.has_sinks = static_cast<bool>(in.sinks);
}

template <class T>
void add_gates(LayerAttention& sums, const Tensor& gate, std::span<const Segment> segments) {
    const int64_t width = gate.shape[1] * gate.shape[2];
    for (const Segment& s : segments)
        for (int64_t t = s.q_start; t < s.q_start + s.q_len; t++)
            for (int64_t c = 0; c < width; c++) {
                const double g = 1 / (1 + std::exp(-static_cast<double>(gate.as<T>()[t * gate.row_stride + c])));
                sums.gate += g, sums.closed += g < LayerAttention::closed_below, sums.gates++;
            }
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

void add_attention(LayerAttention& sums, const AttentionInputs& in, const Tensor& lse, std::span<const Segment> segments,
                   const AttentionParams& params) {
    dispatch_real(in.q.dtype, [&](auto real) {
        add_rows<decltype(real)>(sums, in, lse, segments, params);
        if (in.gate) add_gates<decltype(real)>(sums, in.gate, segments);
    });
}

void AttentionStats::add(const Transformer& model, int layer, const Stream& stream) {
    const Slot& slot = model.slot();
    const BlockSlot& block = slot.blocks[static_cast<size_t>(layer)];
    std::vector<std::unique_ptr<HostCopy>> copies;
    auto host = [&](const Tensor& t) {
        copies.push_back(std::make_unique<HostCopy>(t, stream));
        return copies.back()->download().tensor();
    };
    auto rows = [&](const Tensor& t) { return host(t.slice_rows(0, slot.T)); };
    // without QK-norm q and k are columns of qkv
    const Tensor qkv = rows(block.qkv), qk = config_.qk_norm ? rows(block.qk) : qkv;
    AttentionInputs in = model.attention_inputs(layer, qk, qkv);
    for (Tensor AttentionInputs::*table : {&AttentionInputs::sinks, &AttentionInputs::slopes, &AttentionInputs::relative,
                                           &AttentionInputs::q_factors, &AttentionInputs::k_factors})
        if (in.*table) in.*table = host(in.*table);
    LayerAttention& sums = layers_[static_cast<size_t>(layer)];
    add_attention(sums, in, rows(block.lse), slot.segments, model.attention_params());
    const Tensor mid = rows(block.x_mid), branch = rows(slot.branch);
    dispatch_real(mid.dtype, [&](auto real) { sums.largest = std::max(sums.largest, largest<decltype(real)>(mid, branch)); });
}

}  // namespace traincu
