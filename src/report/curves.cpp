#include "src/report/curves.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>

#include "src/base/error.h"
#include "src/base/files.h"
#include "src/report/console.h"

namespace traincu {

namespace {

const double kNone = std::numeric_limits<double>::quiet_NaN();

std::vector<std::string> split(const std::string& line) {
    std::vector<std::string> fields(1);
    for (char c : line) {
        if (c == ',')
            fields.emplace_back();
        else if (c != '\r' && c != ' ')
            fields.back() += c;
    }
    return fields;
}

// The whole field as a finite number; NaN otherwise.
double to_number(const std::string& field) {
    char* end = nullptr;
    double value = std::strtod(field.c_str(), &end);
    return !field.empty() && *end == '\0' && std::isfinite(value) ? value : kNone;
}

[[noreturn]] void malformed(const std::string& path, int64_t line, const std::string& what) {
    throw Error(ExitCode::data, format("%s, line %lld: %s", path.c_str(), static_cast<long long>(line), what.c_str()),
                "a curve is CSV with a header of step,val_loss,train_loss,lr,grad_norm,hellaswag (any of them beside step)")
        .file(path);
}

std::string step_text(double step) { return with_commas(std::llround(step)); }

}  // namespace

Curve Curve::between(double low, double high) const {
    Curve part;
    for (size_t i = 0; i < x.size(); i++)
        if (x[i] >= low && x[i] <= high) part.add(x[i], y[i]);
    return part;
}

double interpolate(const Curve& curve, double x) {
    if (curve.empty() || !(x >= curve.x.front() && x <= curve.x.back())) return kNone;
    size_t right = static_cast<size_t>(std::lower_bound(curve.x.begin(), curve.x.end(), x) - curve.x.begin());
    if (curve.x[right] == x) return curve.y[right];
    double t = (x - curve.x[right - 1]) / (curve.x[right] - curve.x[right - 1]);
    return curve.y[right - 1] + t * (curve.y[right] - curve.y[right - 1]);
}

Curve moving_mean(const Curve& curve, const std::vector<double>& at, double half_width) {
    // prefix sums of the finite values: any window is one subtraction
    std::vector<double> sum(1, 0.0), number(1, 0.0);
    for (double y : curve.y) {
        bool finite = std::isfinite(y);
        sum.push_back(sum.back() + (finite ? y : 0)), number.push_back(number.back() + (finite ? 1 : 0));
    }
    Curve mean;
    for (double center : at) {
        size_t begin = static_cast<size_t>(std::lower_bound(curve.x.begin(), curve.x.end(), center - half_width) - curve.x.begin());
        size_t end = static_cast<size_t>(std::upper_bound(curve.x.begin(), curve.x.end(), center + half_width) - curve.x.begin());
        double n = number[end] - number[begin];
        if (begin < end) mean.add(center, n > 0 ? (sum[end] - sum[begin]) / n : kNone);
    }
    return mean;
}

double ReferenceCurve::last_step() const {
    double last = 0;
    for (const Curve* curve : {&val_loss, &train_loss, &lr, &grad_norm, &hellaswag})
        if (!curve->empty()) last = std::max(last, curve->x.back());
    return last;
}

ReferenceCurve read_curve_csv(const std::string& path) {
    std::ifstream in(path);
    if (!in || !std::filesystem::is_regular_file(path))
        throw Error(ExitCode::data, "cannot read the reference curve " + path, "data/curves/ holds some; --save-curve writes one")
            .file(path);
    ReferenceCurve reference;
    reference.name = std::filesystem::path(path).stem().string();
    std::map<std::string, Curve*> known = {{"val_loss", &reference.val_loss},
                                           {"train_loss", &reference.train_loss},
                                           {"lr", &reference.lr},
                                           {"grad_norm", &reference.grad_norm},
                                           {"hellaswag", &reference.hellaswag}};
    std::string line;
    std::getline(in, line);
    std::vector<std::string> header = split(line);
    auto step_at = std::find(header.begin(), header.end(), "step");
    if (step_at == header.end()) malformed(path, 1, "the header has no column 'step'");
    size_t step_column = static_cast<size_t>(step_at - header.begin());

    double previous = -1;
    for (int64_t number = 2; std::getline(in, line); number++) {
        std::vector<std::string> fields = split(line);
        if (fields.size() == 1 && fields[0].empty()) continue;
        if (fields.size() != header.size())
            malformed(path, number, format("%zu fields where the header has %zu", fields.size(), header.size()));
        double step = to_number(fields[step_column]);
        if (!(step > previous && step < 1e15)) malformed(path, number, "'" + fields[step_column] + "' is no step after the one before");
        previous = step;
        for (size_t i = 0; i < fields.size(); i++) {
            auto column = known.find(header[i]);
            if (column == known.end() || fields[i].empty()) continue;
            double value = to_number(fields[i]);
            if (std::isnan(value)) malformed(path, number, "'" + fields[i] + "' is no number in column " + header[i]);
            column->second->add(step, value);
        }
    }
    return reference;
}

void write_curve_csv(const std::string& path, const RunCurves& run) {
    std::map<int64_t, std::string> validations, steps, answers;
    auto field = [](const char* fmt, double value) { return std::isfinite(value) ? format(fmt, value) : std::string(); };
    for (const ValidationRecord& r : run.validations) {
        validations[r.step] = field("%.4f", r.val_loss);
        if (r.hellaswag >= 0) answers[r.step] = format("%.4f", r.hellaswag);
    }
    for (const StepRecord& r : run.steps)
        if (r.step <= 200 || r.step % 50 == 0)
            steps[r.step] = field("%.4f", r.loss) + "," + field("%.6g", r.lr) + "," + field("%.4g", r.grad_norm);

    std::map<int64_t, std::string> rows;
    for (auto& [step, loss] : validations) rows[step] = loss + ",,,";
    for (auto& [step, values] : steps) rows[step] = validations[step] + "," + values;
    std::string text = std::string("step,val_loss,train_loss,lr,grad_norm") + (answers.empty() ? "" : ",hellaswag") + "\n";
    for (auto& [step, row] : rows) text += std::to_string(step) + "," + row + (answers.empty() ? "" : "," + answers[step]) + "\n";
    write_whole_file(path, text);
}

Curve training_loss(const RunCurves& run) {
    Curve curve;
    for (const StepRecord& r : run.steps) curve.add(static_cast<double>(r.step), r.loss);
    return curve;
}

Curve validation_loss(const RunCurves& run) {
    Curve curve;
    for (const ValidationRecord& r : run.validations) curve.add(static_cast<double>(r.step), r.val_loss);
    return curve;
}

Comparison compare(const RunCurves& run, const ReferenceCurve& reference, double band, double from_step) {
    Comparison c;
    c.band = band;
    c.judged_from = from_step >= 0 ? from_step : 0.05 * reference.last_step();
    Curve ours = validation_loss(run), theirs = reference.val_loss;
    c.by_validation = !ours.empty() && !theirs.empty();
    if (!c.by_validation) {
        ours = training_loss(run), theirs = reference.train_loss;
        if (ours.empty() || theirs.empty())
            throw Error(ExitCode::data,
                        "the run and the reference " + reference.name + " have neither validation nor training losses in common",
                        "let the run validate (--val-every), or choose another reference");
        // The same windows on both sides, inside the steps that both have: at the ends both lose the same half.
        double low = std::max(ours.x.front(), theirs.x.front()), high = std::min(ours.x.back(), theirs.x.back());
        std::vector<double> at = theirs.between(low, high).x;
        double half_width = 0.02 * reference.last_step();
        ours = moving_mean(ours.between(low, high), at, half_width), theirs = moving_mean(theirs.between(low, high), at, half_width);
    }
    double sum = 0;
    for (size_t i = 0; i < ours.x.size(); i++) {
        double step = ours.x[i], expected = interpolate(theirs, step);
        if (std::isnan(expected)) continue;
        double deviation = ours.y[i] - expected;  // NaN where our loss is: a run that diverged is outside of any band
        c.deviation.add(step, deviation);
        if (step < c.judged_from) continue;
        if (c.judged_points++ == 0) c.first = step;
        c.last = step;
        sum += deviation;
        bool worse = c.judged_points == 1 || std::isnan(deviation) || std::abs(deviation) > std::abs(c.worst);
        if (worse && !std::isnan(c.worst)) c.worst = deviation, c.worst_step = step, c.worst_ours = ours.y[i], c.worst_reference = expected;
    }
    if (c.judged_points == 0)
        throw Error(ExitCode::data,
                    format("no common step from %s on: the reference %s has steps %s to %s", step_text(c.judged_from).c_str(),
                           reference.name.c_str(), theirs.empty() ? "-" : step_text(theirs.x.front()).c_str(),
                           theirs.empty() ? "-" : step_text(theirs.x.back()).c_str()),
                    c.deviation.empty() ? "the run and the reference must share steps" : "train longer, or judge earlier with --from-step");
    c.mean = sum / static_cast<double>(c.judged_points);
    c.within = std::abs(c.worst) <= band + 1e-9;  // 3.30 - 3.28 is 0.02 on paper and a little more in binary
    return c;
}

std::string verdict(const Comparison& c) {
    return format("%s the band of %.3f nats: largest deviation %+.4f at step %s (ours %.4f, reference %.4f); mean %+.4f",
                  c.within ? "WITHIN" : "OUTSIDE", c.band, c.worst, step_text(c.worst_step).c_str(), c.worst_ours, c.worst_reference,
                  c.mean);
}

std::string how_judged(const Comparison& c, const ReferenceCurve& reference) {
    bool default_start = c.judged_from == 0.05 * reference.last_step();
    return format("%s at %s points, steps %s to %s (%s of %s; %s)", c.by_validation ? "validation loss judged" : "training loss judged",
                  with_commas(c.judged_points).c_str(), step_text(c.first).c_str(), step_text(c.last).c_str(),
                  default_start ? "after the first 5 %" : ("from step " + step_text(c.judged_from)).c_str(),
                  step_text(reference.last_step()).c_str(),
                  c.by_validation ? "the reference interpolated between its steps" : "both averaged over 4 % of the steps");
}

}  // namespace traincu
