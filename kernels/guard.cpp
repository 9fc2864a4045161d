#include "kernels/guard.h"

#include <algorithm>
#include <cmath>

namespace traincu {
namespace cpu {
namespace {

// Standard deviations of x above the window's mean; computed from the values each time, so no error builds up.
double zscore(const double* window, double x) {
    constexpr int64_t n = GuardState::window;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++) mean += window[i];
    mean /= n;
    for (int64_t i = 0; i < n; i++) variance = std::fma(window[i] - mean, window[i] - mean, variance);  // as the GPU does
    const double deviation = std::sqrt(variance / n);
    return deviation > 0 ? (x - mean) / deviation : 0;
}

Verdict judge(GuardState& s, double limit) {
    if (!std::isfinite(s.loss)) return Verdict::loss_not_finite;
    if (!std::isfinite(s.norm)) return Verdict::norm_not_finite;
    if (limit <= 0 || s.filled < GuardState::window) return Verdict::accepted;
    if ((s.z = zscore(s.losses, s.loss)) > limit) return Verdict::loss_spike;
    if ((s.z = zscore(s.norms, s.norm)) > limit) return Verdict::norm_spike;
    return Verdict::accepted;
}

void append(double* window, int64_t filled, double x) {
    if (filled == GuardState::window) std::copy(window + 1, window + filled, window), filled--;
    window[filled] = x;
}

void guard_step(GuardState& s, double loss_sum, double grad_squares, const GuardParams& p) {
    s.loss = p.loss_scale * loss_sum, s.norm = std::sqrt(grad_squares);
    s.clip = p.grad_clip > 0 && s.norm > p.grad_clip ? p.grad_clip / s.norm : 1;
    s.verdict = judge(s, p.zscore_limit);
    const bool finite = s.verdict != Verdict::loss_not_finite && s.verdict != Verdict::norm_not_finite;
    s.consecutive_nonfinite = finite ? 0 : s.consecutive_nonfinite + 1;
    if (s.verdict != Verdict::accepted) {
        s.skipped++;
        if (finite && ++s.consecutive_skips > GuardState::level_shift) s.filled = s.consecutive_skips = 0;
        return;
    }
    s.consecutive_skips = 0, s.adam_steps++;
    append(s.losses, s.filled, s.loss), append(s.norms, s.filled, s.norm);
    s.filled = std::min(s.filled + 1, GuardState::window);
}

}  // namespace
}  // namespace cpu

void guard_step(Tensor state, Tensor loss_sum, Tensor grad_squares, const GuardParams& params, Stream& stream) {
    ENSURE(state.is({guard_state_size}) && loss_sum.is({1}) && grad_squares.is({1}));
    if (stream.on_gpu()) return gpu::guard_step(state, loss_sum, grad_squares, params, stream);
    cpu::guard_step(guard_state_of(state), *loss_sum.as<double>(), *grad_squares.as<double>(), params);
}

}  // namespace traincu
