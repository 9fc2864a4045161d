#include "kernels/classifier.h"

#include <algorithm>
#include <cmath>

#include "kernels/vmath.h"
#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

// The largest of x[0..n). Sixteen running maxima: as a vector, the compiler cannot reorder comparisons that NaN would tell apart.
template <class T>
T row_max(const T* x, int64_t n) {
    constexpr int64_t lanes = 16;
    T largest[lanes];
    std::fill(largest, largest + lanes, x[0]);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
#pragma omp simd
        for (int64_t l = 0; l < lanes; l++) largest[l] = x[i + l] > largest[l] ? x[i + l] : largest[l];
    }
    for (; i < n; i++) largest[0] = std::max(largest[0], x[i]);
    return *std::max_element(largest, largest + lanes);
}

// One row: logits (Vp) become their gradient if that is asked for. Returns the loss.
template <class T>
double classify_row(T* logits, int64_t Vp, int64_t target, double weight, const ClassifierParams& params) {
    int64_t V = params.vocab_size;
    if (target < 0 || weight == 0) {
        if (params.write_gradient) std::fill(logits, logits + Vp, T(0));
        return 0;
    }
    // The largest logit is subtracted first: no exponential overflows, and at least one is 1.
    T largest = row_max(logits, V), sum = 0;
    double target_logit = logits[target];
    if (params.write_gradient) {  // keep the exponentials: they are the gradient but for a factor
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < V; v++) {
            T e = vexp(logits[v] - largest);
            logits[v] = e;
            sum += e;
        }
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < V; v++) sum += vexp(logits[v] - largest);
    }
    double log_sum = std::log(static_cast<double>(sum)), lse = largest + log_sum;
    if (params.write_gradient) {
        double scale = params.loss_scale * weight;
        T factor = T(scale * (1 + 2 * params.z_loss * lse) / sum);
#pragma omp simd
        for (int64_t v = 0; v < V; v++) logits[v] *= factor;
        logits[target] -= T(scale);
        std::fill(logits + V, logits + Vp, T(0));
    }
    // largest - target_logit first: lse - target_logit would lose the digits of log_sum where logits are large.
    return weight * ((largest - target_logit) + log_sum + params.z_loss * lse * lse);
}

template <class S>
void classifier(Real<S>* losses, S* logits, const int32_t* targets, const float* weights, int64_t N, int64_t Vp,
                const ClassifierParams& params) {
#pragma omp parallel
    {
        std::vector<Real<S>> buffer = row_buffer<S>(Vp);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            S* stored_row = logits + n * Vp;
            Real<S>* row = result_row(stored_row, buffer);
            real_row<S>(stored_row, buffer, Vp);
            losses[n] = static_cast<Real<S>>(classify_row(row, Vp, targets[n], weights[n], params));
            if (params.write_gradient) put_row(stored_row, row, Vp);
        }
    }
}

}  // namespace
}  // namespace cpu

void classifier(Tensor losses, Tensor logits, Tensor targets, Tensor weights, const ClassifierParams& params, Stream& stream) {
    int64_t N = logits.rows(), Vp = logits.cols(), V = params.vocab_size;
    ENSURE(logits.is({N, Vp}) && logits.contiguous() && V > 0 && V <= Vp);
    ENSURE(losses.is({N}) && losses.dtype == statistics_of(logits.dtype) && targets.is({N}) && weights.is({N}));
    if (stream.on_gpu()) return gpu::classifier(losses, logits, targets, weights, params, stream);
    const int32_t* target = targets.as<int32_t>();
    ENSURE(std::all_of(target, target + N, [V](int32_t t) { return t >= -1 && t < V; }));
    cpu::dispatch_activations(logits.dtype, [&]<class S>(S) {
        cpu::classifier(losses.as<cpu::Real<S>>(), logits.as<S>(), target, weights.as<float>(), N, Vp, params);
    });
}

}  // namespace traincu
