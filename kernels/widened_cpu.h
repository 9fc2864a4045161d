// Numbers stored in 16 bits, as a CPU computes with them: widened to f32 on the way in, which is exact, rounded to the nearest (even) on
// the way out. An operation's loops are templates on the stored type S and compute in Real<S>; where S is computed in as it is (f32, f64),
// nothing here copies anything.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "src/base/tensor.h"

namespace traincu::cpu {

template <class S>
using Real = decltype(widened(S{}));  // f64 for f64, f32 for all others
template <class S>
constexpr bool is_real = std::is_same_v<S, Real<S>>;

// body(float{}), body(double{}) or body(bf16{}): what activations are stored in. With f16: what weights are.
template <class Body>
void dispatch_activations(Dtype dtype, Body&& body) {
    dtype == Dtype::bf16 ? body(bf16{}) : dispatch_real(dtype, body);
}
template <class Body>
void dispatch_stored(Dtype dtype, Body&& body) {
    dtype == Dtype::f16 ? body(f16{}) : dispatch_activations(dtype, body);
}

// A number as it is stored.
template <class S>
inline S stored(Real<S> x) {
    if constexpr (is_real<S>)
        return x;
    else
        return narrowed<S>(x);
}

template <class S>
inline void widen(Real<S>* to, const S* from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = widened(from[i]);
}
template <class S>
inline void narrow(S* to, const Real<S>* from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = stored<S>(from[i]);
}

// Row by row, where a row is used several times: a buffer for n numbers, empty where none is needed; a row to read, which is the row
// itself or its widened copy in the buffer; and where the results of a row are computed, which put_row() then stores.
template <class S>
std::vector<Real<S>> row_buffer(int64_t n) {
    return std::vector<Real<S>>(static_cast<size_t>(is_real<S> ? 0 : n));
}
template <class S>
inline const Real<S>* real_row(const S* row, std::vector<Real<S>>& buffer, int64_t n) {
    if constexpr (is_real<S>)
        return row;
    else
        return widen(buffer.data(), row, n), buffer.data();
}
template <class S>
inline Real<S>* result_row(S* row, std::vector<Real<S>>& buffer) {
    if constexpr (is_real<S>)
        return row;
    else
        return buffer.data();
}
template <class S>
inline void put_row(S* row, const Real<S>* results, int64_t n) {
    if constexpr (!is_real<S>) narrow(row, results, n);
}

}  // namespace traincu::cpu
