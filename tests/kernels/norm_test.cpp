#include "kernels/norm.h"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

constexpr double eps = 1e-5;

// All tensors of one norm, forward and backward; cases of all types with equal sizes have equal inputs (rounded).
struct Case {
    Pool pool;
    Dtype dtype;
    int64_t N, C;
    bool layernorm, with_branch, with_dresidual;
    Tensor inp, branch, weight, bias, dout, dresidual;
    Tensor residual, out, mean, rstd, dinp, dweight, dbias;

    Case(Dtype type, int64_t rows, int64_t cols, bool layer, bool branched, bool residual_gradient = true)
        : dtype(type), N(rows), C(cols), layernorm(layer), with_branch(branched), with_dresidual(residual_gradient) {
        inp = rounded({N, C}, 1.5, 0.3), branch = rounded({N, C}, 0.7, 0.0), weight = rounded({C}, 0.2, 1.0), bias = rounded({C}, 0.2, 0.0);
        dout = rounded({N, C}, 1.0, 0.0), dresidual = rounded({N, C}, 1.0, 0.0);
        const Dtype sums = statistics_of(dtype);
        residual = pool.poison(dtype, {N, C}), out = pool.poison(dtype, {N, C}), mean = pool.poison(sums, {N}),
        rstd = pool.poison(sums, {N});
        dinp = pool.poison(dtype, {N, C});
        dweight = pool.copy(rounded({C}, 1.0, 0.0), sums), dbias = pool.copy(rounded({C}, 1.0, 0.0), sums);
        if (!layernorm) mean = bias = dbias = Tensor();
        if (!with_branch) branch = Tensor();
        if (!with_dresidual) dresidual = Tensor();
    }
    // The values of f32, whatever the type.
    Tensor rounded(std::initializer_list<int64_t> shape, double std, double average) {
        return pool.copy(pool.normal(Dtype::f32, shape, std, average), dtype);
    }

    Tensor x() const { return with_branch ? residual : inp; }
    void forward() {
        norm_forward(with_branch ? residual : Tensor(), out, mean, rstd, inp, branch, weight, bias, eps, test_stream());
        test_stream().synchronize();
    }
    void backward(int64_t unit) {
        norm_backward(dinp, dweight, dbias, dout, dresidual, x(), mean, rstd, weight, unit, test_stream());
        test_stream().synchronize();
    }
    double loss() {  // what dout and dresidual are the gradient of
        forward();
        double total = 0;
        for (int64_t i = 0; i < N * C; i++) {
            total += Pool::get(out, i) * Pool::get(dout, i);
            if (dresidual) total += Pool::get(x(), i) * Pool::get(dresidual, i);
        }
        return total;
    }
};

// The contract in plain loops of type R, from x, the sum that forward has stored.
template <class R>
struct Naive {
    std::vector<double> out, mean, rstd, dinp, dweight, dbias;

    explicit Naive(const Case& k) : dweight(read(k.dweight)), dbias(read(k.dbias)) {
        std::vector<R> dw(dweight.begin(), dweight.end()), db(dbias.begin(), dbias.end());
        for (int64_t n = 0; n < k.N; n++) row(k, n, dw, db);
        dweight.assign(dw.begin(), dw.end()), dbias.assign(db.begin(), db.end());
    }
    void row(const Case& k, int64_t n, std::vector<R>& dw, std::vector<R>& db) {
        auto at = [&](const Tensor& t, int64_t i) { return t ? static_cast<R>(Pool::get(t, i)) : R(0); };
        R C = static_cast<R>(k.C), average = 0, variance = 0, average_g = 0, average_gx = 0;
        std::vector<R> x, xhat;
        for (int64_t c = 0; c < k.C; c++) x.push_back(at(k.x(), n * k.C + c)), average += x.back();
        average = k.layernorm ? average / C : 0;
        for (R v : x) variance += (v - average) * (v - average);
        R scale = 1 / std::sqrt(variance / C + static_cast<R>(eps));
        for (int64_t c = 0; c < k.C; c++) {
            size_t i = static_cast<size_t>(c);
            R d = at(k.dout, n * k.C + c), g = d * at(k.weight, c);
            xhat.push_back((x[i] - average) * scale);
            out.push_back(xhat[i] * at(k.weight, c) + at(k.bias, c));
            average_g += g, average_gx += g * xhat[i];
            dw[i] += d * xhat[i];
            if (k.dbias) db[i] += d;
        }
        average_g = k.layernorm ? average_g / C : 0, average_gx /= C;
        for (int64_t c = 0; c < k.C; c++) {
            R g = at(k.dout, n * k.C + c) * at(k.weight, c);
            dinp.push_back(at(k.dresidual, n * k.C + c) + scale * (g - average_g - xhat[static_cast<size_t>(c)] * average_gx));
        }
        mean.push_back(average), rstd.push_back(scale);
    }
    static std::vector<double> read(const Tensor& t) {
        std::vector<double> values;
        for (int64_t i = 0; i < t.numel(); i++) values.push_back(Pool::get(t, i));
        return values;
    }
};

