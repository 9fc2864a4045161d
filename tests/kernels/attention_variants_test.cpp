// What must come to the same: biases written in several ways, gates that are half or wholly open, sinks that take nothing, windows of one
// key or of all, a softcap too high to matter.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>

#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

using Gate = Variant::Gate;
using Bias = Variant::Bias;

const Variant no_variant;

// A document across the edge of a tile, short ones, and a slice with a prefix; positions begin at 0.
Shape mixed() {
    const int64_t n = on_gpu() ? 40 : 130;
    return {4, 2, 16, {{0, n, 0, n, 0}, {n, 1, n, 1, 0}, {n + 1, 17, n + 1, 50, 33}}};
}

// A problem, changed by `prepare`, forward and backward. Of q, k, v and dout each variant has the same: it draws its own tensors after
// them.
struct Run {
    Pool pool;
    Problem x;
    Run(Dtype type, const Variant& variant, const std::function<void(Problem&)>& prepare = {}) : x(pool, type, mixed(), 1.0, variant) {
        if (prepare) prepare(x);
        x.forward(), x.backward();
    }
};

template <class Body>
void for_each_kernel(std::initializer_list<Variant> variants, Body body) {
    for (Dtype type : test_dtypes()) {
        Pool pool;
        const Problem plain(pool, type, mixed());
        for (AttentionKernel kernel : kernels_for(plain)) {
            bool takes = true;
            for (const Variant& variant : variants) {
                Pool other;
                const std::vector<AttentionKernel> list = kernels_for(Problem(other, type, mixed(), 1.0, variant));
                takes = takes && std::find(list.begin(), list.end(), kernel) != list.end();
            }
            if (!takes) continue;
            CAPTURE(std::string(traincu::name_of(type)));
            CAPTURE(std::string(name_of(kernel)));
            const WithKernel with(kernel);
            body(type);
        }
    }
}

void fill(const Tensor& t, double value) {
    for (int64_t r = 0; r < t.rows(); r++)
        for (int64_t c = 0; c < t.cols(); c++) Pool::set(t, r * t.row_stride + c, value);
}

void check_close(const Problem& x, const Problem& y, double tolerance) {
    for (auto [one, other] : {std::pair{x.out, y.out}, std::pair{x.lse, y.lse}, std::pair{x.d.dq, y.d.dq}, std::pair{x.d.dk, y.d.dk},
                              std::pair{x.d.dv, y.d.dv}})
        CHECK(distance(values(one), values(other)) < tolerance);
}

void check_same(const Problem& x, const Problem& y) {
    for (auto [one, other] : {std::pair{x.out, y.out}, std::pair{x.lse, y.lse}, std::pair{x.d.dq, y.d.dq}, std::pair{x.d.dk, y.d.dk},
                              std::pair{x.d.dv, y.d.dv}})
        CHECK(same_bits(one, other));
}

