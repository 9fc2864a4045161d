// Attention against brute force in double, and the promises about bits: threads, packing, slices.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>

#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

const Shape ragged{4, 2, 16,
                   documents(on_gpu() ? std::vector<int64_t>{1, 34, 3, 1, 40, 17} : std::vector<int64_t>{1, 70, 3, 1, 130, 64, 17})};

// Of the GPU's, small ones: the SIMT runner executes each thread one after another.
std::vector<Shape> shapes() {
    if (on_gpu())
        return {
            {1, 1, 8, documents({1})},
            {2, 2, 16, documents({17})},
            {2, 1, 8, documents({127})},
            {7, 1, 16, documents({33})},
            {1, 1, 80, documents({33})},
            {2, 1, 128, documents({20, 1, 9})},
            {3, 3, 20, documents({65, 5})},
            {2, 1, 7, documents({19, 2})},
            ragged,
            {2, 1, 16, documents({9, 40}), 8},
            {1, 1, 256, documents({9}), 8},
            {2, 1, 200, documents({17}), 16},
            {4, 4, 64, {{0, 1, 0, 130, 129}}},
            {2, 1, 8, {{0, 40, 5, 100, 60}, {40, 3, 105, 67, 64}}},
            {2, 2, 8, {{0, 35, 0, 99, 64}}},
            {1, 1, 8, documents(std::vector<int64_t>(40, 4))},  // more segments than a warp looks at, of which a block needs 2
            {1, 1, 8, {{0, 9, 40, 9, 0}, {9, 20, 0, 40, 20}}},  // keys in another order than the queries
            {1, 1, 8, {{0, 2, 0, 60, 58}, {2, 5, 10, 5, 0}}},   // keys within those of the one before
        };
    return {
        {1, 1, 8, documents({1})},
        {2, 2, 16, documents({17})},
        {2, 1, 32, documents({127})},
        {7, 1, 64, documents({129})},
        {2, 2, 80, documents({300})},
        {2, 1, 128, documents({129, 1, 40})},
        {3, 3, 20, documents({65, 5})},
        ragged,
        {4, 4, 64, {{0, 1, 0, 300, 299}}},                         // a generation step
        {2, 1, 32, {{0, 70, 5, 200, 130}, {70, 3, 205, 67, 64}}},  // slices with a prefix, in a cache
        {2, 2, 16, {{0, 70, 0, 199, 129}}},
    };
}

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("attention: forward and backward agree with brute force; within twice the error of a naive kernel in the same precision") {
        for (Dtype type : test_dtypes())
            for (const Shape& shape : shapes()) {
                CAPTURE(std::string(name_of(type)));
                CAPTURE(shape.T());
                CAPTURE(shape.HS);
                Pool pool;
                Problem x(pool, type, shape);
                const Naive<double> truth(x);
                const Naive<float> naive(x);
                x.forward(), x.backward();
                auto check = [&](const std::string& what, const Tensor& result, std::vector<double> Naive<double>::*exact,
                                 std::vector<float> Naive<float>::*f32) {
                    CAPTURE(what);
                    // Of a few numbers the naive ones may be right by chance.
                    const double luck = (truth.*exact).size() < 8 ? std::sqrt(static_cast<double>(shape.HS)) : 1;
                    const double tolerance = type == Dtype::f64 ? 1e-13 : 2 * distance(naive.*f32, truth.*exact) + luck * 0x1p-23;
                    CHECK(distance(values(result), truth.*exact) < tolerance);
                };
                check("out", x.out, &Naive<double>::out, &Naive<float>::out);
                check("lse", x.lse, &Naive<double>::lse, &Naive<float>::lse);
                check("dv", x.d.dv, &Naive<double>::dv, &Naive<float>::dv);
                if (shape.T() == 1 && shape.Tk() == 1) continue;  // one key: dq = dk = 0, and the errors are of no size
                check("dq", x.d.dq, &Naive<double>::dq, &Naive<float>::dq);
                check("dk", x.d.dk, &Naive<double>::dk, &Naive<float>::dk);
            }
    }

    TEST_CASE("attention: dq, dk, dv are the derivatives of out") {
        if (on_gpu()) return;  // has no f64
        Pool pool;
        Problem x(pool, Dtype::f64, {4, 2, 8, {{0, 5, 0, 5, 0}, {5, 1, 5, 1, 0}, {6, 4, 6, 9, 5}}});
        auto loss = [&] {
            x.forward();
            const std::vector<double> out = values(x.out), dout = values(x.dout);
            double sum = 0;
            for (size_t i = 0; i < out.size(); i++) sum += out[i] * dout[i];
            return sum;
        };
        loss();
        x.backward();
        auto check = [&](const Tensor& inp, const Tensor& dinp) {
            const std::vector<double> analytic = values(dinp);
            std::vector<double> numeric;
            for (int64_t r = 0; r < inp.rows(); r++)
                for (int64_t c = 0; c < inp.cols(); c++) {
                    double& number = inp.as<double>()[r * inp.row_stride + c];
                    const double saved = number, step = 1e-5;
                    number = saved + step;
                    const double up = loss();
                    number = saved - step;
                    const double down = loss();
                    number = saved;
                    numeric.push_back((up - down) / (2 * step));
                }
            CHECK(distance(numeric, analytic) < 1e-8);
        };
        check(x.in.q, x.d.dq);
        check(x.in.k, x.d.dk);
        check(x.in.v, x.d.dv);
    }

    TEST_CASE("attention: scores of +-80 and beyond stay finite and right") {
        for (Dtype type : test_dtypes())
            for (double spread : {40.0, 1000.0}) {
                if (type == Dtype::f64) continue;
                CAPTURE(std::string(name_of(type)));
                CAPTURE(spread);
                Pool pool;
                Problem x(pool, type, on_gpu() ? Shape{2, 2, 16, documents({120, 3})} : Shape{2, 2, 64, documents({150, 3})}, spread);
                x.forward(), x.backward();
                for (const Tensor& t : x.results())
                    for (double value : values(t)) REQUIRE(std::isfinite(value));
                const Naive<double> truth(x);
                const Naive<float> naive(x);
                CHECK(distance(values(x.out), truth.out) < 2 * distance(naive.out, truth.out) + 0x1p-23);
                CHECK(distance(values(x.d.dv), truth.dv) < 2 * distance(naive.dv, truth.dv) + 0x1p-23);
            }
    }

    TEST_CASE("attention: dq is overwritten, dk and dv are added to, and nothing else is touched") {
        for (Dtype type : test_dtypes()) {
            CAPTURE(std::string(name_of(type)));
            Pool pool, again;
            Problem x(pool, type, ragged), y(again, type, ragged);
            x.forward(), x.backward();
            for (const Tensor& t : {y.d.dk, y.d.dv})
                for (int64_t i = 0; i < t.rows(); i++)
                    for (int64_t c = 0; c < t.cols(); c++) Pool::set(t, i * t.row_stride + c, 1);
            y.forward(), y.backward();
            CHECK(same_bits(x.d.dq, y.d.dq));
            for (auto [from_zero, from_one] : {std::pair{x.d.dk, y.d.dk}, std::pair{x.d.dv, y.d.dv}}) {
                std::vector<double> expected = values(from_zero);
                for (double& value : expected) value += 1;
                CHECK(distance(values(from_one), expected) < (type == Dtype::f64 ? 1e-15 : type == Dtype::f32 ? 0x1p-23 : 0x1p-8));
            }
            for (const Tensor& t : {x.out, x.d.dq})  // the gaps between the rows
                for (int64_t r = 0; r < t.rows(); r++)
                    for (int64_t c = t.cols(); c < t.row_stride; c++) {
                        if (r == t.rows() - 1) break;  // beyond the last row lies nothing that the tensor knows
                        REQUIRE(std::isnan(Pool::get(t, r * t.row_stride + c)));
                    }
        }
    }

    TEST_CASE("attention: another document's values, and later tokens, change no bit") {
        for (Dtype type : test_dtypes()) {
            CAPTURE(std::string(name_of(type)));
            Pool pool, again;
            Problem x(pool, type, ragged), y(again, type, ragged);
            const Segment& kept = ragged.segments[4];
            const int64_t half = kept.q_start + kept.q_len / 2;  // what comes after this token changes, as do all other documents
            for (int64_t r = 0; r < ragged.T(); r++)
                if (r < kept.q_start || r > half)
                    for (const Tensor& t : {y.in.q, y.in.k, y.in.v, y.dout})
                        for (int64_t c = 0; c < t.cols(); c++) Pool::set(t, r * t.row_stride + c, Pool::get(t, r * t.row_stride + c) * -3);
            for (Problem* problem : {&x, &y}) problem->forward(), problem->backward();
            const int64_t count = half + 1 - kept.q_start;
            for (auto [one, other] : {std::pair{x.out, y.out}, std::pair{x.lse, y.lse}, std::pair{x.d.dq, y.d.dq}})
                CHECK(same_bits(one.slice_rows(kept.q_start, count), other.slice_rows(kept.q_start, count)));
            CHECK(!same_bits(x.out, y.out));
        }
    }

    TEST_CASE("attention: the bits do not depend on the number of threads, nor on the order in which a GPU's blocks and warps run") {
        const int before = omp_get_max_threads();
        Shape slices{4, 2, on_gpu() ? 8 : 64, {}};  // of one document, in one call: they share keys
        const int64_t T = on_gpu() ? 80 : 400;
        for (int64_t begin = 0; begin < T; begin += 20) slices.segments.push_back({begin, 20, 0, begin + 20, begin});
        std::vector<Shape> table = {ragged, slices, {2, 1, on_gpu() ? 16 : 32, documents({T})}};  // the last: fewer heads than threads
        if (!on_gpu()) {                                                                          // whose segments ascend
            table.push_back(slices);
            std::reverse(table.back().segments.begin(), table.back().segments.end());
        }
        const std::vector<int> thread_counts = on_gpu() ? std::vector{2} : std::vector{2, 3, 16};
        for (Dtype type : test_dtypes())
            for (const Shape& shape : table) {
                if (type == Dtype::f64) continue;
                omp_set_num_threads(1);
                Pool pool;
                Problem one(pool, type, shape);
                one.forward(), one.backward();
                for (int threads : thread_counts) {
                    omp_set_num_threads(threads);
                    Pool again;
                    Problem many(again, type, shape);
                    many.forward(), many.backward();
                    for (size_t i = 0; i < one.results().size(); i++) CHECK(same_bits(one.results()[i], many.results()[i]));
                }
            }
        omp_set_num_threads(before);
    }

    TEST_CASE("attention: a document gives the same bits alone and packed beside others") {
        for (Dtype type : test_dtypes()) {
            if (type == Dtype::f64) continue;
            CAPTURE(std::string(name_of(type)));
            Pool pool;
            Problem packed(pool, type, ragged);
            packed.forward(), packed.backward();
            for (const Segment& s : ragged.segments) {
                Pool again, other;
                Problem part(again, type, ragged), alone(other, type, {ragged.NH, ragged.NKV, ragged.HS, documents({s.q_len})});
                auto rows = [&](const Tensor& t) { return t.slice_rows(s.q_start, s.q_len); };
                alone.in.q = rows(part.in.q), alone.in.k = rows(part.in.k), alone.in.v = rows(part.in.v), alone.dout = rows(part.dout);
                alone.forward(), alone.backward();
                for (size_t i = 0; i < alone.results().size(); i++)
                    CHECK(same_bits(alone.results()[i], packed.results()[i].slice_rows(s.q_start, s.q_len)));
            }
        }
    }

    TEST_CASE("attention: a sequence in slices gives the bits of the whole forward, and its gradients add up") {
        const int64_t T = on_gpu() ? 100 : 200;
        const Shape shape = on_gpu() ? Shape{2, 1, 16, documents({T})} : Shape{4, 2, 32, documents({T})};
        for (Dtype type : test_dtypes()) {
            if (type == Dtype::f64) continue;
            CAPTURE(std::string(name_of(type)));
            Pool pool;
            Problem whole(pool, type, shape);
            whole.forward(), whole.backward();
            Pool again;
            Problem slices(again, type, shape);
            int64_t count = 0;
            for (int64_t begin = 0, length; begin < T; begin += length, count++) {
                length = std::min<int64_t>(begin == 0 ? 45 : begin == 45 ? 1 : 64, T - begin);
                const std::vector<Segment> segment = {{0, length, 0, begin + length, begin}};
                const SegmentTable table = table_of(again, segment);
                auto rows = [&](const Tensor& t) { return t.slice_rows(begin, length); };
                const AttentionInputs in = {.q = rows(slices.in.q), .k = slices.in.k, .v = slices.in.v};
                attention_forward(rows(slices.out), rows(slices.lse), in, table, slices.params, test_stream());
                attention_backward({.dq = rows(slices.d.dq), .dk = slices.d.dk, .dv = slices.d.dv}, rows(slices.dout), rows(slices.out),
                                   rows(slices.lse), in, {.delta = rows(slices.scratch.delta)}, table, slices.params, test_stream());
                test_stream().synchronize();
            }
            CHECK(same_bits(slices.out, whole.out));
            CHECK(same_bits(slices.lse, whole.lse));
            CHECK(same_bits(slices.d.dq, whole.d.dq));
            // dk and dv are rounded to bf16 once a slice.
            const double roundings = type == Dtype::bf16 ? static_cast<double>(count) : 1;
            const Naive<double> truth(whole);
            const Naive<float> naive(whole);
            CHECK(distance(values(slices.d.dk), truth.dk) < 2 * roundings * distance(naive.dk, truth.dk));
            CHECK(distance(values(slices.d.dv), truth.dv) < 2 * roundings * distance(naive.dv, truth.dv));
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
        if (!on_gpu()) return;
        Problem large(pool, Dtype::f32, {1, 1, 264, documents({2})});
        CHECK_THROWS_AS(large.forward(), std::logic_error);
        CHECK_THROWS_AS(large.backward(), std::logic_error);
    }

}  // TEST_SUITE

}  // namespace traincu::test
