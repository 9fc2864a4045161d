// What of attention only a GPU has: the choice of kernels, the backward's first pass apart from what comes after, and little workspace.
#include <doctest/doctest.h>

#include <cmath>

#include "src/base/error.h"
#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

using Gate = Variant::Gate;

struct Asked {
    explicit Asked(AttentionKernel kernel) { set_attention_kernel(kernel); }
    ~Asked() { set_attention_kernel(AttentionKernel::automatic); }
};

// Fills what the first pass reads, as the forward would leave it, and returns what it must compute, in double.
struct FirstPass {
    std::vector<double> D, dsinks, dgate, d_o;

    explicit FirstPass(const Problem& x) {
        const int64_t T = x.shape.T(), NH = x.shape.NH, HS = x.shape.HS;
        auto fill = [](const Tensor& t, double scale) {
            for (int64_t r = 0; r < t.rows(); r++)
                for (int64_t c = 0; c < t.cols(); c++)
                    Pool::set(t, r * t.row_stride + c, scale * std::sin(static_cast<double>(7 * r + 3 * c + 1)));
        };
        fill(x.out, 1.5), fill(x.lse, 3);
        const std::vector<double> dout = values(x.dout), out = values(x.out), lse = values(x.lse), gate = values(x.in.gate),
                                  sinks = values(x.in.sinks);
        const int64_t width = x.in.gate ? x.in.gate.shape[2] : 0;
        auto at = [](int64_t i) { return static_cast<size_t>(i); };
        dsinks.resize(at(NH)), dgate.resize(gate.size());
        for (int64_t i = 0; i < T * NH; i++) {
            double sum = 0;
            for (int64_t d = 0; d < HS; d++) {
                const double product = dout[at(i * HS + d)] * out[at(i * HS + d)], z = width ? gate[at(i * width + d % width)] : 0;
                sum += product;
                d_o.push_back(width ? dout[at(i * HS + d)] / (1 + std::exp(-z)) : dout[at(i * HS + d)]);
                if (width) dgate[at(i * width + d % width)] += product / (1 + std::exp(z));
            }
            D.push_back(sum);
            dsinks[at(i % NH)] -= std::exp(sinks[at(i % NH)] - lse[at(i)]) * sum;
        }
    }
};

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("attention: a GPU's first pass: D, dO, the gradients of gate and sinks, packed and by single elements, in parts") {
        if (!on_gpu()) return;
        struct Case {
            Shape shape;
            Gate gate;
        };
        for (Dtype type : test_dtypes())
            for (const Case& c : {Case{{2, 1, 64, documents({5}), 8}, Gate::elementwise},
                                  {{2, 1, 64, documents({5}), 8}, Gate::headwise},
                                  {{2, 1, 64, documents({5}), 3}, Gate::elementwise},
                                  {{3, 1, 256, documents({3}), 8}, Gate::elementwise},
                                  {{3, 1, 256, documents({3}), 3}, Gate::headwise},
                                  {{1, 1, 1, documents({2}), 3}, Gate::elementwise},
                                  {{3, 3, 20, documents({3, 2}), 4}, Gate::headwise},
                                  {{40, 1, 8, documents({9}), 8}, Gate::none},
                                  {{35, 5, 3, documents({70, 71}), 3}, Gate::elementwise},
                                  {{1, 1, 8, documents(std::vector<int64_t>(300, 1)), 8}, Gate::headwise}}) {
                CAPTURE(std::string(name_of(type)));
                CAPTURE(c.shape.HS);
                CAPTURE(c.shape.NH);
                Pool pool, again;
                Problem x(pool, type, c.shape, 1, {.sinks = true, .gate = c.gate}),
                    y(again, type, c.shape, 1, {.sinks = true, .gate = c.gate});
                const FirstPass expected(x), same(y);
                for (int64_t h = 0; h < c.shape.NH; h++) Pool::set(y.d.dsinks, h, 1);
                x.backward(), y.backward();
                const double rounded = type == Dtype::bf16 ? 0x1p-8 : 0x1p-22;
                CHECK(distance(values(x.scratch.delta), expected.D) < 0x1p-21);
                CHECK(distance(values(x.d.dsinks), expected.dsinks) < 0x1p-20);
                std::vector<double> one_more = expected.dsinks;
                for (double& value : one_more) value += 1;
                CHECK(distance(values(y.d.dsinks), one_more) < 0x1p-20);
                if (c.gate == Gate::none) continue;
                CHECK(distance(values(x.dout), expected.d_o) < rounded);
                CHECK(distance(values(x.d.dgate), expected.dgate) < rounded);
            }
    }

    TEST_CASE("attention: a closed gate keeps the digits of its gradient") {
        if (!on_gpu()) return;
        Pool pool;
        Problem x(pool, Dtype::f32, {2, 1, 8, documents({3}), 8}, 1, {.sinks = true, .gate = Gate::elementwise});
        for (int64_t r = 0; r < x.in.gate.rows(); r++)
            for (int64_t c = 0; c < x.in.gate.cols(); c++)
                Pool::set(x.in.gate, r * x.in.gate.row_stride + c, 25.0 + static_cast<double>(c));
        const FirstPass expected(x);  // 1 - sigmoid(25) is 1.4e-11: as 1 - 1 it would be 0
        x.backward();
        CHECK(distance(values(x.d.dgate), expected.dgate) < 0x1p-20);
    }

    TEST_CASE("attention: which kernels a GPU takes") {
        if (!on_gpu()) return;
        Pool pool;
        Problem x(pool, Dtype::f32, {2, 1, 7, documents({3})});
        CHECK(gpu::chosen_attention_kernel(x.in) == AttentionKernel::simple);
        {
            const Asked simple(AttentionKernel::simple);
            CHECK(gpu::chosen_attention_kernel(x.in) == AttentionKernel::simple);
        }
        for (AttentionKernel kernel : {AttentionKernel::tiled, AttentionKernel::hopper}) {  // neither takes f32, nor heads of 7
            const Asked by_name(kernel);
            CHECK_THROWS_AS(gpu::chosen_attention_kernel(x.in), Error);
            CHECK_THROWS_AS(x.forward(), Error);
            const std::vector<double> dout = values(x.dout);
            CHECK_THROWS_AS(x.backward(), Error);
            CHECK(values(x.dout) == dout);
        }
    }
}  // TEST_SUITE

}  // namespace traincu::test
