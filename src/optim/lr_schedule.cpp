#include "src/optim/lr_schedule.h"

#include <algorithm>
#include <cmath>

namespace traincu {

double LrSchedule::at(int64_t step) const {
    if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (shape == "constant") return peak;
    double begin = static_cast<double>(warmup_steps), end = static_cast<double>(max_steps);
    if (shape == "wsd") begin = std::max(begin, end * (1 - decay_fraction));
    if (static_cast<double>(step) < begin) return peak;
    double progress = end > begin ? std::min(1.0, (static_cast<double>(step) - begin) / (end - begin)) : 1.0;
    double remaining = shape == "cosine" ? 0.5 * (1 + std::cos(3.141592653589793 * progress)) : 1 - progress;
    return peak * (min_fraction + (1 - min_fraction) * remaining);
}

}  // namespace traincu
