#include "kernels/reduce.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// The two from a total of zero.
double added(void (*op)(Tensor, Tensor, Stream&), const Tensor& x) {
    Pool pool;
    Tensor total = pool.zeros(Dtype::f64, {1});
    op(total, x, test_stream());
    test_stream().synchronize();
    return Pool::get(total, 0);
}
double sum(const Tensor& x) { return added(traincu::sum, x); }
double sum_squares(const Tensor& x) { return added(traincu::sum_squares, x); }

}  // namespace

TEST_SUITE("reduce") {
    TEST_CASE("reduce: sums of any size and shape, in double from all types") {
        for (int64_t n : {0, 1, 7, 17, 4095, 4096, 4097, 20001}) {
            for (Dtype dtype : test_dtypes()) {
                Pool pool;
                Tensor x = pool.normal(dtype, {n}, 1.0, 0.5);
                long double total = 0, squares = 0;
                for (int64_t i = 0; i < n; i++)
                    total += Pool::get(x, i), squares += static_cast<long double>(Pool::get(x, i)) * Pool::get(x, i);
                CHECK(sum(x) == doctest::Approx(static_cast<double>(total)).epsilon(1e-13));
                CHECK(sum_squares(x) == doctest::Approx(static_cast<double>(squares)).epsilon(1e-13));
            }
        }
        for (int64_t n : {1, 300, 10001}) {  // sums of sums, on a GPU too
            Pool pool;
            const Tensor x = pool.normal(Dtype::f64, {n});
            long double total = 0;
            for (int64_t i = 0; i < n; i++) total += static_cast<long double>(Pool::get(x, i));
            CHECK(std::abs(sum(x) - static_cast<double>(total)) < 1e-13 * static_cast<double>(n));
        }
        Pool pool;
        Tensor x = pool.normal(Dtype::f32, {3, 5, 7}), flat(x.data, Dtype::f32, {105});
        CHECK(sum(x) == sum(flat));
    }

    TEST_CASE("reduce: the sum is added to the total") {
        Pool pool;
        Tensor x = pool.filled(Dtype::f32, {5000}, 0.5), total = pool.filled(Dtype::f64, {1}, 3.0);
        traincu::sum(total, x, test_stream());
        traincu::sum_squares(total, x, test_stream());
        test_stream().synchronize();
        CHECK(Pool::get(total, 0) == 3 + 2500 + 1250);
    }

    TEST_CASE("reduce: whole numbers are summed exactly, every element once") {
        Pool pool;
        Tensor x = pool.integers({10001}, 1000);
        Tensor real = pool.copy(x, Dtype::f32);
        double total = 0, squares = 0;
        for (int64_t i = 0; i < x.numel(); i++) total += Pool::get(x, i), squares += Pool::get(x, i) * Pool::get(x, i);
        CHECK(sum(real) == total);
        CHECK(sum_squares(real) == squares);
        if (!on_gpu()) return;
        Stream stream(Device::cuda, 2 * 8);  // a workspace for two blocks' sums
        Tensor in_turns = pool.zeros(Dtype::f64, {1});
        traincu::sum_squares(in_turns, real, stream);
        stream.synchronize();
        CHECK(Pool::get(in_turns, 0) == squares);
    }

    TEST_CASE("reduce: small terms are not lost beside large ones, as they would be in float") {
        Pool pool;
        Tensor x = pool.filled(Dtype::f32, {100000}, 1e-4);
        Pool::set(x, 0, 1e6);
        double small = static_cast<double>(1e-4f);
        CHECK(sum(x) == doctest::Approx(1e6 + 99999 * small).epsilon(1e-13));
        Pool::set(x, 5, std::nan(""));
        CHECK(std::isnan(sum(x)));
        CHECK(std::isnan(sum_squares(x)));
    }

    TEST_CASE("reduce: the same bits on any number of threads, and block by block" * doctest::skip(on_gpu())) {
        Pool pool;
        Tensor x = pool.normal(Dtype::f64, {400001});  // f64: the squares of f32 are summed almost exactly in any order
        double one = 0;
        on_threads(1, [&] { one = sum_squares(x); });
        for (int threads : {2, 3}) on_threads(threads, [&] { CHECK(sum_squares(x) == one); });
        double by_blocks = 0;
        for (int64_t begin = 0; begin < x.numel(); begin += 4096)
            by_blocks += sum_squares(x.slice_rows(begin, std::min<int64_t>(4096, x.numel() - begin)));
        CHECK(by_blocks == one);
    }

    TEST_CASE("reduce: the sum has the same bits however the elements are split into calls at multiples of 256") {
        Pool pool;
        const int64_t n = 8 * 2048 + 100;
        Tensor x = pool.normal(Dtype::f32, {n});  // of 2^-40 to 2^40: in double too the order of such a sum is seen
        for (int64_t i = 0; i < n; i++) Pool::set(x, i, std::ldexp(Pool::get(x, i), static_cast<int>(i * 7919 % 81) - 40));
        Tensor whole = pool.filled(Dtype::f64, {1}, 0.1);
        traincu::sum(whole, x, test_stream());
        for (int64_t step : {256, 512, 2048, 5 * 256, 64 * 256}) {
            CAPTURE(step);
            Tensor total = pool.filled(Dtype::f64, {1}, 0.1);
            on_threads(step % 512 == 0 ? 5 : 2, [&] {
                for (int64_t begin = 0; begin < n; begin += step)
                    traincu::sum(total, x.slice_rows(begin, std::min(step, n - begin)), test_stream());
                test_stream().synchronize();
            });
            CHECK(equal_bits(total, whole));
        }
    }

    TEST_CASE("reduce: the same bits wherever the elements lie" * doctest::skip(!on_gpu())) {
        for (Dtype dtype : test_dtypes()) {
            Pool pool;
            Tensor x = pool.normal(dtype, {9001}, 1e3), wide = pool.zeros(dtype, {9002}), moved = wide.slice_rows(1, 9001);
            Pool::set(x, 77, 1e-9);
            for (int64_t i = 0; i < 9001; i++) Pool::set(moved, i, Pool::get(x, i));
            CHECK(sum(moved) == sum(x));
            CHECK(sum_squares(moved) == sum_squares(x));
        }
    }

    TEST_CASE("reduce: a strided view is refused") {
        Pool pool;
        CHECK_THROWS_AS(sum(pool.zeros(Dtype::f32, {4, 8}).slice_cols(0, 4)), std::logic_error);
    }
}
