// What the tests of matrix products share: oracles, the engines of this executable, views inside wider buffers, odd shapes.
#pragma once

#include <omp.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/gemm_cpu.h"
#include "kernels/matmul.h"
#include "tests/support/numeric.h"

namespace traincu::test {

inline double at(const Tensor& t, int64_t row, int64_t col) { return Pool::get(t, row * t.row_stride + col); }

inline bool same_bits(const Tensor& a, const Tensor& b) {
    return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

// The rows and columns of a view as a contiguous tensor.
inline Tensor packed(Pool& pool, const Tensor& view) {
    Tensor t = pool.zeros(view.dtype, {view.rows(), view.cols()});
    for (int64_t i = 0; i < t.numel(); i++) Pool::set(t, i, at(view, i / t.cols(), i % t.cols()));
    return t;
}

// The oracle: element (m,n) = start(m,n) + sum over k of a(m,k) b(k,n), summed one by one in the type Sum.
template <class Sum, class Start, class A, class B>
Tensor brute_force(Pool& pool, int64_t M, int64_t N, int64_t K, Start start, A a, B b) {
    Tensor c = pool.poison(Dtype::f64, {M, N});
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            Sum sum = static_cast<Sum>(start(m, n));
            for (int64_t k = 0; k < K; k++) sum += static_cast<Sum>(a(m, k)) * static_cast<Sum>(b(k, n));
            Pool::set(c, m * N + n, static_cast<double>(sum));
        }
    return c;
}

// Every engine that this executable and processor have.
inline std::vector<GemmEngine> engines() {
    std::vector<GemmEngine> all = {GemmEngine::own};
    if (on_gpu()) {
        if (gpu::cublaslt_version) all.push_back(GemmEngine::cublaslt);
    } else if (cpu::onednn_usable()) {
        all.push_back(GemmEngine::onednn);
    }
    return all;
}

inline std::string engine_name() { return gemm_engine_name(test::test_device()); }

// The operations on the tests' device, and the wait for their results.
inline void forward(Tensor out, Tensor inp, Tensor weight, Tensor bias) {
    linear_forward(out, inp, weight, bias, test_stream());
    test_stream().synchronize();
}
inline void backward_input(Tensor dinp, Tensor dout, Tensor weight) {
    linear_backward_input(dinp, dout, weight, test_stream());
    test_stream().synchronize();
}
inline void backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows) {
    linear_backward_weight(dweight, dbias, dout, inp, unit_rows, test_stream());
    test_stream().synchronize();
}

// Settings of one test that are put back at its end.
struct Settings {
    int threads = omp_get_max_threads();
    ~Settings() {
        omp_set_num_threads(threads);
        set_gemm_engine(GemmEngine::automatic);
    }
};

// A (rows, cols) slice of a wider buffer whose other columns are NaN and must stay so: `before` columns, then the slice, then `after`.
struct Slice {
    Tensor wide, inner;
    Slice(Pool& pool, Dtype dtype, int64_t rows, int64_t before, int64_t cols, int64_t after)
        : wide(pool.poison(dtype, {rows, before + cols + after})), inner(wide.slice_cols(before, cols)) {}
    Slice& set(const Tensor& values) {
        for (int64_t i = 0; i < values.numel(); i++)
            Pool::set(inner, i / inner.cols() * inner.row_stride + i % inner.cols(), Pool::get(values, i));
        return *this;
    }
    bool gaps_untouched() const {
        const int64_t before = (static_cast<std::byte*>(inner.data) - static_cast<std::byte*>(wide.data)) / size_of(wide.dtype);
        for (int64_t r = 0; r < wide.rows(); r++)
            for (int64_t c = 0; c < wide.cols(); c++)
                if ((c < before || c >= before + inner.cols()) && !std::isnan(at(wide, r, c))) return false;
        return true;
    }
};

struct Shape {
    int64_t N, OC, IC;
    int64_t gap = 0;  // multiples of 8: rows begin at multiples of 16 bytes, as slices of packed buffers do; else they do not
};
inline std::vector<Shape> odd_shapes() {
    if (!on_gpu())
        return {{1, 1, 1, 3},     {7, 17, 63, 3},   {17, 7, 1, 3},    {1, 129, 65, 3},  {65, 1, 129, 3},  {63, 65, 17, 3},
                {129, 63, 65, 3}, {13, 33, 385, 3}, {12, 32, 384, 3}, {65, 72, 136, 8}, {130, 4100, 7, 3}};
    return {{1, 1, 1, 3},
            {7, 17, 63, 3},
            {17, 7, 1, 3},
            {1, 129, 65, 3},
            {65, 1, 129, 3},
            {63, 65, 17, 3},
            {129, 33, 65, 3},
            {13, 33, 200, 3},
            {5, 16, 24, 8},
            {65, 72, 136, 8},
            {33, 40, 64, 0},
            {gpu::device_info().multiprocessors * int64_t{64} + 40, 136, 72, 8}};  // enough tiles of 128x128 for every multiprocessor
}
// What the library refuses is ours: a few such cases are enough.
inline bool repeats_own(GemmEngine engine, const Shape& s) { return engine == GemmEngine::cublaslt && s.gap % 8 != 0 && s.N > 7; }

}  // namespace traincu::test
