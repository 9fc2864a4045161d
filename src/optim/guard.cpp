#include "src/optim/guard.h"

#include <algorithm>
#include <vector>

namespace traincu {

std::string skip_reason(const GuardState& s) {
    switch (s.verdict) {
        case Verdict::accepted:
            return "";
        case Verdict::loss_not_finite:
            return format("loss is %f", s.loss);
        case Verdict::norm_not_finite:
            return format("gradient norm is %f", s.norm);
        case Verdict::loss_spike:
            return format("loss %.1f sigma above the last %lld steps", s.z, static_cast<long long>(GuardState::window));
        case Verdict::norm_spike:
            return format("gradient norm %.1f sigma above the last %lld steps", s.z, static_cast<long long>(GuardState::window));
    }
    return "unknown verdict";
}

nlohmann::ordered_json guard_to_json(const GuardState& s) {
    return {{"losses", std::vector<double>(s.losses, s.losses + s.filled)},
            {"norms", std::vector<double>(s.norms, s.norms + s.filled)},
            {"skipped", s.skipped},
            {"consecutive_skips", s.consecutive_skips},
            {"consecutive_nonfinite", s.consecutive_nonfinite}};
}

GuardState guard_from_json(const nlohmann::ordered_json& json) {
    GuardState s;
    const auto losses = json.at("losses").get<std::vector<double>>(), norms = json.at("norms").get<std::vector<double>>();
    if (losses.size() != norms.size() || losses.size() > static_cast<size_t>(GuardState::window))
        throw Error(ExitCode::checkpoint,
                    format("the checkpoint's window of accepted steps has %zu losses and %zu norms, not as many of both and at most %lld",
                           losses.size(), norms.size(), static_cast<long long>(GuardState::window)),
                    "use another checkpoint");
    std::copy(losses.begin(), losses.end(), s.losses), std::copy(norms.begin(), norms.end(), s.norms);
    s.filled = static_cast<int64_t>(losses.size());
    s.skipped = json.at("skipped"), s.consecutive_skips = json.at("consecutive_skips"),
    s.consecutive_nonfinite = json.at("consecutive_nonfinite");
    return s;
}

}  // namespace traincu
