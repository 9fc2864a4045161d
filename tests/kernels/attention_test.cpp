// Attention against the formulas in double: one table of cases for every kernel of every device. What the kernels promise about bits is in
// attention_bits_test.cpp, what its variants have in common in attention_variants_test.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

using Gate = Variant::Gate;
using Bias = Variant::Bias;

struct Case {
    Shape shape;
    Variant variant = {};
};

// Documents, heads, head sizes; nothing else.
std::vector<Case> plain_cases() {
    if (on_gpu())
        return {
            {{1, 1, 8, documents({1})}},
            {{2, 2, 16, documents({17})}},
            {{2, 1, 8, documents({127})}},
            {{7, 1, 16, documents({33})}},
            {{1, 1, 80, documents({33})}},
            {{2, 1, 128, documents({20, 1, 9})}},
            {{3, 3, 20, documents({65, 5})}},
            {{2, 1, 7, documents({19, 2})}},
            {ragged()},
            {{2, 1, 16, documents({9, 40}), 8}},
            {{1, 1, 256, documents({9}), 8}},
            {{2, 1, 200, documents({17}), 16}},
            {{4, 4, 64, {{0, 1, 0, 130, 129}}}},
            {{2, 1, 8, {{0, 40, 5, 100, 60}, {40, 3, 105, 67, 64}}}},
            {{2, 2, 8, {{0, 35, 0, 99, 64}}}},
            {{1, 1, 8, documents(std::vector<int64_t>(40, 4))}},  // more segments than a warp looks at, of which a block needs 2
            {{1, 1, 8, {{0, 9, 40, 9, 0}, {9, 20, 0, 40, 20}}}},  // keys in another order than the queries
            {{1, 1, 8, {{0, 2, 0, 60, 58}, {2, 5, 10, 5, 0}}}},   // keys within those of the one before
        };
    return {
        {{1, 1, 8, documents({1})}},
        {{2, 2, 16, documents({17})}},
        {{2, 1, 32, documents({127})}},
        {{7, 1, 64, documents({129})}},
        {{2, 2, 80, documents({300})}},
        {{2, 1, 128, documents({129, 1, 40})}},
        {{3, 3, 20, documents({65, 5})}},
        {ragged()},
        {{4, 4, 64, {{0, 1, 0, 300, 299}}}},                         // a generation step
        {{2, 1, 32, {{0, 70, 5, 200, 130}, {70, 3, 205, 67, 64}}}},  // slices with a prefix, in a cache
        {{2, 2, 16, {{0, 70, 0, 199, 129}}}},
    };
}

