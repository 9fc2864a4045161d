#include "src/optim/guard.h"

#include <cmath>

#include "src/base/error.h"

namespace traincu {

namespace {

// Standard deviations of x above the window's mean; computed from the values each time, so no error builds up.
double zscore(const std::deque<double>& window, double x) {
    double mean = 0, variance = 0, n = static_cast<double>(window.size());
    for (double v : window) mean += v;
    mean /= n;
    for (double v : window) variance += (v - mean) * (v - mean);
    double deviation = std::sqrt(variance / n);
    return deviation > 0 ? (x - mean) / deviation : 0;
}

}  // namespace

std::string Guard::judge(double loss, double grad_norm) {
    std::string reason;
    const bool finite = std::isfinite(loss) && std::isfinite(grad_norm);
    if (!finite) {
        reason = std::isfinite(loss) ? format("gradient norm is %f", grad_norm) : format("loss is %f", loss);
    } else if (limit_ > 0 && losses_.size() == window_) {
        double z_loss = zscore(losses_, loss), z_norm = zscore(norms_, grad_norm);
        if (z_loss > limit_)
            reason = format("loss %.1f sigma above the last %zu steps", z_loss, window_);
        else if (z_norm > limit_)
            reason = format("gradient norm %.1f sigma above the last %zu steps", z_norm, window_);
    }
    consecutive_nonfinite_ = finite ? 0 : consecutive_nonfinite_ + 1;
    if (!reason.empty()) {
        skipped_++;
        if (finite && ++consecutive_skips_ > level_shift_) losses_.clear(), norms_.clear(), consecutive_skips_ = 0;
        return reason;
    }
    consecutive_skips_ = 0;
    losses_.push_back(loss), norms_.push_back(grad_norm);
    if (losses_.size() > window_) losses_.pop_front(), norms_.pop_front();
    return "";
}

nlohmann::ordered_json Guard::state() const {
    return {{"losses", losses_},
            {"norms", norms_},
            {"skipped", skipped_},
            {"consecutive_skips", consecutive_skips_},
            {"consecutive_nonfinite", consecutive_nonfinite_}};
}

void Guard::restore(const nlohmann::ordered_json& state) {
    losses_ = state.at("losses").get<std::deque<double>>();
    norms_ = state.at("norms").get<std::deque<double>>();
    if (losses_.size() != norms_.size() || losses_.size() > window_)
        throw Error(ExitCode::checkpoint,
                    format("the checkpoint's window of accepted steps has %zu losses and %zu norms, not as many of both and at most %zu",
                           losses_.size(), norms_.size(), window_),
                    "use another checkpoint");
    skipped_ = state.at("skipped"), consecutive_skips_ = state.at("consecutive_skips"),
    consecutive_nonfinite_ = state.at("consecutive_nonfinite");
}

}  // namespace traincu
