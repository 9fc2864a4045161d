// The charts of a report: which curves of the runs and references stand together, and how they are drawn.
#pragma once

#include "src/report/run.h"

namespace traincu {

constexpr size_t kMostRuns = 20;  // that one page tells apart

// What a report is about. from >= 0: curves and judgement begin at that step.
struct View {
    const std::vector<Run>& runs;
    const std::vector<ReferenceCurve>& references;
    double band, from;

    bool several() const { return runs.size() > 1; }
    bool validated() const;  // some run has validation losses
};

// A run among several is known by its number, its colour, and from the eleventh on by dashes: this is its sign in tables.
std::string run_badge(size_t run);
std::string all_charts(const View& view);  // <figure> elements

}  // namespace traincu