Tensor view_of(std::vector<double>& x) { return Tensor(x.data(), Dtype::f64, {static_cast<int64_t>(x.size())}); }

void check_against_loops(Case& k, int64_t unit) {
    auto check = [&](const char* name, const Tensor& result, std::vector<double>& truth, std::vector<double>& in_float) {
        if (!result) return;
        INFO(std::string(name), " N=", k.N, " C=", k.C, " unit=", unit, " layernorm=", k.layernorm, " branch=", k.with_branch, " ",
             name_of(k.dtype));
        double error = relative_error(result, view_of(truth));
        std::vector<double> naive = as_stored(in_float, result.dtype);
        if (k.dtype == Dtype::f64)
            CHECK(error < 1e-12);
        else
            CHECK(error <= allowed(relative_error(view_of(naive), view_of(truth)), result.numel(), result.dtype));
    };
    k.forward();
    if (k.with_branch) {
        std::vector<double> sum;
        for (int64_t i = 0; i < k.N * k.C; i++) sum.push_back(Pool::get(k.inp, i) + Pool::get(k.branch, i));
        std::vector<double> in_float(sum.begin(), sum.end());
        for (double& x : in_float) x = static_cast<float>(x);
        check("residual", k.residual, sum, in_float);
    }
    Naive<double> exact(k);
    Naive<float> naive(k);
    k.backward(unit);
    check("out", k.out, exact.out, naive.out);
    check("mean", k.mean, exact.mean, naive.mean);
    check("rstd", k.rstd, exact.rstd, naive.rstd);
    // The layernorm of one number is its bias: the gradient is zero, computed as the difference of two equal numbers times a large rstd.
    bool cancels = k.C == 1 && k.layernorm && k.dtype != Dtype::f64;
    if (!cancels) check("dinp", k.dinp, exact.dinp, naive.dinp);
    check("dweight", k.dweight, exact.dweight, naive.dweight);
    check("dbias", k.dbias, exact.dbias, naive.dbias);
}

}  // namespace

