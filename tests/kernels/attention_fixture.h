// Problems of attention with everything that kernels/attention.h offers, and the contract's formulas in plain loops to compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"
#include "tests/support/numeric.h"

namespace traincu::test {

struct Shape {
    int64_t NH, NKV, HS;
    std::vector<Segment> segments;
    int64_t gap = 3;  // after each row of queries and outputs; a multiple of 8: rows begin at multiples of 16 bytes
    int64_t T() const { return extent(&Segment::q_start, &Segment::q_len); }
    int64_t Tk() const { return extent(&Segment::kv_start, &Segment::kv_len); }

private:
    int64_t extent(int64_t Segment::*start, int64_t Segment::*length) const {
        int64_t end = 0;
        for (const Segment& s : segments) end = std::max(end, s.*start + s.*length);
        return end;
    }
};

inline std::vector<Segment> documents(const std::vector<int64_t>& lengths) {
    std::vector<Segment> segments;
    int64_t at = 0;
    for (int64_t n : lengths) segments.push_back({at, n, at, n, 0}), at += n;
    return segments;
}

// Documents of lengths around the tiles'. Of a GPU small ones: the SIMT runner executes each thread one after another.
inline Shape ragged() {
    return {4, 2, 16, documents(on_gpu() ? std::vector<int64_t>{1, 34, 3, 1, 40, 17} : std::vector<int64_t>{1, 70, 3, 1, 130, 64, 17})};
}

inline std::vector<double> values(const Tensor& t) {
    std::vector<double> all;
    for (int64_t r = 0; r < t.rows(); r++)
        for (int64_t c = 0; c < t.cols(); c++) all.push_back(Pool::get(t, r * t.row_stride + c));
    return all;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
    if (a.rows() != b.rows() || a.cols() != b.cols() || a.dtype != b.dtype) return false;
    for (int64_t r = 0; r < a.rows(); r++)
        if (std::memcmp(a.slice_rows(r, 1).data, b.slice_rows(r, 1).data, static_cast<size_t>(a.cols() * size_of(a.dtype))) != 0)
            return false;
    return true;
}

// |a - b| / |b|; NaN in a gives NaN.
template <class A>
double distance(const std::vector<A>& a, const std::vector<double>& b) {
    REQUIRE(a.size() == b.size());
    double difference = 0, size = 0;
    for (size_t i = 0; i < a.size(); i++) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
    return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

// What is switched on.
struct Variant {
    int64_t window = 0;
    double softcap = 0;
    bool sinks = false;
    enum class Gate { none, headwise, elementwise } gate = Gate::none;
    enum class Bias { none, alibi, relative, factors, dense } bias = Bias::none;
    int64_t rank = 5;  // of factors
    bool deterministic = true;
};

inline SegmentTable table_of(Pool& pool, const std::vector<Segment>& segments, int64_t window = 0) {
    if (!on_gpu()) return {segments, {}, {}, {}};
    auto copied = [&](Dtype dtype, const auto& rows) {
        Tensor t = pool.zeros(dtype, {static_cast<int64_t>(rows.size()), 5});
        std::memcpy(t.data, rows.data(), rows.size() * sizeof(rows[0]));
        return t;
    };
    const AttentionTiles tiles = attention_tiles(segments, window);
    return {segments, copied(Dtype::i64, segments), copied(Dtype::i32, tiles.query), copied(Dtype::i32, tiles.key)};
}

// The tensors of one problem, on the tests' device. Queries, gates and outputs are strided views with a gap after each row; keys and values
// are packed side by side.
struct Problem {
    Shape shape;
    AttentionParams params;
    AttentionInputs in;
    AttentionGradients d;
    AttentionScratch scratch;
    Tensor dout, out, lse;
    SegmentTable table;  // its host segments are shape's

    Problem(Pool& pool, Dtype type, const Shape& s, double spread = 1.0, const Variant& variant = {}) : shape(s) {
        using Gate = Variant::Gate;
        using Bias = Variant::Bias;
        const int64_t T = s.T(), Tk = s.Tk(), A = s.NH * s.HS, B = s.NKV * s.HS;
        const Dtype statistics = statistics_of(type);
        params = {1 / std::sqrt(static_cast<double>(s.HS)), variant.window, variant.softcap, variant.deterministic};
        auto heads = [&](const Tensor& wide, int64_t at, int64_t n) { return wide.slice_cols(at, n * s.HS).view({wide.rows(), n, s.HS}); };
        auto wide_normal = [&](double std) { return heads(pool.normal(type, {T, A + s.gap}, std), 0, s.NH); };
        auto wide_poison = [&] { return heads(pool.poison(type, {T, A + s.gap}), 0, s.NH); };
        in.q = wide_normal(spread), dout = wide_normal(1);
        Tensor kv = pool.normal(type, {Tk, 2 * B}), dkv = pool.zeros(type, {Tk, 2 * B});
        in.k = heads(kv, 0, s.NKV), in.v = heads(kv, B, s.NKV), d.dk = heads(dkv, 0, s.NKV), d.dv = heads(dkv, B, s.NKV);
        out = wide_poison(), d.dq = wide_poison();
        lse = pool.poison(statistics, {T, s.NH});
        scratch.delta = pool.poison(statistics, {T, s.NH});
        if (!variant.deterministic && on_gpu()) scratch.dq = pool.poison(Dtype::f32, {T, s.NH, s.HS});
        if (variant.gate != Gate::none) {
            const int64_t width = variant.gate == Gate::headwise ? 1 : s.HS;
            auto gates = [&](const Tensor& wide) { return wide.slice_cols(0, s.NH * width).view({T, s.NH, width}); };
            in.gate = gates(pool.normal(type, {T, s.NH * width + s.gap}, 2)), d.dgate = gates(pool.poison(type, {T, s.NH * width + s.gap}));
        }
        if (variant.sinks) in.sinks = pool.normal(type, {s.NH}), d.dsinks = pool.zeros(statistics, {s.NH});
        if (variant.bias == Bias::alibi) {
            in.slopes = pool.zeros(statistics, {s.NH});
            for (int64_t h = 0; h < s.NH; h++)
                Pool::set(in.slopes, h, std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(s.NH)));
        }
        if (variant.bias == Bias::relative)
            in.relative = pool.normal(type, {s.NH, relative_buckets}), d.drelative = pool.zeros(statistics, {s.NH, relative_buckets});
        if (variant.bias == Bias::factors) {
            in.q_factors = pool.normal(type, {positions(), s.NH, variant.rank}, 0.7);
            in.k_factors = pool.normal(type, {positions(), s.NKV, variant.rank}, 0.7);
            d.dq_factors = pool.poison(type, {T, s.NH, variant.rank}), d.dk_factors = pool.zeros(type, {Tk, s.NKV, variant.rank});
        }
        if (variant.bias == Bias::dense) in.dense = pool.normal(type, {s.NH, positions(), positions()});
        table = table_of(pool, shape.segments, variant.window);
    }
    Problem(const Problem&) = delete;
    void forward() {
        table.host = shape.segments;
        attention_forward(out, lse, in, table, params, test_stream());
        test_stream().synchronize();
    }
    void backward() {  // with a gate dout is used up
        table.host = shape.segments;
        attention_backward(d, dout, out, lse, in, scratch, table, params, test_stream());
        test_stream().synchronize();
    }
    // A row for each token.
    std::vector<Tensor> row_results() const { return present({out, lse, d.dq, d.dk, d.dv, d.dgate, d.dq_factors, d.dk_factors}); }
    // Sums over all tokens.
    std::vector<Tensor> sum_results() const { return present({d.dsinks, d.drelative}); }
    std::vector<Tensor> results() const {
        std::vector<Tensor> all = row_results();
        for (const Tensor& t : sum_results()) all.push_back(t);
        return all;
    }
    int64_t positions() const {
        int64_t end = 0;
        for (const Segment& s : shape.segments) end = std::max(end, s.first_position + s.q_len);
        return end;
    }

private:
    static std::vector<Tensor> present(std::initializer_list<Tensor> tensors) {
        std::vector<Tensor> list;
        for (const Tensor& t : tensors)
            if (t) list.push_back(t);
        return list;
    }
};

// The kernels that take the problem, on the tests' device: each of them is tested with it.
inline std::vector<AttentionKernel> kernels_for(const Problem& x) {
    if (!on_gpu()) return {AttentionKernel::simple, AttentionKernel::tiled};
    std::vector<AttentionKernel> kernels;
    for (AttentionKernel kernel : {AttentionKernel::simple, AttentionKernel::tiled, AttentionKernel::hopper}) try {
            set_attention_kernel(kernel);
            kernels.push_back(gpu::chosen_attention_kernel(x.in));
        } catch (const Error&) {  // it does not take the shape
        }
    set_attention_kernel(AttentionKernel::automatic);
    return kernels;
}

// Tensor cores multiply bf16: there P and dS are rounded before they are multiplied, and the naive kernel to compare with rounds them too.
// A CPU multiplies f32.
inline bool rounds_products(AttentionKernel kernel, Dtype type) {
    return on_gpu() && type == Dtype::bf16 && kernel != AttentionKernel::simple;
}

inline const char* name_of(AttentionKernel kernel) {
    switch (kernel) {
        case AttentionKernel::simple:
            return "simple";
        case AttentionKernel::tiled:
            return "tiled";
        case AttentionKernel::hopper:
            return "hopper";
        default:
            return "automatic";
    }
}

// While it lives, that kernel is used.
class WithKernel {
public:
    explicit WithKernel(AttentionKernel kernel) : before_(wanted_attention_kernel()) { set_attention_kernel(kernel); }
    ~WithKernel() { set_attention_kernel(before_); }
    WithKernel(const WithKernel&) = delete;

private:
    AttentionKernel before_;
};

// x as a tensor of that type would hold it.
template <class R>
R stored(R x, Dtype type) {
    return type == Dtype::bf16 ? static_cast<R>(bf16_to_float(float_to_bf16(static_cast<float>(x)))) : x;
}

// The contract's formulas in plain loops, all sums in R: R = double is the truth; R = float is what a naive kernel would reach, which keeps
// its results in the problem's type (the backward reads `out` and dO back from there). With rounded_products the numbers that tensor cores
// would multiply, P, dS and dX, are rounded to bf16 first. To be made before the problem's backward: that may use up dout.
template <class R>
struct Naive {
    std::vector<R> out, lse, dq, dk, dv, dgate, dsinks, drelative, dq_factors, dk_factors;

