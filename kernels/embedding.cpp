#include "kernels/embedding.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

bool all_below(const Tensor& ids, int64_t limit) {
    const int32_t* id = ids.as<int32_t>();
    return std::all_of(id, id + ids.numel(), [limit](int32_t i) { return i >= 0 && i < limit; });
}

// to = from, or += from, in the type R that sums are computed in.
template <class R, class S>
void take_row(R* to, const S* from, int64_t C) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) to[c] = static_cast<R>(widened(from[c]));
}
template <class R, class S>
void add_row(R* to, const S* from, int64_t C) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) to[c] += static_cast<R>(widened(from[c]));
}

// body(row of the table): its elements are of the type that the table is stored in.
template <class Body>
void with_row(const Tensor& table, int64_t row, Body body) {
    dispatch_stored(table.dtype, [&]<class S>(S) { body(table.as<S>() + row * table.cols()); });
}

// out (T,C), wte (Vp,C), wpe (maxT,C) or absent, each of its own type.
template <class S>
void embedding_forward(S* out, const int32_t* tokens, const int32_t* positions, const Tensor& wte, const Tensor& wpe, int64_t n) {
    using R = Real<S>;
    const int64_t C = wte.cols();
#pragma omp parallel
    {
        std::vector<R> buffer = row_buffer<S>(C);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < n; t++) {
            R* row = result_row(out + t * C, buffer);
            with_row(wte, tokens[t], [&](const auto* token) { take_row(row, token, C); });
            if (wpe) with_row(wpe, positions[t], [&](const auto* position) { add_row(row, position, C); });
            put_row(out + t * C, row, C);
        }
    }
}

// dwte (Vp,C), dwpe (maxT,C) or null, dout (T,C). Two tokens may share a row of dwte, so threads own columns, not tokens:
// no two write the same element, and every element sums its tokens in ascending t.
template <class S>
void embedding_backward(Real<S>* dwte, Real<S>* dwpe, const S* dout, const int32_t* tokens, const int32_t* positions, int64_t n,
                        int64_t C) {
    constexpr int64_t line = 16;  // columns are shared out in whole cache lines
#pragma omp parallel
    {
        int64_t lines = div_ceil(C, line), thread = omp_get_thread_num(), threads = omp_get_num_threads();
        int64_t begin = lines * thread / threads * line, end = std::min(C, lines * (thread + 1) / threads * line);
        for (int64_t t = 0; t < n; t++) {
            const S* gradient = dout + t * C + begin;
            add_row(dwte + tokens[t] * C + begin, gradient, end - begin);
            if (dwpe) add_row(dwpe + positions[t] * C + begin, gradient, end - begin);
        }
    }
}

}  // namespace
}  // namespace cpu

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream& stream) {
    int64_t n = out.rows(), C = out.cols();
    ENSURE(out.contiguous() && tokens.is({n}) && wte.contiguous() && wte.cols() == C);
    if (wpe) ENSURE(positions.is({n}) && wpe.contiguous() && wpe.cols() == C);
    if (stream.on_gpu()) return gpu::embedding_forward(out, tokens, positions, wte, wpe, stream);
    ENSURE(cpu::all_below(tokens, wte.rows()) && (!wpe || cpu::all_below(positions, wpe.rows())));
    cpu::dispatch_activations(out.dtype, [&]<class S>(S) {
        cpu::embedding_forward(out.as<S>(), tokens.as<int32_t>(), wpe ? positions.as<int32_t>() : nullptr, wte, wpe, n);
    });
}

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Tensor token_order, Tensor position_order,
                        Stream& stream) {
    int64_t n = dout.rows(), C = dout.cols();
    ENSURE(dout.contiguous() && tokens.is({n}) && token_order.is({n}) && dwte.contiguous() && dwte.cols() == C);
    ENSURE(dwte.dtype == statistics_of(dout.dtype));
    if (dwpe) ENSURE(positions.is({n}) && position_order.is({n}) && dwpe.contiguous() && dwpe.cols() == C);
    if (stream.on_gpu()) return gpu::embedding_backward(dwte, dwpe, dout, tokens, positions, token_order, position_order, stream);
    ENSURE(cpu::all_below(tokens, dwte.rows()) && (!dwpe || cpu::all_below(positions, dwpe.rows())));
    cpu::dispatch_activations(dout.dtype, [&]<class S>(S) {
        using R = cpu::Real<S>;
        cpu::embedding_backward(dwte.as<R>(), dwpe ? dwpe.as<R>() : nullptr, dout.as<S>(), tokens.as<int32_t>(),
                                dwpe ? positions.as<int32_t>() : nullptr, n, C);
    });
}

void sorted_order(std::span<int32_t> order, std::span<const int32_t> ids, int64_t rows) {
    ENSURE(order.size() == ids.size());
    std::vector<int32_t> next(static_cast<size_t>(rows) + 1);  // where the first index of an id goes
    for (int32_t id : ids) {
        ENSURE(id >= 0 && id < rows);
        next[static_cast<size_t>(id) + 1]++;
    }
    for (size_t id = 1; id < next.size(); id++) next[id] += next[id - 1];
    for (size_t t = 0; t < ids.size(); t++) order[static_cast<size_t>(next[static_cast<size_t>(ids[t])]++)] = static_cast<int32_t>(t);
}

}  // namespace traincu