// What a kernel may do to the scores, each thing alone, at the edges of tiles of 64 and 128, and all together. Of the GPU's, small ones:
// the SIMT runner executes each thread one after another.
std::vector<Case> variant_cases() {
    const bool gpu = on_gpu();
    const auto edge = documents(gpu ? std::vector<int64_t>{129, 1, 3} : std::vector<int64_t>{129, 1, 3, 65});
    const auto slices = gpu ? std::vector<Segment>{{0, 40, 5, 100, 60}, {40, 3, 105, 67, 64}}
                            : std::vector<Segment>{{0, 70, 5, 200, 130}, {70, 3, 205, 67, 64}};  // with a prefix, in a cache
    const auto shared = std::vector<Segment>{{0, 9, 0, 9, 0}, {9, 20, 0, 29, 9}, {29, 12, 0, 41, 29}};
    const auto step = std::vector<Segment>{{0, 1, 0, 130, 129}};
    return {
        {{2, 1, 16, documents({70})}, {.window = 1}},  // each query sees itself alone
        {{2, 1, 8, edge}, {.window = 5}},
        {{2, 2, 16, documents({gpu ? 140 : 300})}, {.window = 64}},
        {{2, 1, 8, documents({140})}, {.window = 65}},
        {{2, 1, 16, slices, 8}, {.window = 50}},
        {{1, 1, 8, step}, {.window = 20}},
        {{2, 1, 8, documents({33, 5})}, {.window = 1000}},  // longer than all
        {{2, 1, 16, edge}, {.softcap = 1.5}},
        {{7, 1, 8, documents({33})}, {.softcap = 50}},
        {{4, 2, 16, documents({34, 1, 5})}, {.sinks = true}},
        {{2, 1, 8, edge}, {.sinks = true}},
        {{4, 2, 16, documents({34, 1, 5})}, {.gate = Gate::headwise}},
        {{2, 1, 20, edge}, {.gate = Gate::elementwise}},
        {{2, 1, 32, documents({17, 2}), 8}, {.gate = Gate::elementwise}},
        {{8, 2, 8, edge}, {.bias = Bias::alibi}},
        {{2, 1, 16, slices}, {.bias = Bias::alibi}},
        {{2, 1, 8, edge}, {.bias = Bias::relative}},
        {{4, 2, 16, slices}, {.bias = Bias::relative}},
        {{1, 1, 8, documents({gpu ? 200 : 700})}, {.bias = Bias::relative}},  // buckets that distances share
        {{2, 1, 8, edge}, {.bias = Bias::factors, .rank = 1}},
        {{4, 2, 16, slices}, {.bias = Bias::factors, .rank = 5}},
        {{4, 2, 16, shared}, {.bias = Bias::factors, .rank = 24}},  // segments that share keys
        {{2, 1, 16, edge}, {.bias = Bias::dense}},
        {{4, 2, 8, slices}, {.bias = Bias::dense}},
        {{2, 1, 7, documents({19, 2})}, {7, 3, true, Gate::elementwise, Bias::alibi}},
        {{4, 2, 16, slices}, {40, 3, true, Gate::elementwise, Bias::alibi}},
        {{4, 2, 16, edge}, {70, 3, true, Gate::headwise, Bias::relative}},
        {{7, 1, 16, shared}, {15, 3, true, Gate::elementwise, Bias::factors, 17}},
        {{2, 1, 64, slices, 8}, {50, 3, true, Gate::elementwise, Bias::factors, 8}},
        {{2, 1, 128, documents({33, 5}), 8}, {20, 3, true, Gate::elementwise, Bias::dense}},
    };
}

std::string describe(const Case& c) {
    const Variant& v = c.variant;
    return format("T %d, NH %d, NKV %d, HS %d, window %d, softcap %g, sinks %d, gate %d, bias %d, rank %d", static_cast<int>(c.shape.T()),
                  static_cast<int>(c.shape.NH), static_cast<int>(c.shape.NKV), static_cast<int>(c.shape.HS), static_cast<int>(v.window),
                  v.softcap, v.sinks, static_cast<int>(v.gate), static_cast<int>(v.bias), static_cast<int>(v.rank));
}

