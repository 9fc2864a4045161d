#include "kernels/classifier.h"

#include <doctest/doctest.h>

#include <limits>
#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

struct Width {
    int64_t V, Vp;
};
struct Split {
    int threads;
    int64_t rows;
};

struct Case {
    Pool pool;
    Tensor logits, targets, weights, losses;
    ClassifierParams params;

    // Columns [V,Vp) hold NaN; every fifth target is ignored, every seventh weight is 0, the others differ.
    Case(Dtype dtype, int64_t N, int64_t V, int64_t Vp, double std, double z_loss) {
        logits = pool.poison(dtype, {N, Vp}), targets = pool.integers({N}, V), weights = pool.zeros(Dtype::f32, {N}),
        losses = pool.poison(statistics_of(dtype), {N});
        Tensor values = pool.normal(Dtype::f32, {N, V}, std);
        for (int64_t n = 0; n < N; n++) {
            for (int64_t v = 0; v < V; v++) Pool::set(logits, n * Vp + v, Pool::get(values, n * V + v));
            if (n % 5 == 3) Pool::set(targets, n, -1);
            Pool::set(weights, n, n % 7 == 5 ? 0.0 : 0.25 + 0.5 * static_cast<double>(n % 3));
        }
        params.vocab_size = V, params.loss_scale = 0.37, params.z_loss = z_loss, params.write_gradient = true;
    }
    int64_t N() const { return logits.rows(); }
    int64_t Vp() const { return logits.cols(); }
    void run() {
        classifier(losses, logits, targets, weights, params, test_stream());
        test_stream().synchronize();
    }
    double weighted_loss() { return run(), params.loss_scale * total(); }
    double total() const {
        double sum = 0;
        for (int64_t n = 0; n < N(); n++) sum += Pool::get(losses, n);
        return sum;
    }
};

// Loss and gradient in plain loops of type R.
template <class R>
struct Naive {
    std::vector<double> losses, gradient;

    explicit Naive(const Case& k) {
        for (int64_t n = 0; n < k.N(); n++) row(k, n);
    }
    void row(const Case& k, int64_t n) {
        int64_t target = static_cast<int64_t>(Pool::get(k.targets, n)), V = k.params.vocab_size;
        R weight = target < 0 ? R(0) : static_cast<R>(Pool::get(k.weights, n)), largest = -std::numeric_limits<R>::infinity(), sum = 0;
        auto logit = [&](int64_t v) { return static_cast<R>(Pool::get(k.logits, n * k.Vp() + v)); };
        for (int64_t v = 0; v < V; v++) largest = std::max(largest, logit(v));
        for (int64_t v = 0; v < V; v++) sum += std::exp(logit(v) - largest);
        R lse = largest + std::log(sum), z = static_cast<R>(k.params.z_loss), scale = static_cast<R>(k.params.loss_scale) * weight;
        losses.push_back(weight == 0 ? 0 : static_cast<double>(weight * (lse - logit(target) + z * lse * lse)));
        for (int64_t v = 0; v < k.Vp(); v++) {
            if (v >= V || weight == 0)
                gradient.push_back(0);
            else
                gradient.push_back(
                    static_cast<double>(scale * (std::exp(logit(v) - lse) * (1 + 2 * z * lse) - (v == target ? R(1) : R(0)))));
        }
    }
};

Tensor view_of(std::vector<double>& x) { return Tensor(x.data(), Dtype::f64, {static_cast<int64_t>(x.size())}); }

}  // namespace

