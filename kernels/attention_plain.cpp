// Attention's formulas (kernels/attention.h) in plain loops, one query of one head at a time: what the other kernels are read beside and
// compared with. A CPU computes with it where `simple` is asked for; slow, any shape.
#include <cmath>

#include "kernels/attention_cpu.h"

namespace traincu::cpu {
namespace {

// One query of one head, i of its segment, and the keys [first, beside] that it sees.
struct Query {
    int64_t row, head, kv_head;       // row: of q and out
    int64_t kv_start, first, beside;  // beside: the key i' next to it; keys count from row kv_start of k and v
    int64_t position;                 // of the query in its document
    int64_t distance(int64_t j) const { return beside - j; }
};

Query query_of(const Segment& s, int64_t i, int64_t head, int64_t group, int64_t window) {
    const int64_t beside = s.kv_len - s.q_len + i;
    return {s.q_start + i,       head, head / group, s.kv_start, window > 0 ? std::max<int64_t>(0, beside - window + 1) : 0, beside,
            s.first_position + i};
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
    T sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

template <class T>
struct Plain {
    Heads<const T> q, k, v, gate;
    Scores<T> scores;
    int64_t NH, NKV, HS;

    Plain(const AttentionInputs& in, const AttentionParams& params)
        : q(in.q), k(in.k), v(in.v), gate(in.gate), scores(in, params), NH(in.q.shape[1]), NKV(in.k.shape[1]), HS(in.q.shape[2]) {}

    int64_t group() const { return NH / NKV; }

    // cap(scale q . k)
    T capped(const Query& at, int64_t j) const {
        const T x = scores.scale * dot(q.row(at.row, at.head), k.row(at.kv_start + j, at.kv_head), HS);
        return scores.softcap > 0 ? scores.softcap * std::tanh(x / scores.softcap) : x;
    }

    // bias[i,j]
    T bias(const Query& at, int64_t j) const {
        const int64_t d = at.distance(j);
        if (scores.slopes) return -scores.slopes[at.head] * static_cast<T>(d);
        if (scores.relative) return scores.relative[at.head * relative_buckets + relative_bucket(d)];
        if (scores.R > 0)
            return dot(scores.q_factors.row(at.position, at.head), scores.k_factors.row(at.position - d, at.kv_head), scores.R);
        if (scores.dense) return scores.dense[(at.head * scores.P + at.position) * scores.P + at.position - d];
        return 0;
    }

    // sigmoid(gate) of column d
    T open(const Query& at, int64_t d) const {
        return gate.data ? 1 / (1 + std::exp(-gate.row(at.row, at.head)[gate.size == 1 ? 0 : d])) : T(1);
    }
};

template <class T>
void forward(const Plain<T>& a, const Query& at, std::vector<T>& s, T* out, T* lse) {
    const T* sink = a.scores.sinks ? a.scores.sinks + at.head : nullptr;
    s.resize(static_cast<size_t>(at.beside + 1));
    T top = sink ? *sink : -std::numeric_limits<T>::infinity();
    for (int64_t j = at.first; j <= at.beside; j++) {
        T& score = s[static_cast<size_t>(j)] = a.capped(at, j) + a.bias(at, j);
        top = std::max(top, score);
    }
    T sum = 0;
    std::fill(out, out + a.HS, T(0));
    for (int64_t j = at.first; j <= at.beside; j++) {
        const T weight = std::exp(s[static_cast<size_t>(j)] - top), *v = a.v.row(at.kv_start + j, at.kv_head);
        sum += weight;
        for (int64_t d = 0; d < a.HS; d++) out[d] += weight * v[d];
    }
    if (sink) sum += std::exp(*sink - top);
    for (int64_t d = 0; d < a.HS; d++) out[d] = out[d] / sum * a.open(at, d);
    *lse = top + std::log(sum);
}

template <class T>
struct PlainGradients {
    Heads<T> dq, dk, dv, dgate, dq_factors, dk_factors;
    T *dsinks, *drelative;

    explicit PlainGradients(const AttentionGradients& d)
        : dq(d.dq),
          dk(d.dk),
          dv(d.dv),
          dgate(d.dgate),
          dq_factors(d.dq_factors),
          dk_factors(d.dk_factors),
          dsinks(d.dsinks.as_or_null<T>()),
          drelative(d.drelative.as_or_null<T>()) {}
};

// dO holds HS numbers.
template <class T>
void backward(const Plain<T>& a, const PlainGradients<T>& g, const Query& at, const T* dout, const T* out, T lse, std::vector<T>& dO) {
    const int64_t HS = a.HS, R = a.scores.R;
    const T D = dot(dout, out, HS), softcap = a.scores.softcap;
    dO.resize(static_cast<size_t>(HS));
    for (int64_t d = 0; d < HS; d++) dO[static_cast<size_t>(d)] = dout[d] * a.open(at, d);
    if (g.dgate.data) {
        T* dgate = g.dgate.row(at.row, at.head);
        std::fill(dgate, dgate + g.dgate.size, T(0));
        for (int64_t d = 0; d < HS; d++) dgate[g.dgate.size == 1 ? 0 : d] += dout[d] * out[d] * (1 - a.open(at, d));
    }
    if (g.dsinks) g.dsinks[at.head] -= std::exp(a.scores.sinks[at.head] - lse) * D;
    T* dq = g.dq.row(at.row, at.head);
    std::fill(dq, dq + HS, T(0));
    T* dq_factors = g.dq_factors.data ? g.dq_factors.row(at.row, at.head) : nullptr;
    if (dq_factors) std::fill(dq_factors, dq_factors + R, T(0));
    for (int64_t j = at.first; j <= at.beside; j++) {
        const int64_t key = at.kv_start + j;
        const T *q = a.q.row(at.row, at.head), *k = a.k.row(key, at.kv_head), *v = a.v.row(key, at.kv_head);
        const T cap = a.capped(at, j), p = std::exp(cap + a.bias(at, j) - lse), ds = p * (dot(dO.data(), v, HS) - D);
        const T dx = a.scores.scale * (softcap > 0 ? ds * (1 - cap / softcap * (cap / softcap)) : ds);
        T *dk = g.dk.row(key, at.kv_head), *dv = g.dv.row(key, at.kv_head);
        for (int64_t d = 0; d < HS; d++) {
            dq[d] += dx * k[d];
            dk[d] += dx * q[d];
            dv[d] += p * dO[static_cast<size_t>(d)];
        }
        if (g.drelative) g.drelative[at.head * relative_buckets + relative_bucket(at.distance(j))] += ds;
        if (!dq_factors) continue;
        const T *q_factors = a.scores.q_factors.row(at.position, at.head),
                *k_factors = a.scores.k_factors.row(at.position - at.distance(j), at.kv_head);
        T* dk_factors = g.dk_factors.row(key, at.kv_head);
        for (int64_t r = 0; r < R; r++) {
            dq_factors[r] += ds * k_factors[r];
            dk_factors[r] += ds * q_factors[r];
        }
    }
}

}  // namespace

void plain_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                             const AttentionParams& params) {
    dispatch_real(out.dtype, [&](auto real) {
        using T = decltype(real);
        const Plain<T> a(in, params);
        const Heads<T> o(out);
        for (const Segment& s : segments.host)
#pragma omp parallel
        {
            std::vector<T> scores;
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < s.q_len * a.NH; n++) {
                const Query at = query_of(s, n / a.NH, n % a.NH, a.group(), params.window);
                forward(a, at, scores, o.row(at.row, at.head), lse.as<T>() + at.row * a.NH + at.head);
            }
        }
    });
}

// The query heads of a key head are one thread's: it adds up dk, dv and what is summed over tokens in one order, that of the table.
void plain_attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                              const SegmentTable& segments, const AttentionParams& params) {
    dispatch_real(out.dtype, [&](auto real) {
        using T = decltype(real);
        const Plain<T> a(in, params);
        const PlainGradients<T> gradients(d);
        const Heads<const T> dy(dout), y(out);
#pragma omp parallel for schedule(dynamic)
        for (int64_t kv_head = 0; kv_head < a.NKV; kv_head++) {
            std::vector<T> dO;
            for (const Segment& s : segments.host)
                for (int64_t head = kv_head * a.group(); head < (kv_head + 1) * a.group(); head++)
                    for (int64_t i = 0; i < s.q_len; i++) {
                        const Query at = query_of(s, i, head, a.group(), params.window);
                        backward(a, gradients, at, dy.row(at.row, head), y.row(at.row, head), lse.as<T>()[at.row * a.NH + head], dO);
                    }
        }
    });
}

}  // namespace traincu::cpu
