// The schedule's second interpreter: it walks the same list as the executor, and where that computes, it adds up what the cost table and
// the rates say. One rank does one thing at a time, so a step's time is a sum.
#pragma once

#include <array>
#include <vector>

#include "src/plan/cost.h"
#include "src/plan/rates.h"

namespace traincu {

struct StepTime {
    double seconds = 0;
    std::array<double, n_cost_groups> by_group{};  // seconds; CostGroup
    double recompute = 0;                          // seconds of `seconds` that only repeat what the forward did
    double product_flops = 0;                      // of all matrix products, the head's included
};

StepTime simulate(const std::vector<Instruction>& schedule, const StepShape& shape, Rates& rates);

}  // namespace traincu
