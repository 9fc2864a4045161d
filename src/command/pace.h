// How a run goes forward: the time and the energy of its steps so far, and what that means for the rest.
#pragma once

#include "src/device/telemetry.h"
#include "src/report/log.h"

namespace traincu {

struct Pace {
    double step_seconds = 0, product_seconds = 0;  // of all steps; of their matrix products, where that is known
    double joules = 0;                             // since the first step, where the GPU tells; checkpoints and validations included
    int64_t tokens = 0;                            // in that time

    // Counts a step, and fills in when the run will be done and what the GPU says. reading: as new as the step.
    void add(StepRecord& record, int64_t step_tokens, const GpuReading& reading) {
        smooth_ms_ = smooth_ms_ == 0 ? record.ms : 0.95 * smooth_ms_ + 0.05 * record.ms;
        step_seconds += record.ms / 1e3;
        if (record.gemm_fraction > 0) product_seconds += record.gemm_fraction * record.ms / 1e3;
        record.eta_seconds = smooth_ms_ / 1e3 * static_cast<double>(record.max_steps - record.step);
        record.power_w = reading.power_w.value_or(-1), record.temperature_c = reading.temperature_c.value_or(-1);
        record.sm_clock_mhz = reading.sm_clock_mhz.value_or(-1), record.throttled = reading.throttled.value_or("");
        if (!reading.energy_j) return;
        if (first_joules_ < 0) {  // what was used before this step's end is not counted
            first_joules_ = *reading.energy_j;
            return;
        }
        waiting_ += step_tokens;  // the reading may be older than the step: then it is counted with the next
        if (*reading.energy_j - first_joules_ > joules) tokens += waiting_, waiting_ = 0, joules = *reading.energy_j - first_joules_;
        if (tokens > 0) record.joules_per_token = joules / static_cast<double>(tokens);
    }

private:
    double smooth_ms_ = 0, first_joules_ = -1;
    int64_t waiting_ = 0;
};

}  // namespace traincu
