#include "kernels/norm.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

// The sum of term(c) over c < C, in vector lanes. Its order depends on C alone.
template <class T, class Term>
inline T row_sum(int64_t C, Term term) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < C; c++) total += term(c);
    return total;
}

template <class S>
void norm_forward(const Tensor& residual, const Tensor& out, const Tensor& mean, const Tensor& rstd, const Tensor& inp,
                  const Tensor& branch, const Tensor& weight, const Tensor& bias, double eps) {
    using T = Real<S>;
    int64_t N = out.rows(), C = out.cols();
    S *joined = residual.as_or_null<S>(), *y = out.as<S>();
    T *means = mean.as_or_null<T>(), *rstds = rstd.as<T>();
    const S *x = inp.as<S>(), *added = branch.as_or_null<S>();
    std::vector<T> w_buffer = row_buffer<S>(C), b_buffer = row_buffer<S>(C);
    const T *w = real_row(weight.as<S>(), w_buffer, C), *b = bias ? real_row(bias.as<S>(), b_buffer, C) : nullptr;
#pragma omp parallel
    {
        std::vector<T> row_copy = row_buffer<S>(C), other = row_buffer<S>(C);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            // The row is read from memory once; the passes after the first find it in the L1 cache.
            const T* row = real_row(x + n * C, row_copy, C);
            if (added) {
                const T* addend = real_row(added + n * C, other, C);
                T* sum = result_row(joined + n * C, row_copy);
#pragma omp simd
                for (int64_t c = 0; c < C; c++) sum[c] = row[c] + addend[c];
                put_row(joined + n * C, sum, C);
                row = real_row<S>(joined + n * C, row_copy, C);  // rounded: the statistics are those of the row that backward will read
            }
            T mu = 0;
            if (means) mu = means[n] = row_sum<T>(C, [=](int64_t c) { return row[c]; }) / T(C);
            T variance = row_sum<T>(C, [=](int64_t c) { return (row[c] - mu) * (row[c] - mu); }) / T(C);
            T rs = rstds[n] = T(1) / std::sqrt(variance + T(eps));
            T* normed = result_row(y + n * C, other);
#pragma omp simd
            for (int64_t c = 0; c < C; c++) normed[c] = (row[c] - mu) * rs * w[c] + (b ? b[c] : T(0));
            put_row(y + n * C, normed, C);
        }
    }
}

constexpr int64_t line = 16;  // threads share columns out in whole cache lines

// total[c] += for every unit in ascending order: the sum of its blocks, also in ascending order. For c < width <= line;
// partials (units, blocks, stride).
template <class T>
void fold_units(T* total, const T* partials, int64_t units, int64_t blocks, int64_t stride, int64_t width) {
    for (int64_t u = 0; u < units; u++) {
        T sum[line] = {};
        for (int64_t b = 0; b < blocks; b++) {
            const T* partial = partials + (u * blocks + b) * stride;
#pragma omp simd
            for (int64_t c = 0; c < width; c++) sum[c] += partial[c];
        }
        for (int64_t c = 0; c < width; c++) total[c] += sum[c];
    }
}

// The gradients of weight and bias sum over rows, which threads share. So that the order of the sum never depends on the number of
// threads, a unit is cut in blocks of 16 rows, each with partial sums of its own; these are folded when all are there.
template <class S>
void norm_backward(const Tensor& dinp, const Tensor& dweight, const Tensor& dbias, const Tensor& dout, const Tensor& dresidual,
                   const Tensor& inp, const Tensor& mean, const Tensor& rstd, const Tensor& weight, int64_t unit_rows) {
    using T = Real<S>;
    constexpr int64_t block_rows = 16;
    int64_t N = dinp.rows(), C = dinp.cols();
    if (N == 0) return;
    int64_t unit = unit_rows > 0 ? std::min(unit_rows, N) : N;
    int64_t units = div_ceil(N, unit), blocks = div_ceil(unit, block_rows);
    S* dx = dinp.as<S>();
    T *dw = dweight.as<T>(), *db = dbias.as_or_null<T>();
    const S *dy = dout.as<S>(), *dres = dresidual.as_or_null<S>(), *x = inp.as<S>();
    std::vector<T> w_buffer = row_buffer<S>(C);
    const T *means = mean.as_or_null<T>(), *rstds = rstd.as<T>(), *w = real_row(weight.as<S>(), w_buffer, C);

    auto partials = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(units * blocks * 2 * C));  // (units, blocks, 2: dw and db, C)
