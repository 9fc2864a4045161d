// Curves of runs and of references, and the comparison of one with the other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/report/log.h"

namespace traincu {

// y over x, x ascending.
struct Curve {
    std::vector<double> x, y;

    bool empty() const { return x.empty(); }
    void add(double at, double value) { x.push_back(at), y.push_back(value); }
    Curve between(double low, double high) const;  // the points with low <= x <= high
};

// Linear between the points; NaN outside of them.
double interpolate(const Curve& curve, double x);

// At each of `at`: the mean over the points with |x - at| <= half_width. Places without points are left out; among the points those
// that are not finite are passed over, and a mean of nothing else is NaN.
Curve moving_mean(const Curve& curve, const std::vector<double>& at, double half_width);

// A published or saved curve: CSV with a header of some of step,val_loss,train_loss,lr,grad_norm,hellaswag; empty fields are allowed.
struct ReferenceCurve {
    std::string name;  // the file's name without .csv
    Curve val_loss, train_loss, lr, grad_norm, hellaswag;

    double last_step() const;
};
ReferenceCurve read_curve_csv(const std::string& path);  // Error(data) with file and line

// A run as such a CSV: every validation; training loss, lr and norm for the first 200 steps and every 50th after. The column hellaswag
// only where it was scored.
void write_curve_csv(const std::string& path, const RunCurves& run);

Curve training_loss(const RunCurves& run);
Curve validation_loss(const RunCurves& run);

// How far a run is from a reference, in nats. Judged where both have a loss, after the first 5 % of the reference's steps
// (there the curve is so steep that one step of difference exceeds any band), or from `from_step` on if that is >= 0.
// Validation losses: the reference interpolated at the run's steps. Where one of the two has none: training losses, both
// averaged over the same window around the reference's steps.
struct Comparison {
    bool within = false;
    bool by_validation = true;
    double band = 0, judged_from = 0;
    Curve deviation;  // run minus reference at every common step, also the unjudged ones
    int64_t judged_points = 0;
    double first = 0, last = 0;  // steps judged
    double worst = 0, worst_step = 0, worst_ours = 0, worst_reference = 0;
    double mean = 0;  // of the judged deviations
};
// Error(data) if there is no step to judge.
Comparison compare(const RunCurves& run, const ReferenceCurve& reference, double band, double from_step = -1);

// "WITHIN the band of 0.020 nats: largest deviation ..." and a line that says where and how it was judged.
std::string verdict(const Comparison& comparison);
std::string how_judged(const Comparison& comparison, const ReferenceCurve& reference);

}  // namespace traincu
