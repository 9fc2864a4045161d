// exp, the logistic sigmoid and tanh for the CPU twins. The float versions have no branch and no library call, so that a plain loop
// over them becomes vector code on any instruction set; the double versions use the C library, for checks.
// Neither ever returns infinity, and 1 / (1 + e^x) is never subnormal (such numbers are slow).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace traincu::cpu {

// Saturates above: e^700 = 1e304. NaN stays NaN.
inline double vexp(double x) { return std::exp(x > 700.0 ? 700.0 : x); }

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2; ln 2 in two parts keeps r exact (Cody and Waite), e^r is
// its Taylor polynomial to the 7th power (truncation < 8e-9). Relative error for x in [-87.3, 87], measured: below 8e-8
// with fused multiply-add, 1.1e-7 without. Beyond it saturates: 0 below, e^87 = 6e37 above. NaN stays NaN.
inline float vexp(float x) {
    constexpr float log2e = 1.44269504088896341f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    float clamped = x < -87.3f ? -87.3f : x;   // written so that NaN passes both comparisons
    clamped = clamped > 87.0f ? 87.0f : clamped;
    float shifted = clamped * log2e + to_integer;
    float n = shifted - to_integer;
    float r = (clamped - n * ln2_hi) - n * ln2_lo;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t exponent = std::bit_cast<int32_t>(shifted) << 23;  // n in the exponent's place; NaN keeps p = NaN
    float scaled = std::bit_cast<float>(std::bit_cast<int32_t>(p) + exponent);
    return x < -87.3f ? 0.0f : (x != x ? x : scaled);
}

// The logistic sigmoid 1 / (1 + e^-x). Relative error of the float version for x >= -87, measured: below 1.6e-7;
// further down it stays at 1.6e-38.
template <class T>
T vsigmoid(T x) {
    return T(1) / (T(1) + vexp(-x));
}

inline double vtanh(double x) { return std::tanh(x); }

// 1 - 2 / (1 + e^2x) loses its digits near 0: below 0.6 it is x plus an odd polynomial, fitted to the least relative error (2.6e-9).
// Measured: below 1.6e-7 everywhere. +-1 at the ends, NaN stays NaN.
inline float vtanh(float x) {
    const float size = std::fabs(x), u = x * x;
    float p = -5.90586056932807e-3f;
    p = p * u + 2.0805377513e-2f;
    p = p * u - 5.3786680102e-2f;
    p = p * u + 1.3331958652e-1f;
    p = p * u - 3.3333298564e-1f;
    const float near = x + x * u * p, far = std::copysign(1.0f - 2.0f / (1.0f + vexp(2.0f * size)), x);
    return size < 0.6f ? near : far;
}

}  // namespace traincu::cpu
