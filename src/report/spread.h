// What losses owe to circumstances: runs of the same training, whose options say the same of model, data, recipe and precision, and that
// differ in how it was computed: micro-batches, threads, kernels, recomputation. Their spread is beside that over seeds.
#pragma once

#include <string>
#include <vector>

#include "src/report/run.h"

namespace traincu {

// The steps where a run's loss is not that of another; -1: at none that both logged.
struct Parting {
    int64_t common = 0;     // steps that both logged
    int64_t exact = -1;     // the first with another loss
    int64_t relative = -1;  // the first that is far_apart of it away
};
constexpr double far_apart = 1e-3;
Parting parting(const Run& first, const Run& other);

double loss_at(const Run& run, int64_t step);  // training loss; NaN where it was not logged

struct Spread {
    std::string what;  // the options in which it is unlike the other groups: "precision bf16"
    size_t runs = 0, seeds = 0;
    double loss = 0;               // mean of the last losses (RunSummary::final_loss)
    double circumstances = 0;      // largest less smallest last loss of a seed's runs, mean over the seeds; NaN: no seed has two
    double over_seeds = 0;         // the same over seeds, of the first run of each; NaN: one seed
    int64_t exact = -1, far = -1;  // the earliest Parting among runs of a seed
};
// A row for each group of runs that are the same training, in the order of their first runs. Empty where no seed of any group has two runs.
std::vector<Spread> spreads(const std::vector<Run>& runs);

}  // namespace traincu