TEST_SUITE("norm") {
    TEST_CASE("norm: forward and backward agree with plain loops") {
        for (Dtype dtype : test_dtypes())
            for (int64_t N : {1, 17, 300})
                for (int64_t C : {1, 7, 96, 129})
                    for (bool layernorm : {false, true})
                        for (bool branch : {false, true})
                            for (int64_t unit : {0, 64}) {
                                Case k(dtype, N, C, layernorm, branch, branch);
                                check_against_loops(k, unit);
                            }
    }

    TEST_CASE("norm: long rows agree with plain loops, whichever kernel takes them") {
        for (Dtype dtype : test_dtypes())
            for (int64_t C : {264, 520, 768, 1040, 2048, 2056, 4104, 8200})
                for (bool layernorm : {false, true}) {
                    Case k(dtype, 5, C, layernorm, layernorm, layernorm);
                    check_against_loops(k, 0);
                }
    }

    TEST_CASE("norm: rows that do not lie on 16 bytes") {
        for (Dtype dtype : test_dtypes())
            for (Tensor Case::*member : {&Case::inp, &Case::branch, &Case::out, &Case::residual, &Case::weight, &Case::dout, &Case::dinp}) {
                Case k(dtype, 3, 48, true, true), moved(dtype, 3, 48, true, true);
                Tensor& t = moved.*member;
                Tensor wider = moved.pool.poison(dtype, {t.numel() + 1});
                for (int64_t i = 0; i < t.numel(); i++) Pool::set(wider, i + 1, Pool::get(t, i));
                t.data = wider.slice_rows(1, t.numel()).data;
                check_against_loops(moved, 0);
                k.forward();
                CHECK(equal_bits(k.residual, moved.residual));
                CHECK(std::isnan(Pool::get(wider, 0)));
            }
    }

    TEST_CASE("norm: backward is the gradient of forward" * doctest::skip(on_gpu())) {
        for (bool layernorm : {false, true})
            for (bool branch : {false, true}) {
                Case k(Dtype::f64, 9, 7, layernorm, branch);
                for (Tensor t : {k.dweight, k.dbias})
                    for (int64_t i = 0; i < t.numel(); i++) Pool::set(t, i, 0);
                k.forward();
                k.backward(4);
                auto loss = [&] { return k.loss(); };
                CHECK(gradient_error(loss, k.inp, k.dinp) < 1e-8);
                if (branch) CHECK(gradient_error(loss, k.branch, k.dinp) < 1e-8);
                CHECK(gradient_error(loss, k.weight, k.dweight) < 1e-8);
                if (layernorm) CHECK(gradient_error(loss, k.bias, k.dbias) < 1e-8);
            }
    }

    TEST_CASE("norm: a constant far from zero does not spoil the variance") {
        for (int64_t C : {96, 97}) {
            Case k(Dtype::f32, 5, C, true, false);
            for (int64_t i = 0; i < k.inp.numel(); i++) Pool::set(k.inp, i, 1000 + 0.01 * static_cast<double>(i % 7));
            check_against_loops(k, 0);
        }
    }

    TEST_CASE("norm: without a branch, residual is not written; without dresidual, dinp is the norm's term alone") {
        for (bool layernorm : {false, true}) {
            Case k(Dtype::f32, 17, 96, layernorm, false), alone(Dtype::f32, 17, 96, layernorm, false, false);
            norm_forward(k.residual, k.out, k.mean, k.rstd, k.inp, {}, k.weight, k.bias, eps, test_stream());
            test_stream().synchronize();
            CHECK(equal_bits(k.residual, k.pool.poison(Dtype::f32, {17, 96})));
            for (int64_t i = 0; i < k.dresidual.numel(); i++) Pool::set(k.dresidual, i, 0);
            k.backward(0);
            alone.forward();
            alone.backward(0);
            CHECK(equal_bits(alone.dinp, k.dinp));
        }
    }

    TEST_CASE("norm: residual may be the memory of inp or branch, dinp that of dresidual") {
        for (Dtype dtype : test_dtypes())
            for (int64_t C : {129, 136}) {
                Case k(dtype, 37, C, true, true);
                k.forward();
                k.backward(16);
                Case in_place(dtype, 37, C, true, true), in_branch(dtype, 37, C, true, true);
                in_place.residual = in_place.inp, in_place.dinp = in_place.dresidual, in_branch.residual = in_branch.branch;
                in_place.forward();
                in_place.backward(16);
                in_branch.forward();
                CHECK(equal_bits(in_place.residual, k.residual));
                CHECK(equal_bits(in_branch.residual, k.residual));
                CHECK(equal_bits(in_place.out, k.out));
                CHECK(equal_bits(in_branch.out, k.out));
                CHECK(equal_bits(in_place.dinp, k.dinp));
                CHECK(equal_bits(in_place.dweight, k.dweight));
                CHECK(equal_bits(in_place.dbias, k.dbias));
            }
    }

    TEST_CASE("norm: the same bits on any number of threads") {
        for (int64_t unit : {0, 64}) {
            Case one(Dtype::f32, 300, 129, true, true);
            on_threads(1, [&] { one.forward(), one.backward(unit); });
            for (int threads : {2, 3}) {
                Case more(Dtype::f32, 300, 129, true, true);
                on_threads(threads, [&] { more.forward(), more.backward(unit); });
                for (auto member : {&Case::residual, &Case::out, &Case::mean, &Case::rstd, &Case::dinp, &Case::dweight, &Case::dbias})
                    CHECK(equal_bits(one.*member, more.*member));
            }
        }
    }

    TEST_CASE("norm: calls that split at multiples of the unit give the bits of one call") {
        for (int64_t unit : {1, 5, 16, 64})
            for (int64_t units_per_call : {1, 3}) {
                const int64_t C = units_per_call == 1 ? 33 : 40;
                Case whole(Dtype::f32, 300, C, true, false), split(Dtype::f32, 300, C, true, false);
                whole.forward();
                whole.backward(unit);
                split.forward();
                int64_t step = unit * units_per_call;
                for (int64_t begin = 0; begin < split.N; begin += step) {
                    auto part = [&](const Tensor& t) { return t.slice_rows(begin, std::min(step, split.N - begin)); };
                    norm_backward(part(split.dinp), split.dweight, split.dbias, part(split.dout), part(split.dresidual), part(split.inp),
                                  part(split.mean), part(split.rstd), split.weight, unit, test_stream());
                }
                test_stream().synchronize();
                CHECK(equal_bits(whole.dinp, split.dinp));
                CHECK(equal_bits(whole.dweight, split.dweight));
                CHECK(equal_bits(whole.dbias, split.dbias));
            }
    }

    TEST_CASE("norm: where the workspace holds a few units at a time, these take turns and give the same bits" * doctest::skip(!on_gpu())) {
        Case k(Dtype::bf16, 300, 520, true, false), small(Dtype::bf16, 300, 520, true, false);
        k.forward(), k.backward(20);
        small.forward();
        Stream stream(Device::cuda, 3 * 2 * 520 * 4);
        norm_backward(small.dinp, small.dweight, small.dbias, small.dout, small.dresidual, small.inp, small.mean, small.rstd, small.weight,
                      20, stream);
        stream.synchronize();
        for (auto member : {&Case::dinp, &Case::dweight, &Case::dbias}) CHECK(equal_bits(k.*member, small.*member));
    }

    TEST_CASE("norm: no rows, nothing added; wrong shapes and strided views are refused") {
        Case k(Dtype::f32, 0, 8, true, false);
        Tensor before = k.pool.copy(k.dweight, Dtype::f32);
        k.forward();
        k.backward(0);
        CHECK(equal_bits(k.dweight, before));
        Case wrong(Dtype::f32, 4, 8, true, false);
        wrong.weight = wrong.weight.slice_rows(0, 7);
        CHECK_THROWS_AS(wrong.forward(), std::logic_error);
        Case strided(Dtype::f32, 4, 8, false, false);
        strided.inp = strided.pool.zeros(Dtype::f32, {4, 16}).slice_cols(0, 8);
        CHECK_THROWS_AS(strided.forward(), std::logic_error);
    }
}
