#include "src/report/spread.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "src/config/options.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

// Does this option say what is trained, or only how it is computed? The seed is neither: runs of a group may differ in it.
bool says_what(const OptionRow& row) {
    for (const char* name : {"precision", "precision-of", "master-weights", "fp32-products", "max-steps", "quant-weights", "quant-grads"})
        if (std::strcmp(row.name, name) == 0) return true;
    return row.resume == OptionRow::Resume::same && std::strcmp(row.name, "seed") != 0;
}

Json option(const Run& run, const char* name) {
    const Json& options = object_in(run.settings, "options");
    const auto found = options.find(name);
    return found == options.end() ? Json() : *found;
}

struct Group {
    std::vector<const Run*> runs;
    std::map<std::string, std::vector<const Run*>> by_seed;
};

bool same_training(const Run& a, const Run& b) {
    for (const OptionRow& row : option_table())
        if (says_what(row) && option(a, row.name) != option(b, row.name)) return false;
    return true;
}

double range_of(const std::vector<double>& values) {
    if (values.size() < 2) return std::nan("");
    for (double v : values)
        if (!std::isfinite(v)) return std::nan("");
    return *std::max_element(values.begin(), values.end()) - *std::min_element(values.begin(), values.end());
}

void take_earlier(int64_t& earliest, int64_t step) {
    if (step >= 0 && (earliest < 0 || step < earliest)) earliest = step;
}

Spread spread_of(const Group& group) {
    Spread s;
    s.runs = group.runs.size(), s.seeds = group.by_seed.size();
    for (const Run* run : group.runs) s.loss += summarize(*run).final_loss / static_cast<double>(s.runs);
    std::vector<double> first_of_seeds;
    double sum = 0;
    int seeds_with_two = 0;
    for (const auto& [seed, runs] : group.by_seed) {
        std::vector<double> losses;
        for (const Run* run : runs) {
            losses.push_back(summarize(*run).final_loss);
            const Parting p = parting(*runs[0], *run);
            take_earlier(s.exact, p.exact), take_earlier(s.far, p.relative);
        }
        first_of_seeds.push_back(losses[0]);
        if (losses.size() > 1) sum += range_of(losses), seeds_with_two++;
    }
    s.circumstances = seeds_with_two > 0 ? sum / seeds_with_two : std::nan("");
    s.over_seeds = range_of(first_of_seeds);
    return s;
}

}  // namespace

Parting parting(const Run& first, const Run& other) {
    std::map<int64_t, double> losses;
    for (const StepRecord& r : first.curves.steps) losses[r.step] = r.loss;
    Parting p;
    for (const StepRecord& r : other.curves.steps) {
        const auto there = losses.find(r.step);
        if (there == losses.end()) continue;
        p.common++;
        const double a = there->second, b = r.loss;
        if (a == b || (std::isnan(a) && std::isnan(b))) continue;
        if (p.exact < 0) p.exact = r.step;
        if (p.relative < 0 && !(std::fabs(a - b) <= far_apart * std::fabs(a))) p.relative = r.step;  // also where one is no number
    }
    return p;
}

double loss_at(const Run& run, int64_t step) {
    for (const StepRecord& r : run.curves.steps)
        if (r.step == step) return r.loss;
    return std::nan("");
}

std::vector<Spread> spreads(const std::vector<Run>& runs) {
    std::vector<Group> groups;
    for (const Run& run : runs) {
        auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return same_training(*g.runs[0], run); });
        if (group == groups.end()) group = groups.insert(groups.end(), Group{});
        group->runs.push_back(&run);
        group->by_seed[option(run, "seed").dump()].push_back(&run);
    }
    std::vector<Spread> rows;
    bool any = false;
    for (const Group& group : groups) {
        Spread row = spread_of(group);
        for (const OptionRow& of : option_table())
            if (says_what(of) && std::any_of(groups.begin(), groups.end(), [&](const Group& other) {
                    return option(*other.runs[0], of.name) != option(*group.runs[0], of.name);
                }))
                row.what += (row.what.empty() ? "" : ", ") + std::string(of.name) + " " + flag_text(option(*group.runs[0], of.name));
        any = any || row.runs > row.seeds;
        rows.push_back(row);
    }
    return any ? rows : std::vector<Spread>();
}

}  // namespace traincu
