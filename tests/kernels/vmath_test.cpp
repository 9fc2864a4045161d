#include "kernels/vmath.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <initializer_list>
#include <limits>

using traincu::cpu::vexp;
using traincu::cpu::vsigmoid;
using traincu::cpu::vtanh;

namespace {

// The worst relative error of f against exact over every `stride`-th float of [-limit, -smallest] and [smallest, limit].
template <class F, class Exact>
double worst_error(float smallest, float below, float above, uint32_t stride, F f, Exact exact) {
    double worst = 0;
    for (float limit : {below, above}) {
        float sign = limit < 0 ? -1.0f : 1.0f;
        for (uint32_t bits = std::bit_cast<uint32_t>(smallest); bits <= std::bit_cast<uint32_t>(sign * limit); bits += stride) {
            float x = sign * std::bit_cast<float>(bits);
            double expected = exact(static_cast<double>(x));
            worst = std::max(worst, std::fabs(static_cast<double>(f(x)) - expected) / expected);
        }
    }
    return worst;
}

const float inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_SUITE("vmath") {
    TEST_CASE("vexp: relative error below 1.1e-7 for x in [-87.3, 87]") {
        CHECK(worst_error(
                  1e-9f, -87.3f, 87.0f, 997, [](float x) { return vexp(x); }, [](double x) { return std::exp(x); }) < 1.1e-7);
        CHECK(vexp(0.0f) == 1.0f);
        CHECK(vexp(-0.0f) == 1.0f);
    }

    TEST_CASE("vexp: saturates outside that range, and NaN stays NaN") {
        for (float x : {-87.31f, -88.0f, -104.0f, -1e30f, -inf}) CHECK(vexp(x) == 0.0f);
        for (float x : {87.1f, 89.0f, 1e4f, 1e30f, inf}) CHECK(vexp(x) == vexp(87.0f));
        CHECK(vexp(87.0f) == doctest::Approx(6.0760302e37));
        for (double x : {701.0, 1e300, static_cast<double>(inf)}) CHECK(vexp(x) == std::exp(700.0));
        CHECK(vexp(-static_cast<double>(inf)) == 0.0);
        CHECK(std::isnan(vexp(static_cast<double>(not_a_number))));
        CHECK(std::isnan(vexp(not_a_number)));
        CHECK(std::isnan(vexp(-not_a_number)));
    }

    TEST_CASE("vtanh: relative error below 2e-7, +-1 at the ends, NaN stays NaN") {
        CHECK(worst_error(
                  1e-9f, -1e-9f, 100.0f, 997, [](float x) { return vtanh(x); }, [](double x) { return std::tanh(x); }) < 2e-7);
        for (float x : {1e-9f, 0.3f, 0.59999f, 0.6f, 2.0f, 20.0f, inf}) CHECK(vtanh(-x) == -vtanh(x));
        CHECK(vtanh(0.0f) == 0.0f);
        CHECK(vtanh(inf) == 1.0f);
        CHECK(std::isnan(vtanh(not_a_number)));
        CHECK(vtanh(0.7) == std::tanh(0.7));
    }

    TEST_CASE("vsigmoid: relative error below 2e-7 for x in [-87, 100], 0 and 1 at the ends, NaN stays NaN") {
        CHECK(worst_error(
                  1e-9f, -87.0f, 100.0f, 997, [](float x) { return vsigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }) < 2e-7);
        CHECK(vsigmoid(0.0f) == 0.5f);
        CHECK(vsigmoid(inf) == 1.0f);
        CHECK(vsigmoid(-inf) < 2e-38f);
        CHECK(std::isnormal(vsigmoid(-inf)));
        CHECK(std::isnormal(vsigmoid(-static_cast<double>(inf))));
        CHECK(std::isnan(vsigmoid(not_a_number)));
    }

    TEST_CASE("vexp: a loop over an array gives the bits of single calls") {
        volatile float step = 1.87f;  // unknown to the compiler, which would evaluate the calls itself
        float x[101], y[101];
        for (int i = 0; i < 101; i++) x[i] = -95.0f + step * static_cast<float>(i);
        x[50] = not_a_number;
#pragma omp simd
        for (int i = 0; i < 101; i++) y[i] = vexp(x[i]);
        for (int i = 0; i < 101; i++) {
            volatile float single = x[i];
            if (i == 50)
                CHECK(std::isnan(y[i]));
            else
                CHECK(y[i] == vexp(single));
        }
    }

    TEST_CASE("double versions are those of the C library up to 700") {
        for (double x : {-700.0, -1.5, 0.0, 0.3, 88.7, 700.0}) {
            CHECK(vexp(x) == std::exp(x));
            CHECK(vsigmoid(x) == 1 / (1 + std::exp(-x)));
        }
    }
}
