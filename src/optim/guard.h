// The guard between the gradients and the weights: an update whose loss or gradient norm is not finite never reaches weights or moments,
// and one that lies far above the recent ones is skipped.
#pragma once

#include <deque>
#include <string>

#include <nlohmann/json.hpp>

namespace traincu {

class Guard {
public:
    // zscore_limit: skip when loss or norm lies this many standard deviations above the window of the last 128 accepted steps; 0 = never.
    explicit Guard(double zscore_limit) : limit_(zscore_limit) {}

    // Decides on one step. Empty: accept. Otherwise why it is skipped: "loss is nan", "norm 7.1 sigma above the last 128 steps".
    std::string judge(double loss, double grad_norm);

    int64_t skipped() const { return skipped_; }
    int64_t consecutive_nonfinite() const { return consecutive_nonfinite_; }

    // The window goes into the checkpoint, so that a resumed run decides alike.
    nlohmann::ordered_json state() const;
    void restore(const nlohmann::ordered_json& state);

private:
    static constexpr size_t window_ = 128;
    static constexpr int level_shift_ = 8;  // more skips in a row than this: not spikes but a new level; the window starts anew

    double limit_;
    std::deque<double> losses_, norms_;  // accepted, finite
    int64_t skipped_ = 0, consecutive_skips_ = 0, consecutive_nonfinite_ = 0;
};

}  // namespace traincu