#pragma omp parallel
    {
        std::vector<T> row_copy = row_buffer<S>(C), dy_copy = row_buffer<S>(C), dres_copy = row_buffer<S>(C), dx_copy = row_buffer<S>(C);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < units * blocks; block++) {
            T *dw_part = partials.get() + block * 2 * C, *db_part = dw_part + C;
            std::fill(dw_part, dw_part + 2 * C, T(0));
            int64_t unit_begin = block / blocks * unit, begin = unit_begin + block % blocks * block_rows;
            int64_t end = std::min({begin + block_rows, unit_begin + unit, N});
            for (int64_t n = begin; n < end; n++) {
                const T *row = real_row(x + n * C, row_copy, C), *gradient = real_row(dy + n * C, dy_copy, C);
                const T* residual_gradient = dres ? real_row(dres + n * C, dres_copy, C) : nullptr;
                T mu = means ? means[n] : T(0), rs = rstds[n];
                T average_g = means ? row_sum<T>(C, [=](int64_t c) { return gradient[c] * w[c]; }) / T(C) : T(0);
                T average_gx = row_sum<T>(C, [=](int64_t c) { return gradient[c] * w[c] * ((row[c] - mu) * rs); }) / T(C);
                T* dx_row = result_row(dx + n * C, dx_copy);
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    T xhat = (row[c] - mu) * rs;
                    dw_part[c] += gradient[c] * xhat;
                    db_part[c] += gradient[c];
                    dx_row[c] =
                        (residual_gradient ? residual_gradient[c] : T(0)) + rs * (gradient[c] * w[c] - average_g - xhat * average_gx);
                }
                put_row(dx + n * C, dx_row, C);
            }
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < C; c += line) {
            int64_t width = std::min(line, C - c);
            fold_units(dw + c, partials.get() + c, units, blocks, 2 * C, width);
            if (db) fold_units(db + c, partials.get() + C + c, units, blocks, 2 * C, width);
        }
    }
}

}  // namespace
}  // namespace cpu

void norm_forward(Tensor residual, Tensor out, Tensor mean, Tensor rstd, Tensor inp, Tensor branch, Tensor weight, Tensor bias, double eps,
                  Stream& stream) {
    int64_t N = out.rows(), C = out.cols();
    ENSURE(out.is({N, C}) && out.contiguous() && inp.is({N, C}) && inp.contiguous() && rstd.is({N}) && weight.is({C}));
    ENSURE(!mean || mean.is({N}));
    ENSURE(!bias || bias.is({C}));
    ENSURE(!branch || (branch.is({N, C}) && branch.contiguous() && residual.is({N, C}) && residual.contiguous()));
    ENSURE(rstd.dtype == statistics_of(out.dtype));
    if (stream.on_gpu()) return gpu::norm_forward(residual, out, mean, rstd, inp, branch, weight, bias, eps, stream);
    cpu::dispatch_activations(out.dtype,
                              [&]<class S>(S) { cpu::norm_forward<S>(residual, out, mean, rstd, inp, branch, weight, bias, eps); });
}

void norm_backward(Tensor dinp, Tensor dweight, Tensor dbias, Tensor dout, Tensor dresidual, Tensor inp, Tensor mean, Tensor rstd,
                   Tensor weight, int64_t unit_rows, Stream& stream) {
    int64_t N = dinp.rows(), C = dinp.cols();
    ENSURE(unit_rows >= 0);
    ENSURE(dinp.is({N, C}) && dinp.contiguous() && dout.is({N, C}) && dout.contiguous() && inp.is({N, C}) && inp.contiguous());
    ENSURE(rstd.is({N}) && weight.is({C}) && dweight.is({C}));
    ENSURE(!mean || mean.is({N}));
    ENSURE(!dbias || dbias.is({C}));
    ENSURE(!dresidual || (dresidual.is({N, C}) && dresidual.contiguous()));
    ENSURE(rstd.dtype == statistics_of(dinp.dtype) && dweight.dtype == rstd.dtype && (!dbias || dbias.dtype == rstd.dtype));
    if (stream.on_gpu()) return gpu::norm_backward(dinp, dweight, dbias, dout, dresidual, inp, mean, rstd, weight, unit_rows, stream);
    cpu::dispatch_activations(
        dinp.dtype, [&]<class S>(S) { cpu::norm_backward<S>(dinp, dweight, dbias, dout, dresidual, inp, mean, rstd, weight, unit_rows); });
}

}  // namespace traincu
