// How a run goes forward: the time of its steps so far, and what that means for the rest.
#pragma once

#include "src/report/log.h"

namespace traincu {

struct Pace {
    double step_seconds = 0, product_seconds = 0;  // of all steps; of their matrix products, where that is known

    // Counts the step, and fills in when the run will be done.
    void add(StepRecord& record) {
        smooth_ms_ = smooth_ms_ == 0 ? record.ms : 0.95 * smooth_ms_ + 0.05 * record.ms;
        step_seconds += record.ms / 1e3;
        if (record.gemm_fraction > 0) product_seconds += record.gemm_fraction * record.ms / 1e3;
        record.eta_seconds = smooth_ms_ / 1e3 * static_cast<double>(record.max_steps - record.step);
    }

private:
    double smooth_ms_ = 0;
};

}  // namespace traincu