    explicit Naive(const Problem& problem, bool rounded_products = false) {
        const AttentionInputs& in = problem.in;
        const AttentionParams& params = problem.params;
        const int64_t NH = problem.shape.NH, NKV = problem.shape.NKV, HS = problem.shape.HS;
        auto numbers = [](const Tensor& t) {
            std::vector<R> list;
            if (t)
                for (double value : values(t)) list.push_back(static_cast<R>(value));
            return list;
        };
        const std::vector<R> q = numbers(in.q), k = numbers(in.k), v = numbers(in.v), dout = numbers(problem.dout), gate = numbers(in.gate),
                             sinks = numbers(in.sinks), slopes = numbers(in.slopes), relative = numbers(in.relative),
                             q_factors = numbers(in.q_factors), k_factors = numbers(in.k_factors), dense = numbers(in.dense);
        const int64_t rank = in.q_factors ? in.q_factors.shape[2] : 0, P = in.dense ? in.dense.shape[1] : 0,
                      gate_width = in.gate ? in.gate.shape[2] : 0;
        out.resize(q.size()), dq.resize(q.size()), lse.resize(q.size() / static_cast<size_t>(HS)), dgate.resize(gate.size());
        dq_factors.resize(static_cast<size_t>(in.q.rows() * NH * rank));
        dk = numbers(problem.d.dk), dv = numbers(problem.d.dv), dsinks = numbers(problem.d.dsinks);  // what is added to
        drelative = numbers(problem.d.drelative), dk_factors = numbers(problem.d.dk_factors);
        const R scale = static_cast<R>(params.scale), softcap = static_cast<R>(params.softcap);
        const Dtype type = std::is_same_v<R, double> ? Dtype::f64 : in.q.dtype;
        auto factor = [&](R x) { return rounded_products ? stored(x, Dtype::bf16) : x; };  // of a product
        auto dot = [](const R* a, const R* b, int64_t n) {
            R sum = 0;
            for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
            return sum;
        };
        for (const Segment& s : problem.shape.segments)
            for (int64_t h = 0; h < NH; h++)
                for (int64_t i = 0; i < s.q_len; i++) {
                    const int64_t head_at = (s.q_start + i) * NH + h, at = head_at * HS, kv_head = h / (NH / NKV);
                    const int64_t beside = s.kv_len - s.q_len + i,
                                  first = params.window ? std::max<int64_t>(0, beside - params.window + 1) : 0;
                    auto kv_at = [&](int64_t j) { return ((s.kv_start + j) * NKV + kv_head) * HS; };
                    auto size = [](int64_t n) { return static_cast<size_t>(n); };
                    const int64_t position = s.first_position + i;
                    auto k_factors_of = [&](int64_t j) { return &k_factors[size(((position - (beside - j)) * NKV + kv_head) * rank)]; };
                    std::vector<R> scores(size(beside + 1)), capped(size(beside + 1));
                    R top = in.sinks ? sinks[size(h)] : -INFINITY, sum = 0;
                    for (int64_t j = first; j <= beside; j++) {
                        const int64_t distance = beside - j;
                        R x = scale * dot(&q[size(at)], &k[size(kv_at(j))], HS);
                        if (softcap > 0) x = softcap * std::tanh(x / softcap);
                        capped[size(j)] = x;
                        if (in.slopes) x -= slopes[size(h)] * static_cast<R>(distance);
                        if (in.relative) x += relative[size(h * relative_buckets + relative_bucket(distance))];
                        if (in.q_factors) x += dot(&q_factors[size((position * NH + h) * rank)], k_factors_of(j), rank);
                        if (in.dense) x += dense[size((h * P + position) * P + position - distance)];
                        scores[size(j)] = x, top = std::max(top, x);
                    }
                    std::vector<R> weights(size(beside + 1));
                    for (int64_t j = first; j <= beside; j++)
                        sum += std::exp(scores[size(j)] - top), weights[size(j)] = factor(std::exp(scores[size(j)] - top));
                    if (in.sinks) sum += std::exp(sinks[size(h)] - top);
                    lse[size(head_at)] = top + std::log(sum);
                    R D = 0;
                    std::vector<R> d_o(size(HS));
                    for (int64_t d = 0; d < HS; d++) {
                        R o = 0;
                        for (int64_t j = first; j <= beside; j++) o += weights[size(j)] * v[size(kv_at(j) + d)];
                        const R z = in.gate ? gate[size(head_at * gate_width + d % gate_width)] : 0;
                        const R g = in.gate ? 1 / (1 + std::exp(-z)) : 1;
                        out[size(at + d)] = stored(o / sum * g, type);
                        d_o[size(d)] = stored(dout[size(at + d)] * g, type);
                        D += dout[size(at + d)] * out[size(at + d)];
                        if (in.gate)
                            dgate[size(head_at * gate_width + d % gate_width)] +=
                                dout[size(at + d)] * out[size(at + d)] / (1 + std::exp(z));
                    }
                    if (in.sinks) dsinks[size(h)] -= std::exp(sinks[size(h)] - lse[size(head_at)]) * D;
                    for (int64_t j = first; j <= beside; j++) {
                        const R p = std::exp(scores[size(j)] - lse[size(head_at)]);  // what the backward can know
                        const R ds = p * (dot(d_o.data(), &v[size(kv_at(j))], HS) - D);
                        const R slope = softcap > 0 ? 1 - capped[size(j)] / softcap * (capped[size(j)] / softcap) : 1;
                        const R dx = scale * factor(ds * slope);
                        for (int64_t d = 0; d < HS; d++) {
                            dq[size(at + d)] += dx * k[size(kv_at(j) + d)];
                            dk[size(kv_at(j) + d)] += dx * q[size(at + d)];
                            dv[size(kv_at(j) + d)] += factor(p) * d_o[size(d)];
                        }
                        if (in.relative) drelative[size(h * relative_buckets + relative_bucket(beside - j))] += ds;
                        for (int64_t r = 0; r < rank; r++) {
                            dq_factors[size(head_at * rank + r)] += factor(ds) * k_factors_of(j)[r];
                            dk_factors[size(((s.kv_start + j) * NKV + kv_head) * rank + r)] +=
                                factor(ds) * q_factors[size((position * NH + h) * rank + r)];
                        }
                    }
                }
        for (std::vector<R>* result : {&dq, &dk, &dv, &dgate, &dq_factors, &dk_factors})
            for (R& x : *result) x = stored(x, type);
    }
};

}  // namespace traincu::test
