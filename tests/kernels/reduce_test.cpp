#include "kernels/reduce.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

double sum(const Tensor& x, Stream& stream) {
    double total = 0;
    sum(Tensor(&total, Dtype::f64, {1}), x, stream);
    return total;
}
double sum_squares(const Tensor& x, Stream& stream) {
    double total = 0;
    sum_squares(Tensor(&total, Dtype::f64, {1}), x, stream);
    return total;
}

}  // namespace

TEST_SUITE("reduce") {
    TEST_CASE("reduce: sums of any size and shape, in double from both types") {
        Stream stream;
        for (int64_t n : {0, 1, 7, 17, 4095, 4096, 4097, 20001}) {
            for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
                Pool pool;
                Tensor x = pool.normal(dtype, {n}, 1.0, 0.5);
                long double total = 0, squares = 0;
                for (int64_t i = 0; i < n; i++)
                    total += Pool::get(x, i), squares += static_cast<long double>(Pool::get(x, i)) * Pool::get(x, i);
                CHECK(sum(x, stream) == doctest::Approx(static_cast<double>(total)).epsilon(1e-13));
                CHECK(sum_squares(x, stream) == doctest::Approx(static_cast<double>(squares)).epsilon(1e-13));
            }
        }
        Pool pool;
        Tensor x = pool.normal(Dtype::f32, {3, 5, 7}), flat(x.data, Dtype::f32, {105});
        CHECK(sum(x, stream) == sum(flat, stream));
    }

    TEST_CASE("reduce: whole numbers are summed exactly, every element once") {
        Stream stream;
        Pool pool;
        Tensor x = pool.integers({10001}, 1000);
        Tensor real = pool.copy(x, Dtype::f32);
        double total = 0, squares = 0;
        for (int64_t i = 0; i < x.numel(); i++) total += Pool::get(x, i), squares += Pool::get(x, i) * Pool::get(x, i);
        CHECK(sum(real, stream) == total);
        CHECK(sum_squares(real, stream) == squares);
    }

    TEST_CASE("reduce: small terms are not lost beside large ones, as they would be in float") {
        Stream stream;
        Pool pool;
        Tensor x = pool.filled(Dtype::f32, {100000}, 1e-4);
        Pool::set(x, 0, 1e6);
        double small = static_cast<double>(1e-4f);
        CHECK(sum(x, stream) == doctest::Approx(1e6 + 99999 * small).epsilon(1e-13));
        Pool::set(x, 5, std::nan(""));
        CHECK(std::isnan(sum(x, stream)));
        CHECK(std::isnan(sum_squares(x, stream)));
    }

    TEST_CASE("reduce: the same bits on any number of threads, and block by block") {
        Stream stream;
        Pool pool;
        Tensor x = pool.normal(Dtype::f64, {400001});  // f64: the squares of f32 are summed almost exactly in any order
        double one = 0;
        on_threads(1, [&] { one = sum_squares(x, stream); });
        for (int threads : {2, 3}) on_threads(threads, [&] { CHECK(sum_squares(x, stream) == one); });
        double by_blocks = 0;
        for (int64_t begin = 0; begin < x.numel(); begin += 4096)
            by_blocks += sum_squares(x.slice_rows(begin, std::min<int64_t>(4096, x.numel() - begin)), stream);
        CHECK(by_blocks == one);
    }

    TEST_CASE("reduce: a strided view is refused") {
        Stream stream;
        Pool pool;
        CHECK_THROWS_AS(sum(pool.zeros(Dtype::f32, {4, 8}).slice_cols(0, 4), stream), std::logic_error);
    }
}
