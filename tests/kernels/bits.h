// For tests that promise the same bits: comparison of memory, and a choice of the number of threads.
#pragma once

#include <omp.h>

#include <cstring>
#include <vector>

#include "src/base/tensor.h"

namespace traincu::test {

inline bool equal_bits(const Tensor& a, const Tensor& b) {
    ENSURE(a.contiguous() && b.contiguous());
    return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

// Runs body() on `count` threads, then puts the number back.
template <class Body>
void on_threads(int count, Body&& body) {
    int before = omp_get_max_threads();
    omp_set_num_threads(count);
    body();
    omp_set_num_threads(before);
}

// How far a kernel in f32 may be from the result in double: twice as far as plain f32 loops are, and one rounding is free.
// Of a few numbers the plain loops may by chance get each exactly right: there four roundings are free. Where the result is stored as bf16, the
// plain loops' is too (as_stored()), and a rounding is a larger one.
inline double allowed(double naive_error, int64_t count, Dtype stored = Dtype::f32) {
    if (stored == Dtype::bf16) return 2 * naive_error + (count < 100 ? 4 * 0x1p-9 : 0);
    return 2 * naive_error + (count < 100 ? 4 : 1) * 6e-8;
}

// The values as a tensor of that type would hold them.
inline std::vector<double> as_stored(std::vector<double> values, Dtype stored) {
    if (stored == Dtype::bf16)
        for (double& x : values) x = bf16_to_float(float_to_bf16(static_cast<float>(x)));
    return values;
}

}  // namespace traincu::test
