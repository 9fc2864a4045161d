// A run directory as the report sees it: its log, its settings, and what summary cards and tables show of it.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/report/curves.h"

namespace traincu {

struct Run {
    std::string directory, name;
    RunCurves curves;
    nlohmann::ordered_json settings;  // run.json; an empty object if there is none
};

// Error(data) for a directory or log that is missing, or a run.json that is no JSON object.
Run load_run(const std::string& directory);
// Names are made distinct by as many of the folders above as that takes: a/run and b/run.
std::vector<Run> load_runs(const std::vector<std::string>& directories);

// What summary cards and tables show of a run. NaN or 0 where unknown.
struct RunSummary {
    int64_t steps = 0, tokens = 0, parameters = 0, skipped = 0;
    double final_loss = 0, best_loss = 0;  // validation; training (averaged over the last steps) if there was none
    int64_t best_step = 0;
    bool by_validation = true;
    double nats_per_byte = 0;
    double hellaswag = -1;                                     // accuracy at the end; below 0: not measured
    double tok_per_s = 0, ms = 0, mfu = 0, gemm_fraction = 0;  // medians over the steps
    double seconds = 0;
};
RunSummary summarize(const Run& run);

// The mean that the eye would draw through a noisy curve: over 2 % of its steps, at up to about 400 of them.
Curve smoothed(const Curve& curve);
// Validation loss by bytes of text, where the run knows it.
Curve nats_per_byte(const RunCurves& run);
// The object under a key of run.json; an empty one if there is none.
const nlohmann::ordered_json& object_in(const nlohmann::ordered_json& settings, const char* key);

}  // namespace traincu
