// Learning rate by step: a linear warmup, then a shape.
#pragma once

#include <cstdint>
#include <string>

namespace traincu {

struct LrSchedule {
    std::string shape = "cosine";  // cosine, linear, wsd, constant
    double peak = 1e-3, min_fraction = 0.1;
    int64_t warmup_steps = 0, max_steps = 1;
    double decay_fraction = 0.2;  // wsd (Hu et al. 2024): constant, then linear over this share of the steps at the end

    // The rate of step 0, 1, ..., max_steps - 1. Warmup: peak * (step + 1) / warmup_steps, as llm.c.
    double at(int64_t step) const;
};

}  // namespace traincu
