#include "kernels/embedding.h"

#include <omp.h>

#include <algorithm>
#include <vector>

namespace traincu {
namespace cpu {
namespace {

bool all_below(const Tensor& ids, int64_t limit) {
    const int32_t* id = ids.as<int32_t>();
    return std::all_of(id, id + ids.numel(), [limit](int32_t i) { return i >= 0 && i < limit; });
}

// out (T,C), wte (Vp,C), wpe (maxT,C) or null.
template <class T>
void embedding_forward(T* out, const int32_t* tokens, const int32_t* positions, const T* wte, const T* wpe, int64_t n, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) {
        T* row = out + t * C;
        const T* token = wte + tokens[t] * C;
        if (!wpe) {
            std::copy(token, token + C, row);
            continue;
        }
        const T* position = wpe + positions[t] * C;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) row[c] = token[c] + position[c];
    }
}

// dwte (Vp,C), dwpe (maxT,C) or null, dout (T,C). Two tokens may share a row of dwte, so threads own columns, not tokens:
// no two write the same element, and every element sums its tokens in ascending t.
template <class T>
void embedding_backward(T* dwte, T* dwpe, const T* dout, const int32_t* tokens, const int32_t* positions, int64_t n, int64_t C) {
    constexpr int64_t line = 16;  // columns are shared out in whole cache lines
#pragma omp parallel
    {
        int64_t lines = div_ceil(C, line), thread = omp_get_thread_num(), threads = omp_get_num_threads();
        int64_t begin = lines * thread / threads * line, end = std::min(C, lines * (thread + 1) / threads * line);
        for (int64_t t = 0; t < n; t++) {
            const T* gradient = dout + t * C;
            T* token = dwte + tokens[t] * C;
#pragma omp simd
            for (int64_t c = begin; c < end; c++) token[c] += gradient[c];
            if (!dwpe) continue;
            T* position = dwpe + positions[t] * C;
#pragma omp simd
            for (int64_t c = begin; c < end; c++) position[c] += gradient[c];
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
    dispatch_real(out.dtype, [&](auto real) {
        using T = decltype(real);
        cpu::embedding_forward(out.as<T>(), tokens.as<int32_t>(), wpe ? positions.as<int32_t>() : nullptr, wte.as<T>(),
                               wpe ? wpe.as<T>() : nullptr, n, C);
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
    dispatch_real(dout.dtype, [&](auto real) {
        using T = decltype(real);
        cpu::embedding_backward(dwte.as<T>(), dwpe ? dwpe.as<T>() : nullptr, dout.as<T>(), tokens.as<int32_t>(),
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