// Every result of every kernel that takes the case, within twice the error of a naive kernel in the same precision.
void check_case(Dtype type, const Case& c) {
    Pool pool;
    const Problem inputs(pool, type, c.shape, 1.0, c.variant);
    const std::vector<AttentionKernel> kernels = kernels_for(inputs);
    if (kernels.empty()) return;
    const Naive<double> truth(inputs);
    for (AttentionKernel kernel : kernels) {
        CAPTURE(std::string(traincu::name_of(type)));
        CAPTURE(std::string(name_of(kernel)));
        CAPTURE(describe(c));
        const Naive<float> naive(inputs, rounds_products(kernel, type));
        Pool again;
        Problem x(again, type, c.shape, 1.0, c.variant);
        const WithKernel with(kernel);
        x.forward(), x.backward();
        auto check = [&](const std::string& what, const Tensor& result, const std::vector<double>& exact, const std::vector<float>& f32) {
            if (!result) return;
            CAPTURE(what);
            // Of a few numbers the naive ones may be right by chance.
            const double luck = exact.size() < 8 ? std::sqrt(static_cast<double>(c.shape.HS)) : 1;
            const double tolerance = type == Dtype::f64 ? 1e-13 : 2 * distance(f32, exact) + luck * 0x1p-23;
            CHECK(distance(values(result), exact) < tolerance);
        };
        check("out", x.out, truth.out, naive.out);
        check("lse", x.lse, truth.lse, naive.lse);
        check("dv", x.d.dv, truth.dv, naive.dv);
        check("dgate", x.d.dgate, truth.dgate, naive.dgate);
        // A pass that all kernels of a device share. Of fewer heads its few numbers say nothing: each is a sum of the outputs' roundings.
        if (c.shape.NH >= 4) check("dsinks", x.d.dsinks, truth.dsinks, naive.dsinks);
        const bool one_key = (c.shape.T() == 1 && c.shape.Tk() == 1) || (c.variant.window == 1 && !c.variant.sinks);
        if (one_key) continue;  // dq = dk = 0, and the errors are of no size
        check("dq", x.d.dq, truth.dq, naive.dq);
        check("dk", x.d.dk, truth.dk, naive.dk);
        check("drelative", x.d.drelative, truth.drelative, naive.drelative);
        check("dq_factors", x.d.dq_factors, truth.dq_factors, naive.dq_factors);
        check("dk_factors", x.d.dk_factors, truth.dk_factors, naive.dk_factors);
    }
}

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("attention: forward and backward agree with brute force; within twice the error of a naive kernel in the same precision") {
        for (Dtype type : test_dtypes())
            for (const Case& c : plain_cases()) check_case(type, c);
    }

    TEST_CASE("attention: so do windows, softcaps, sinks, gates and biases") {
        for (Dtype type : test_dtypes())
            for (const Case& c : variant_cases()) check_case(type, c);
    }

    TEST_CASE("attention: the gradients are the derivatives of out, of every input") {
        if (on_gpu()) return;  // has no f64
        const std::vector<Segment> segments = {{0, 5, 0, 5, 0}, {5, 1, 5, 1, 0}, {6, 4, 6, 9, 5}};
        for (const Variant& variant : {Variant{}, Variant{4, 2, true, Gate::elementwise, Bias::relative},
                                       Variant{0, 0, true, Gate::headwise, Bias::factors}, Variant{3, 1, false, Gate::none, Bias::factors},
                                       Variant{4, 2, true, Gate::elementwise, Bias::dense}, Variant{0, 2, true, Gate::none, Bias::alibi}}) {
            Pool inputs;
            for (AttentionKernel kernel : kernels_for(Problem(inputs, Dtype::f64, {4, 2, 8, segments}, 1.0, variant))) {
                CAPTURE(std::string(name_of(kernel)));
                CAPTURE(static_cast<int>(variant.bias));
                const WithKernel with(kernel);
                Pool pool;
                Problem x(pool, Dtype::f64, {4, 2, 8, segments}, 1.0, variant);
                const std::vector<double> dout = values(x.dout);
                auto loss = [&] {
                    x.forward();
                    const std::vector<double> out = values(x.out);
                    double sum = 0;
                    for (size_t i = 0; i < out.size(); i++) sum += out[i] * dout[i];
                    return sum;
                };
                loss();
                x.backward();
                auto numeric = [&](const Tensor& inp) {
                    std::vector<double> slopes;
                    for (int64_t r = 0; r < inp.rows(); r++)
                        for (int64_t c = 0; c < inp.cols(); c++) {
                            double& number = inp.as<double>()[r * inp.row_stride + c];
                            const double saved = number, step = 1e-5;
                            number = saved + step;
                            const double up = loss();
                            number = saved - step;
                            const double down = loss();
                            number = saved;
                            slopes.push_back((up - down) / (2 * step));
                        }
                    return slopes;
                };
                auto check = [&](const std::string& what, const Tensor& inp, const Tensor& dinp) {
                    if (!dinp) return;
                    CAPTURE(what);
                    CHECK(distance(numeric(inp), values(dinp)) < 1e-8);
                };
                check("q", x.in.q, x.d.dq);
                check("k", x.in.k, x.d.dk);
                check("v", x.in.v, x.d.dv);
                check("gate", x.in.gate, x.d.dgate);
                check("sinks", x.in.sinks, x.d.dsinks);
                check("relative", x.in.relative, x.d.drelative);
                if (!x.in.q_factors) continue;
                // A row of dq_factors is a query's, a row of dk_factors a key's: what belongs to one position adds up.
                const int64_t R = x.in.q_factors.shape[2], A = 4 * R, B = 2 * R;
                std::vector<double> dq_factors(static_cast<size_t>(x.in.q_factors.numel())),
                    dk_factors(static_cast<size_t>(x.in.k_factors.numel()));
                for (const Segment& s : segments) {
                    for (int64_t i = 0; i < s.q_len * A; i++)
                        dq_factors[static_cast<size_t>(s.first_position * A + i)] += Pool::get(x.d.dq_factors, s.q_start * A + i);
                    for (int64_t j = 0; j < s.kv_len * B; j++)
                        dk_factors[static_cast<size_t>((s.first_position - (s.kv_len - s.q_len)) * B + j)] +=
                            Pool::get(x.d.dk_factors, s.kv_start * B + j);
                }
                CHECK(distance(numeric(x.in.q_factors), dq_factors) < 1e-8);
                CHECK(distance(numeric(x.in.k_factors), dk_factors) < 1e-8);
            }
        }
    }

    // Of scores around 10^6 the last bit decides which of two keys is seen, and an error is a matter of luck: that of several problems is
    // compared.
    TEST_CASE("attention: scores of +-80 and beyond stay finite and right") {
        for (Dtype type : test_dtypes())
            for (double spread : {40.0, 1000.0})
                for (const Variant& variant : {Variant{}, Variant{.window = 30, .sinks = true}, Variant{.softcap = 30}}) {
                    if (type == Dtype::f64) continue;
                    const Shape shape = on_gpu() ? Shape{2, 2, 16, documents({60, 3})} : Shape{2, 2, 64, documents({150, 3})};
                    const uint64_t problems = spread > 100 && on_gpu() ? 8 : 1;
                    Pool pool;
                    for (AttentionKernel kernel : kernels_for(Problem(pool, type, shape, spread, variant))) {
                        CAPTURE(std::string(traincu::name_of(type)));
                        CAPTURE(std::string(name_of(kernel)));
                        CAPTURE(spread);
                        CAPTURE(variant.window);
                        CAPTURE(variant.softcap);
                        const WithKernel with(kernel);
                        std::vector<double> out, dv, exact_out, exact_dv;
                        std::vector<float> naive_out, naive_dv;
                        auto append = [](auto& all, const auto& more) { all.insert(all.end(), more.begin(), more.end()); };
                        for (uint64_t seed = 1; seed <= problems; seed++) {
                            Pool again(seed);
                            Problem x(again, type, shape, spread, variant);
                            const Naive<double> truth(x);
                            const Naive<float> naive(x, rounds_products(kernel, type));
                            x.forward(), x.backward();
                            for (const Tensor& t : x.results())
                                for (double value : values(t)) REQUIRE(std::isfinite(value));
                            append(out, values(x.out)), append(exact_out, truth.out), append(naive_out, naive.out);
                            append(dv, values(x.d.dv)), append(exact_dv, truth.dv), append(naive_dv, naive.dv);
                        }
                        CHECK(distance(out, exact_out) < 2 * distance(naive_out, exact_out) + 0x1p-23);
                        CHECK(distance(dv, exact_dv) < 2 * distance(naive_dv, exact_dv) + 0x1p-23);
                    }
                }
    }

    TEST_CASE("attention: dq, dgate, dq_factors are overwritten, the other gradients are added to, and nothing else is touched") {
        for (Dtype type : test_dtypes())
            for (const Variant& variant :
                 {Variant{}, Variant{.window = 20, .sinks = true, .gate = Gate::elementwise, .bias = Bias::factors},
                  Variant{.gate = Gate::headwise, .bias = Bias::relative}}) {
                Pool inputs;
                for (AttentionKernel kernel : kernels_for(Problem(inputs, type, ragged(), 1.0, variant))) {
                    CAPTURE(std::string(traincu::name_of(type)));
                    CAPTURE(std::string(name_of(kernel)));
                    CAPTURE(static_cast<int>(variant.bias));
                    const WithKernel with(kernel);
                    Pool pool, again;
                    Problem x(pool, type, ragged(), 1.0, variant), y(again, type, ragged(), 1.0, variant);
                    x.forward(), x.backward();
                    for (const Tensor& t : {y.d.dk, y.d.dv, y.d.dk_factors, y.d.dsinks, y.d.drelative})
                        for (int64_t i = 0; i < t.rows(); i++)
                            for (int64_t c = 0; c < t.cols(); c++) Pool::set(t, i * t.row_stride + c, 1);
                    const Naive<double> truth(y);
                    const Naive<float> naive(y, rounds_products(kernel, type));
                    y.forward(), y.backward();
                    CHECK(same_bits(x.d.dq, y.d.dq));
                    if (x.d.dgate) CHECK(same_bits(x.d.dgate, y.d.dgate));
                    if (x.d.dq_factors) CHECK(same_bits(x.d.dq_factors, y.d.dq_factors));
                    auto check = [&](const std::string& what, const Tensor& result, const std::vector<double>& exact,
                                     const std::vector<float>& f32) {
                        if (!result) return;
                        CAPTURE(what);
                        CHECK(distance(values(result), exact) < (type == Dtype::f64 ? 1e-13 : 2 * distance(f32, exact) + 0x1p-23));
                    };
                    check("dk", y.d.dk, truth.dk, naive.dk);
                    check("dv", y.d.dv, truth.dv, naive.dv);
                    check("dsinks", y.d.dsinks, truth.dsinks, naive.dsinks);
                    check("drelative", y.d.drelative, truth.drelative, naive.drelative);
                    check("dk_factors", y.d.dk_factors, truth.dk_factors, naive.dk_factors);
                    for (const Tensor& t : {x.out, x.d.dq, x.d.dgate})  // the gaps between the rows
                        for (int64_t r = 0; r + 1 < t.rows(); r++)      // beyond the last row lies nothing that the tensor knows
                            for (int64_t c = t.cols(); c < t.row_stride; c++) REQUIRE(std::isnan(Pool::get(t, r * t.row_stride + c)));
                }
            }
    }

    TEST_CASE("attention: segments that do not cover the queries, or leave the keys, are refused; on a GPU also heads that are too large") {
        Pool pool;
        Problem x(pool, Dtype::f32, {2, 1, 16, documents({5, 4})});
        for (const std::vector<Segment>& wrong :
             {documents({5}), std::vector<Segment>{{0, 9, 0, 8, 0}}, std::vector<Segment>{{0, 9, 1, 9, 0}}}) {
            x.shape.segments = wrong;
            CHECK_THROWS_AS(x.forward(), std::logic_error);
            CHECK_THROWS_AS(x.backward(), std::logic_error);
        }
        Problem factors(pool, Dtype::f32, {2, 1, 16, documents({5, 4})}, 1.0, {.bias = Bias::factors});
        factors.shape.segments[1].first_position = 2;  // the last query's position would be 5, and the tables have 5 rows
        CHECK_THROWS_AS(factors.forward(), std::logic_error);
        if (!on_gpu()) return;
        Problem large(pool, Dtype::f32, {1, 1, 264, documents({2})});
        CHECK_THROWS_AS(large.forward(), std::logic_error);
        CHECK_THROWS_AS(large.backward(), std::logic_error);
    }

}  // TEST_SUITE

}  // namespace traincu::test