// dense[h, p, r] = bias(h, p, r)
void set_dense(Problem& x, const std::function<double(int64_t, int64_t, int64_t)>& bias) {
    const int64_t P = x.in.dense.shape[1];
    for (int64_t h = 0; h < x.shape.NH; h++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t r = 0; r < P; r++) Pool::set(x.in.dense, (h * P + p) * P + r, bias(h, p, r));
}

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("attention: factors give what the dense matrix of their products gives") {
        const Variant factors{.bias = Bias::factors, .rank = 6}, dense{.bias = Bias::dense};
        for_each_kernel({factors, dense}, [&](Dtype type) {
            if (type == Dtype::bf16) return;  // rounds the products
            Run x(type, factors);
            Run y(type, dense, [&](Problem& y) {
                const AttentionInputs& in = x.x.in;
                set_dense(y, [&](int64_t h, int64_t p, int64_t r) {
                    double sum = 0;
                    for (int64_t n = 0; n < 6; n++)
                        sum += Pool::get(in.q_factors, (p * 4 + h) * 6 + n) * Pool::get(in.k_factors, (r * 2 + h / 2) * 6 + n);
                    return sum;
                });
            });
            check_close(x.x, y.x, type == Dtype::f64 ? 1e-13 : 2e-6);
        });
    }

    TEST_CASE("attention: ALiBi is the dense matrix -m (p - r), and the factors [-m p, m] and [1, r]") {
        const Variant alibi{.bias = Bias::alibi}, dense{.bias = Bias::dense}, factors{.bias = Bias::factors, .rank = 2};
        for_each_kernel({alibi, dense, factors}, [&](Dtype type) {
            if (type == Dtype::bf16) return;  // rounds the products
            Run x(type, alibi);
            auto slope = [&](int64_t h) { return Pool::get(x.x.in.slopes, h); };
            Run y(type, dense, [&](Problem& y) {
                set_dense(y, [&](int64_t h, int64_t p, int64_t r) { return -slope(h) * static_cast<double>(p - r); });
            });
            Run z(type, factors, [&](Problem& z) {
                for (int64_t p = 0; p < z.in.q_factors.rows(); p++) {
                    for (int64_t h = 0; h < 4; h++) {
                        Pool::set(z.in.q_factors, (p * 4 + h) * 2, -slope(h) * static_cast<double>(p));
                        Pool::set(z.in.q_factors, (p * 4 + h) * 2 + 1, slope(h));
                    }
                    for (int64_t h = 0; h < 2; h++)
                        Pool::set(z.in.k_factors, (p * 2 + h) * 2, 1),
                            Pool::set(z.in.k_factors, (p * 2 + h) * 2 + 1, static_cast<double>(p));
                }
            });
            check_close(y.x, x.x, type == Dtype::f64 ? 1e-13 : 2e-6);
            check_close(z.x, x.x, type == Dtype::f64 ? 1e-12 : 1e-5);  // sums of numbers as large as m p
        });
    }

    TEST_CASE("attention: a gate of 0 halves out, exactly, and the backward is that of half of dout; an open one changes no bit") {
        for (Gate gate : {Gate::headwise, Gate::elementwise})
            for_each_kernel({{.gate = gate}}, [&](Dtype type) {
                CAPTURE(static_cast<int>(gate));
                auto scale = [](const Tensor& t, double factor) {
                    for (int64_t r = 0; r < t.rows(); r++)
                        for (int64_t c = 0; c < t.cols(); c++)
                            Pool::set(t, r * t.row_stride + c, factor * Pool::get(t, r * t.row_stride + c));
                };
                std::vector<double> dout;
                Run half(type, {.gate = gate}, [&](Problem& x) { fill(x.in.gate, 0), dout = values(x.dout); });
                Run open(type, {.gate = gate}, [&](Problem& x) { fill(x.in.gate, 100); });
                Run none(type, no_variant), none_half(type, no_variant, [&](Problem&x) { scale(x.dout, 0.5); });
                check_same(open.x, none.x);
                for (double value : values(open.x.d.dgate)) REQUIRE(std::fabs(value) < 1e-30);
                const std::vector<double> out = values(half.x.out), dgate = values(half.x.d.dgate);
                std::vector<double> expected(dgate.size(), 0.0);
                for (size_t i = 0; i < out.size(); i++) expected[gate == Gate::headwise ? i / 16 : i] += dout[i] * out[i] / 2;
                CHECK(distance(dgate, expected) < (type == Dtype::f64 ? 1e-14 : type == Dtype::f32 ? 1e-6 : 0x1p-8));
                scale(none_half.x.out, 0.5);
                check_same(half.x, none_half.x);
            });
    }

    TEST_CASE("attention: sinks that take nothing change no bit, and get no gradient") {
        for_each_kernel({{.sinks = true}}, [&](Dtype type) {
            for (double sink : {-1e30, -std::numeric_limits<double>::infinity()}) {
                if (on_gpu() && std::isinf(sink)) continue;
                Run x(type, {.sinks = true}, [&](Problem& x) { fill(x.in.sinks, sink); });
                Run none(type, no_variant);
                check_same(x.x, none.x);
                for (double value : values(x.x.d.dsinks)) CHECK(value == 0);
            }
        });
    }

    TEST_CASE("attention: a window of one key copies its value; one as long as the keys changes no bit") {
        for_each_kernel({{.window = 1}}, [&](Dtype type) {
            Run x(type, {.window = 1});
            for (const Segment& s : x.x.shape.segments)
                for (int64_t i = 0; i < s.q_len; i++)
                    for (int64_t h = 0; h < 4; h++)
                        for (int64_t d = 0; d < 16; d++)
                            REQUIRE(Pool::get(x.x.out, (s.q_start + i) * x.x.out.row_stride + h * 16 + d) ==
                                    Pool::get(x.x.in.v, (s.kv_start + s.kv_len - s.q_len + i) * x.x.in.v.row_stride + h / 2 * 16 + d));
            Run all(type, {.window = 130}), none(type, no_variant);
            check_same(all.x, none.x);
        });
    }

    TEST_CASE("attention: a softcap far above the scores changes little") {
        for_each_kernel({{.softcap = 1e4}}, [&](Dtype type) {
            if (type == Dtype::bf16) return;
            Run x(type, {.softcap = type == Dtype::f64 ? 1e7 : 1e4}), none(type, no_variant);
            check_close(x.x, none.x, type == Dtype::f64 ? 1e-12 : 4e-6);
        });
    }

    TEST_CASE("attention: a kernel of GPUs is refused on a CPU") {
        if (on_gpu()) return;
        Pool pool;
        Problem x(pool, Dtype::f32, mixed());
        const WithKernel with(AttentionKernel::hopper);
        CHECK_THROWS_AS(x.forward(), std::logic_error);
        CHECK_THROWS_AS(x.backward(), std::logic_error);
    }

}  // TEST_SUITE

}  // namespace traincu::test
