#include "kernels/copy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

namespace traincu::test {
namespace {

const Dtype all_dtypes[] = {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::i32, Dtype::i64};

// Columns [first, first + C) of a matrix of whole numbers; `wide` is the matrix.
struct View {
    View(Pool& pool, Dtype dtype, int64_t N, int64_t C, int64_t first, int64_t width)
        : wide(pool.copy(pool.integers({N, width}, 200), dtype)), part(wide.slice_cols(first, C)) {}
    Tensor wide, part;
};

// What binary16 is, by arithmetic on doubles alone: the number of these bits, and the number nearest to x, the even one of two.
double half_number(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    return std::copysign(exponent < 31 ? size : mantissa == 0 ? HUGE_VAL : std::nan(""), bits >> 15 ? -1.0 : 1.0);
}
double nearest_half(double x) {
    if (!std::isfinite(x)) return x;
    int exponent = 0;
    std::frexp(x, &exponent);  // |x| < 2^exponent; numbers below 2^-14 are multiples of 2^-24
    const double step = std::ldexp(1.0, std::max(exponent, -13) - 11), y = std::nearbyint(x / step) * step;
    return std::fabs(y) > 65504 ? std::copysign(HUGE_VAL, x) : y;
}
bool same_number(double a, double b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

}  // namespace

TEST_SUITE("copy") {
    TEST_CASE("copy: zero and copy change the view and nothing beside it, in every type") {
        for (Dtype dtype : all_dtypes)
            for (int64_t N : {1, 17, 129})
                for (int64_t C : {1, 7, 16, 130})
                    for (int64_t gap : {0, 1, 16}) {
                        Pool pool;
                        View to(pool, dtype, N, C, gap, C + 2 * gap), from(pool, dtype, N, C, 0, C + gap);
                        Tensor before = pool.copy(to.wide, dtype);
                        auto check = [&](auto expected) {
                            test_stream().synchronize();
                            int64_t right = 0;
                            for (int64_t i = 0; i < to.wide.numel(); i++) {
                                const int64_t n = i / to.wide.cols(), c = i % to.wide.cols() - gap;
                                right += Pool::get(to.wide, i) == (c >= 0 && c < C ? expected(n, c) : Pool::get(before, i));
                            }
                            CHECK(right == to.wide.numel());
                        };
                        copy(to.part, from.part, test_stream());
                        check([&](int64_t n, int64_t c) { return Pool::get(from.wide, n * (C + gap) + c); });
                        zero(to.part, test_stream());
                        check([](int64_t, int64_t) { return 0.0; });
                    }
    }

    TEST_CASE("copy: f32 is rounded to the nearest bf16, the even one of two; back it is exact") {
        std::vector<double> values = {0.0, -0.0, 1.0, 1.00390625, 1.01171875, 1.0039063, 65504, 3.4028234e38, -1e-40, 1e-45, 2.5e-38};
        values.push_back(std::numeric_limits<double>::infinity()), values.push_back(-std::numeric_limits<double>::infinity());
        for (int64_t n : {1, 17, 1000, 4096})
            for (int64_t gap : {0, 3, 8}) {
                Pool pool;
                Tensor from = pool.normal(Dtype::f32, {3, n + gap}).slice_cols(gap, n),
                       to = pool.zeros(Dtype::bf16, {3, n + gap}).slice_cols(0, n);
                Tensor back = pool.poison(Dtype::f32, {3, n});
                for (size_t i = 0; i < values.size(); i++)
                    if (static_cast<int64_t>(i) < n) from.as<float>()[i] = static_cast<float>(values[i]);
                copy(to, from, test_stream());
                copy(back, to, test_stream());
                test_stream().synchronize();
                for (int64_t row = 0; row < 3; row++)
                    for (int64_t c = 0; c < n; c++) {
                        const uint16_t expected = float_to_bf16(from.as<float>()[row * from.row_stride + c]);
                        CHECK(to.as<bf16>()[row * to.row_stride + c].bits == expected);
                        CHECK(std::bit_cast<uint32_t>(back.as<float>()[row * n + c]) == uint32_t{expected} << 16);
                    }
            }
    }

    TEST_CASE("copy: every f16 is widened exactly, and comes back" * doctest::skip(!on_gpu())) {
        Pool pool;
        constexpr int64_t all = 1 << 16;
        Tensor from = pool.zeros(Dtype::f16, {all}), to = pool.poison(Dtype::f32, {all}), back = pool.zeros(Dtype::f16, {all});
        for (int64_t i = 0; i < all; i++) from.as<f16>()[i].bits = static_cast<uint16_t>(i);
        copy(to, from, test_stream());
        copy(back, to, test_stream());
        test_stream().synchronize();
        int64_t wide = 0, returned = 0;
        for (int64_t i = 0; i < all; i++) {
            const uint16_t bits = from.as<f16>()[i].bits, again = back.as<f16>()[i].bits;
            wide += same_number(to.as<float>()[i], half_number(bits));
            returned += std::isnan(half_number(bits)) ? std::isnan(half_number(again)) : again == bits;
        }
        CHECK(wide == all);
        CHECK(returned == all);
    }

    TEST_CASE("copy: f32 is rounded to the nearest f16, the even one of two; what is too large is infinite" * doctest::skip(!on_gpu())) {
        // ties of normal and of subnormal numbers and what lies beside them; the largest number and where infinity begins
        std::vector<double> values = {0.0,         1 + 0x1p-11, 1 + 3 * 0x1p-11, 1 + 0x1.8p-11, 65504,        0x1.FFDFFEp15,
                                      65520,       0x1p-14,     0x1.FFFFFEp-15,  0x1p-24,       0x1p-25,      0x1.000002p-25,
                                      3 * 0x1p-25, 5 * 0x1p-25, 0x1p-26,         1e-40,         3.4028234e38, HUGE_VAL};
        for (size_t i = 0, count = values.size(); i < count; i++) values.push_back(-values[i]);
        const auto n_values = static_cast<int64_t>(values.size());
        for (int64_t n : {1, 17, 1000, 4096})
            for (int64_t gap : {0, 3, 8}) {
                INFO(n, " ", gap);
                Pool pool;
                Tensor from = pool.normal(Dtype::f32, {3, n + gap}).slice_cols(gap, n),
                       to = pool.zeros(Dtype::f16, {3, n + gap}).slice_cols(0, n);
                for (int64_t row = 0; row < 3; row++)
                    for (int64_t c = 0; c < n; c++) {
                        float& x = from.as<float>()[row * from.row_stride + c];
                        x = c < n_values ? static_cast<float>(values[static_cast<size_t>((c + row) % n_values)])
                                         : std::ldexp(x, static_cast<int>(c % 48) - 30);
                    }
                copy(to, from, test_stream());
                test_stream().synchronize();
                int64_t right = 0;
                for (int64_t row = 0; row < 3; row++)
                    for (int64_t c = 0; c < n; c++)
                        right += same_number(half_number(to.as<f16>()[row * to.row_stride + c].bits),
                                             nearest_half(from.as<float>()[row * from.row_stride + c]));
                CHECK(right == 3 * n);
            }
    }

    TEST_CASE("copy: NaN stays NaN; a flat array of any length is converted") {
        for (int64_t n : {1, 8, 1001, 1024}) {
            Pool pool;
            Tensor from = pool.normal(Dtype::f32, {n}), to = pool.zeros(Dtype::bf16, {n}), back = pool.zeros(Dtype::f32, {n});
            from.as<float>()[n - 1] = std::bit_cast<float>(0x7F800001u);  // a NaN whose upper half alone is infinite
            copy(to, from, test_stream());
            copy(back, to, test_stream());
            test_stream().synchronize();
            for (int64_t i = 0; i < n - 1; i++) CHECK(to.as<bf16>()[i].bits == float_to_bf16(from.as<float>()[i]));
            CHECK(std::isnan(Pool::get(to, n - 1)));
            CHECK(std::isnan(Pool::get(back, n - 1)));
        }
    }

    TEST_CASE("copy: f32 to f16 and back, and everything to f64; views of odd widths" * doctest::skip(on_gpu())) {
        // half steps of f16 (to the even one), its largest number, the first that becomes infinite, subnormal and vanishing ones
        const double values[] = {0.0,   -0.0,  1.00048828125, 1.00146484375, 65504, 65519.99, 65520, -65520,
                                 6e-05, 3e-08, 2.9802322e-08, 2.9e-08,       1e-45, 3.4e38,   -6e-08};
        for (Dtype narrow : {Dtype::f16, Dtype::bf16})
            for (int64_t N : {1, 17})
                for (int64_t C : {1, 7, 16, 129})
                    for (int64_t gap : {0, 3}) {
                        Pool pool;
                        Tensor from = pool.normal(Dtype::f32, {N, C + gap}).slice_cols(gap, C);
                        Tensor wide = pool.filled(narrow, {N, C + gap}, 9), to = wide.slice_cols(0, C);
                        Tensor back = pool.poison(Dtype::f32, {N, C}), exact = pool.poison(Dtype::f64, {N, C}),
                               same = pool.poison(Dtype::f64, {N, C});
                        for (int64_t i = 0; i < std::min(C, int64_t{15}); i++)
                            from.as<float>()[i] = static_cast<float>(values[static_cast<size_t>(i)]);
                        copy(to, from, test_stream());
                        copy(back, to, test_stream());
                        copy(exact, to, test_stream());
                        copy(same, from, test_stream());
                        for (int64_t n = 0; n < N; n++)
                            for (int64_t c = 0; c < C + gap; c++) {
                                if (c >= C) {
                                    CHECK(Pool::get(wide, n * (C + gap) + c) == 9);
                                    continue;
                                }
                                const float x = from.as<float>()[n * from.row_stride + c];
                                const uint16_t bits = narrow == Dtype::f16 ? float_to_half(x) : float_to_bf16(x);
                                const float y = narrow == Dtype::f16 ? half_to_float(bits) : bf16_to_float(bits);
                                const void* element = static_cast<std::byte*>(to.data) + 2 * (n * to.row_stride + c);
                                CHECK(std::memcmp(element, &bits, 2) == 0);
                                CHECK(std::bit_cast<uint32_t>(back.as<float>()[n * C + c]) == std::bit_cast<uint32_t>(y));
                                CHECK(exact.as<double>()[n * C + c] == static_cast<double>(y));
                                CHECK(same.as<double>()[n * C + c] == static_cast<double>(x));
                            }
                    }
    }

    TEST_CASE("copy: shapes and types must fit") {
        Pool pool;
        Tensor a = pool.zeros(Dtype::f32, {4, 6}), b = pool.zeros(Dtype::f32, {4, 5}), c = pool.zeros(Dtype::i32, {4, 6});
        CHECK_THROWS_AS(copy(a, b, test_stream()), std::logic_error);
        CHECK_THROWS_AS(copy(a, c, test_stream()), std::logic_error);
        if (on_gpu()) return;
        Tensor d = pool.zeros(Dtype::f64, {4, 6}), half = pool.zeros(Dtype::f16, {4, 6}), brain = pool.zeros(Dtype::bf16, {4, 6});
        CHECK_THROWS_AS(copy(a, d, test_stream()), std::logic_error);
        CHECK_THROWS_AS(copy(half, d, test_stream()), std::logic_error);
        CHECK_THROWS_AS(copy(half, brain, test_stream()), std::logic_error);
        CHECK_THROWS_AS(copy(d, c, test_stream()), std::logic_error);
    }
}

}  // namespace traincu::test