TEST_SUITE("classifier") {
    TEST_CASE("classifier: losses and gradient agree with plain loops; padding is neither read nor given a gradient") {
        for (Dtype dtype : test_dtypes())
            for (int64_t N : {1, 17, 300})
                for (Width width : {Width{1, 1}, {7, 7}, {7, 16}, {129, 136}, {321, 384}, {8500, 8512}})
                    for (double z_loss : {0.0, 1e-2}) {
                        int64_t V = width.V, Vp = width.Vp;
                        if (V > 1000 && N > 17) continue;
                        INFO("N=", N, " V=", V, " Vp=", Vp, " z_loss=", z_loss);
                        Case k(dtype, N, V, Vp, 3.0, z_loss);
                        Naive<double> exact(k);
                        Naive<float> naive(k);
                        k.run();
                        auto check = [&](const Tensor& result, std::vector<double>& truth, std::vector<double>& in_float) {
                            double error = relative_error(result, view_of(truth));
                            std::vector<double> naive_result = as_stored(in_float, result.dtype);
                            if (dtype == Dtype::f64)
                                CHECK(error < 1e-13);
                            else
                                CHECK(error <=
                                      allowed(relative_error(view_of(naive_result), view_of(truth)), result.numel(), result.dtype));
                        };
                        check(k.losses, exact.losses, naive.losses);
                        check(k.logits, exact.gradient, naive.gradient);
                        bool zero = true;
                        for (int64_t n = 0; n < N; n++)
                            for (int64_t v = 0; v < Vp; v++)
                                if (v >= V || n % 5 == 3 || n % 7 == 5) zero = zero && Pool::get(k.logits, n * Vp + v) == 0;
                        CHECK(zero);
                    }
    }

    TEST_CASE("classifier: the gradient is that of loss_scale times the sum of losses, with and without z-loss" * doctest::skip(on_gpu())) {
        for (double z_loss : {0.0, 0.1}) {
            Case k(Dtype::f64, 9, 13, 16, 1.5, z_loss), gradient(Dtype::f64, 9, 13, 16, 1.5, z_loss);
            gradient.run();
            k.params.write_gradient = false;
            CHECK(gradient_error([&] { return k.weighted_loss(); }, k.logits, gradient.logits) < 1e-8);
        }
    }

    TEST_CASE("classifier: without write_gradient the logits keep their bits, and the losses are the same") {
        const Dtype dtype = test_dtypes().back();
        Case k(dtype, 17, 129, 136, 3.0, 1e-3), only_loss(dtype, 17, 129, 136, 3.0, 1e-3);
        Tensor before = only_loss.pool.copy(only_loss.logits, dtype);
        only_loss.params.write_gradient = false;
        k.run();
        only_loss.run();
        CHECK(equal_bits(only_loss.logits, before));
        CHECK(relative_error(only_loss.losses, k.losses) < 1e-7);
    }

    TEST_CASE("classifier: logits of +-8192 are no trouble") {
        for (Dtype dtype : test_dtypes()) {
            Case k(dtype, 4, 9, 16, 1.0, 0.0);
            for (int64_t i = 0; i < k.logits.numel(); i++)
                if (i % 16 < 9) Pool::set(k.logits, i, i % 16 % 2 == 0 ? 8192 : -8192);  // five equal maxima a row
            for (int64_t n = 0; n < 4; n++) Pool::set(k.weights, n, 1.0), Pool::set(k.targets, n, static_cast<double>(n));
            k.run();
            for (int64_t n = 0; n < 4; n++) {
                CHECK(Pool::get(k.losses, n) == doctest::Approx(std::log(5.0) + (n % 2 == 0 ? 0 : 16384)).epsilon(1e-7));
                for (int64_t v = 0; v < 9; v++)
                    CHECK(Pool::get(k.logits, n * 16 + v) == doctest::Approx(0.37 * ((v % 2 == 0 ? 0.2 : 0.0) - (v == n ? 1 : 0)))
                                                                 .epsilon(dtype == Dtype::bf16 ? 0x1p-9 : 1e-6));
            }
        }
    }

    TEST_CASE("classifier: a large logit is found in every column, and not in the padding") {
        constexpr int64_t V = 37, Vp = 48;
        for (int64_t v = 0; v < Vp; v++) {
            Case k(Dtype::f32, 1, V, Vp, 1.0, 0.0);
            Pool::set(k.logits, v, 1e3), Pool::set(k.targets, 0, static_cast<double>(v % V)), Pool::set(k.weights, 0, 1.0);
            Naive<double> exact(k);
            k.run();
            CHECK(Pool::get(k.losses, 0) == doctest::Approx(exact.losses[0]));
            CHECK(relative_error(k.logits, view_of(exact.gradient)) < 1e-6);
        }
    }

    TEST_CASE("classifier: equal logits give log V; a NaN logit gives a NaN loss in its row only") {
        Case k(Dtype::f32, 3, 100, 100, 0.0, 0.0);
        for (int64_t n = 0; n < 3; n++) Pool::set(k.weights, n, 1.0);
        for (int64_t v : {0, 31, 99}) {
            Case broken(Dtype::f32, 3, 100, 100, 0.0, 0.0);
            Pool::set(broken.logits, 100 + v, std::nan(""));
            for (int64_t n = 0; n < 3; n++) Pool::set(broken.weights, n, 1.0);
            broken.run();
            CHECK(Pool::get(broken.losses, 0) == doctest::Approx(std::log(100.0)));
            CHECK(std::isnan(Pool::get(broken.losses, 1)));
            CHECK(Pool::get(broken.losses, 2) == doctest::Approx(std::log(100.0)));
        }
        // where it has no weight it does no harm
        Pool::set(k.logits, 100, std::nan("")), Pool::set(k.weights, 1, 0.0);
        k.run();
        CHECK(Pool::get(k.losses, 1) == 0);
        CHECK(Pool::get(k.logits, 100) == 0);
    }

    TEST_CASE("classifier: the same bits on any number of threads and for any chunk of rows") {
        for (Dtype dtype : test_dtypes()) {
            Case whole(dtype, 37, 129, 136, 3.0, 1e-3);
            on_threads(1, [&] { whole.run(); });
            for (Split split : {Split{2, 37}, {3, 37}, {2, 5}, {1, 1}}) {
                Case k(dtype, 37, 129, 136, 3.0, 1e-3);
                on_threads(split.threads, [&] {
                    for (int64_t begin = 0; begin < 37; begin += split.rows) {
                        auto part = [&](const Tensor& t) { return t.slice_rows(begin, std::min<int64_t>(split.rows, 37 - begin)); };
                        classifier(part(k.losses), part(k.logits), part(k.targets), part(k.weights), k.params, test_stream());
                    }
                    test_stream().synchronize();
                });
                CHECK(equal_bits(k.losses, whole.losses));
                CHECK(equal_bits(k.logits, whole.logits));
            }
        }
    }

    TEST_CASE("classifier: a target outside [-1, V) is refused, padding included" * doctest::skip(on_gpu())) {
        for (double target : {-2.0, 7.0, 8.0}) {
            Case k(Dtype::f32, 3, 7, 8, 1.0, 0.0);
            Pool::set(k.targets, 1, target);
            CHECK_THROWS_AS(k.run(), std::logic_error);
        }
    }
}
