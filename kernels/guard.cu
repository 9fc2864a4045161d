// The guard on the GPU: one thread, since each number depends on the one before, and the order is the CPU's. ~2000 dependent additions and
// reads from the L2 cache, once a step: tens of microseconds (estimated, not measured).
#include "kernels/guard.h"

#include "kernels/launch.h"

namespace traincu::gpu {

inline __device__ bool finite(double x) { return fabs(x) < INFINITY; }  // false for NaN

// Standard deviations of x above the window's mean.
inline __device__ double zscore(const double* window, double x) {
    constexpr int n = GuardState::window;
    double mean = 0, variance = 0;
#pragma unroll 8
    for (int i = 0; i < n; i++) mean += window[i];
    mean /= n;
#pragma unroll 8
    for (int i = 0; i < n; i++) variance = fma(window[i] - mean, window[i] - mean, variance);
    const double deviation = sqrt(variance / n);
    return deviation > 0 ? (x - mean) / deviation : 0;
}

inline __device__ Verdict judge(GuardState& s, double limit) {
    if (!finite(s.loss)) return Verdict::loss_not_finite;
    if (!finite(s.norm)) return Verdict::norm_not_finite;
    if (limit <= 0 || s.filled < GuardState::window) return Verdict::accepted;
    if ((s.z = zscore(s.losses, s.loss)) > limit) return Verdict::loss_spike;
    if ((s.z = zscore(s.norms, s.norm)) > limit) return Verdict::norm_spike;
    return Verdict::accepted;
}

inline __device__ void append(double* window, int64_t filled, double x) {
    if (filled == GuardState::window) {
#pragma unroll 8
        for (int i = 1; i < GuardState::window; i++) window[i - 1] = window[i];
        filled--;
    }
    window[filled] = x;
}

__global__ void guard_step_kernel(GuardState* state, const double* loss_sum, const double* grad_squares, GuardParams p) {
    GuardState& s = *state;
    s.loss = p.loss_scale * *loss_sum, s.norm = sqrt(*grad_squares);
    s.clip = p.grad_clip > 0 && s.norm > p.grad_clip ? p.grad_clip / s.norm : 1;
    s.verdict = judge(s, p.zscore_limit);
    const bool is_finite = s.verdict != Verdict::loss_not_finite && s.verdict != Verdict::norm_not_finite;
    s.consecutive_nonfinite = is_finite ? 0 : s.consecutive_nonfinite + 1;
    if (s.verdict != Verdict::accepted) {
        s.skipped++;
        if (is_finite && ++s.consecutive_skips > GuardState::level_shift) s.filled = s.consecutive_skips = 0;
        return;
    }
    s.consecutive_skips = 0, s.adam_steps++;
    append(s.losses, s.filled, s.loss), append(s.norms, s.filled, s.norm);
    if (s.filled < GuardState::window) s.filled++;
}

void guard_step(Tensor state, Tensor loss_sum, Tensor grad_squares, const GuardParams& params, Stream& stream) {
    launch(guard_step_kernel, dim3(1), dim3(1), 0, stream, reinterpret_cast<GuardState*>(state.as<double>()), loss_sum.as<double>(),
           grad_squares.as<double>(), params);
}

}  // namespace traincu::gpu
