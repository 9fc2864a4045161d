#include "kernels/add.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

TEST_SUITE("add") {
    TEST_CASE("add: every element once, exactly, wherever the arrays begin; what lies beside them stays") {
        for (Dtype dtype : {Dtype::f32, Dtype::f64})
            for (int64_t n : {1, 3, 4, 5, 17, 2048, 2049, 5003})
                for (auto [to_offset, from_offset] : {std::pair<int64_t, int64_t>{4, 4}, {4, 5}, {5, 5}, {7, 4}}) {
                    CAPTURE(std::string(name_of(dtype)));
                    CAPTURE(n);
                    CAPTURE(to_offset);
                    CAPTURE(from_offset);
                    Pool pool;
                    Tensor wide = pool.normal(dtype, {n + 16}), from = pool.normal(dtype, {n + 16}, 1e3), before = pool.copy(wide, dtype);
                    traincu::add(wide.slice_rows(to_offset, n), from.slice_rows(from_offset, n), test_stream());
                    test_stream().synchronize();
                    int64_t wrong = 0;
                    for (int64_t i = 0; i < n + 16; i++) {
                        const int64_t at = i - to_offset;
                        double expected = Pool::get(before, i);
                        if (at >= 0 && at < n) expected += Pool::get(from, from_offset + at);
                        if (dtype == Dtype::f32)
                            expected = static_cast<float>(expected);  // the sum of two floats in double is exact enough
                        wrong += Pool::get(wide, i) != expected;
                    }
                    CHECK(wrong == 0);
                }
    }

    TEST_CASE("add: the same bits on any number of threads" * doctest::skip(on_gpu())) {
        Pool pool;
        Tensor from = pool.normal(Dtype::f32, {50001}), one = pool.normal(Dtype::f32, {50001}), many = pool.copy(one, Dtype::f32);
        on_threads(1, [&] { traincu::add(one, from, test_stream()); });
        on_threads(5, [&] { traincu::add(many, from, test_stream()); });
        CHECK(equal_bits(one, many));
    }

    TEST_CASE("add: nothing to add, and what is refused") {
        Pool pool;
        Tensor x = pool.zeros(Dtype::f32, {4, 8});
        traincu::add(x.slice_rows(0, 0), x.slice_rows(1, 0), test_stream());
        CHECK_THROWS_AS(traincu::add(x, pool.zeros(Dtype::f32, {4, 9}), test_stream()), std::logic_error);
        CHECK_THROWS_AS(traincu::add(x, pool.zeros(Dtype::f64, {4, 8}), test_stream()), std::logic_error);
        CHECK_THROWS_AS(traincu::add(x, pool.zeros(Dtype::f32, {4, 16}).slice_cols(0, 8), test_stream()), std::logic_error);
        CHECK_THROWS_AS(traincu::add(pool.zeros(Dtype::bf16, {4}), pool.zeros(Dtype::bf16, {4}), test_stream()), std::logic_error);
    }
}
