#include "src/report/charts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "src/base/error.h"
#include "src/report/svg.h"

namespace traincu {

namespace {

// Ten that stay apart on white and on paper, also for most who see colours differently beside their numbers; then again, dashed.
const char* const kRunColors[] = {"#1f5fbf", "#d9730d", "#0f8a6d", "#c2336b", "#7a4fd0",
                                  "#1a9cc4", "#8f7a00", "#8c4a2f", "#d65fb0", "#5f9a2f"};
const char* const kReferenceColors[] = {"#444b55", "#8a6d3b", "#6b7c5c", "#7a6a8a"};

std::string reference_color(size_t i) { return kReferenceColors[i % std::size(kReferenceColors)]; }

std::string run_color(size_t run) { return kRunColors[run % std::size(kRunColors)]; }
bool run_dashed(size_t run) { return run >= std::size(kRunColors); }

// The first 5 % of the x axis would set the scale of all the rest: they may leave the frame.
void fit_after_start(Chart& chart) {
    for (const Line& line : chart.lines)
        if (!line.curve.empty()) chart.fit_from = std::max(chart.fit_from, 0.05 * line.curve.x.back());
}

bool has_values(const Chart& chart) {
    return std::any_of(chart.lines.begin(), chart.lines.end(), [](const Line& line) {
        return std::any_of(line.curve.y.begin(), line.curve.y.end(), [](double y) { return std::isfinite(y); });
    });
}

std::string figure(const Chart& chart, const std::string& kind) {
    if (!has_values(chart)) return "";
    std::string text = "<figure class=\"" + kind + "\"><figcaption><b>" + escape_html(chart.title) + "</b><span>" + escape_html(chart.unit);
    if (chart.fit_from > 0 && leaves_frame(chart)) text += chart.unit.empty() ? "begins above the frame" : "; begins above the frame";
    text += "</span>";
    for (const Line& line : chart.lines)
        if (!line.label.empty() && !line.curve.empty())
            text += format(
                "<span class=\"legend\"><svg viewBox=\"0 0 22 8\"><line x1=\"0\" x2=\"22\" y1=\"4\" y2=\"4\" stroke=\"%s\" "
                "stroke-width=\"2.5\"%s/></svg>%s%s</span>",
                line.color.c_str(), line.dashed ? " stroke-dasharray=\"6 3\"" : "",
                line.mark.empty() ? "" : ("<span class=\"mark\">" + escape_html(line.mark) + "</span>").c_str(),
                escape_html(line.label).c_str());
    return text + "</figcaption>\n" + svg(chart) + "</figure>\n";
}

// What a loss is drawn over.
enum class Axis { step, tokens, time };

struct Charts : View {
    explicit Charts(const View& view) : View(view) {
        double longest = 0;
        for (const Run& run : runs) longest = std::max(longest, run.curves.seconds);
        if (longest > 180) unit = "minutes", unit_seconds = 60;
        if (longest > 3 * 3600) unit = "hours", unit_seconds = 3600;
        if (longest > 4 * 86400) unit = "days", unit_seconds = 86400;
    }
    const char* unit = "seconds";  // of the time axis
    double unit_seconds = 1;

    template <class Record>
    double position(const Record& r, Axis axis) const {
        if (axis == Axis::step) return static_cast<double>(r.step);
        return axis == Axis::time ? r.time / unit_seconds : r.tokens > 0 || r.step == 0 ? static_cast<double>(r.tokens) : NAN;
    }

    // Over an axis, ascending; records that do not know where they are on it are left out.
    template <class Record, class Field>
    Curve curve_of(const std::vector<Record>& records, Axis axis, Field field) const {
        Curve curve;
        for (const Record& r : records)
            if (double x = position(r, axis), y = field(r);
                static_cast<double>(r.step) >= from && x >= (curve.empty() ? 0 : curve.x.back()))
                curve.add(x, y);
        return curve;
    }

    Curve measured_loss(size_t run, Axis axis) const {
        return curve_of(runs[run].curves.validations, axis, [](const ValidationRecord& r) { return r.val_loss; });
    }

    // The mean over steps, drawn over another axis.
    template <class Field>
    Curve mean_curve(size_t run, Axis axis, Field field) const {
        const std::vector<StepRecord>& steps = runs[run].curves.steps;
        Curve mean = smoothed(curve_of(steps, Axis::step, field)), moved;
        for (size_t i = 0; i < mean.x.size(); i++) {
            auto record = std::lower_bound(steps.begin(), steps.end(), mean.x[i],
                                           [](const StepRecord& r, double step) { return static_cast<double>(r.step) < step; });
            if (double x = position(*record, axis); x >= (moved.empty() ? 0 : moved.x.back())) moved.add(x, mean.y[i]);
        }
        return moved;
    }

    Curve cut(const Curve& curve) const { return from > 0 ? curve.between(from, INFINITY) : curve; }

    // A line in the colour of its run.
    Line run_line(size_t run, Curve curve) const {
        Line line{.curve = std::move(curve), .color = run_color(run)};
        if (several()) line.mark = std::to_string(run + 1), line.name = runs[run].name, line.dashed = run_dashed(run);
        return line;
    }

    void add_references(Chart& chart, Curve ReferenceCurve::*column, double half_height) const {
        double last = 0;
        for (const Run& run : runs) last = std::max(last, static_cast<double>(summarize(run).steps));
        for (size_t i = 0; i < references.size(); i++) {
            // beside a short run only the beginning of a long reference is of interest
            Curve curve = thin(cut(references[i].*column).between(0, 1.25 * last), 300);
            if (half_height > 0) chart.bands.push_back({curve, half_height, "#444b5526"});
            chart.lines.push_back({.curve = curve, .color = reference_color(i), .label = references[i].name, .width = 1.4, .dashed = true});
        }
    }

    // A loss that is measured now and then: marks, and the last value in figures.
    void add_measured(Chart& chart, size_t run, Curve curve, std::string label = "") const {
        Line line = run_line(run, std::move(curve));
        line.label = std::move(label), line.dots = line.end_value = true;
        chart.lines.push_back(std::move(line));
    }

    // The mean that the eye would draw, and every step in a light tone where there are few runs.
    void add_training(Chart& chart, size_t run, Axis axis, const std::string& label, bool end_value) const {
        auto loss = [](const StepRecord& r) { return r.loss; };
        Line line = run_line(run, mean_curve(run, axis, loss));
        line.label = label, line.end_value = end_value;
        if (!end_value) line.color = "#86abdd";  // beside the validation losses of the same run
        if (runs.size() <= 3)
            chart.lines.insert(chart.lines.begin(), {.curve = thin(curve_of(runs[run].curves.steps, axis, loss), 600),
                                                     .color = line.color,
                                                     .width = 1,
                                                     .opacity = several() ? 0.18 : 0.35});
        chart.lines.push_back(std::move(line));
    }

    // The chart on top names the runs and their colours for all below it. One run: training and validation together.
    std::string loss_chart() const {
        bool together = !several() && validated();
        Chart chart{.title = together      ? "Loss"
                             : validated() ? "Validation loss"
                                           : "Training loss",
                    .unit = "nats per token",
                    .width = 1058,
                    .height = 360};
        if (together) add_training(chart, 0, Axis::step, "training, averaged over 2 % of the steps", false);
        add_references(chart, validated() ? &ReferenceCurve::val_loss : &ReferenceCurve::train_loss, band);
        for (size_t i = 0; i < runs.size(); i++) {
            if (validated())
                add_measured(chart, i, measured_loss(i, Axis::step), several() ? runs[i].name : "validation");
            else
                add_training(chart, i, Axis::step, several() ? runs[i].name : "averaged over 2 % of the steps", true);
        }
        fit_after_start(chart);
        return figure(chart, "wide");
    }

    Chart training_chart() const {
        Chart chart{.title = "Training loss", .unit = "averaged over 2 % of the steps"};
        for (size_t i = 0; i < runs.size(); i++) add_training(chart, i, Axis::step, "", true);
        fit_after_start(chart);
        return chart;
    }

    // The same loss over what it cost: two runs that make the same number of steps may differ in both.
    Chart loss_over(Axis axis) const {
        Chart chart{
            .title = std::string(validated() ? "Validation" : "Training") + " loss by " + (axis == Axis::tokens ? "tokens" : "time"),
            .unit = "nats per token",
            .x_label = axis == Axis::tokens ? "tokens seen" : std::string(unit) + " since the start"};
        for (size_t i = 0; i < runs.size(); i++) {
            if (validated())
                add_measured(chart, i, measured_loss(i, axis));
            else
                add_training(chart, i, axis, "", true);
        }
        fit_after_start(chart);
        return chart;
    }

    Chart hellaswag_chart() const {
        Chart chart{.title = "HellaSwag", .unit = "share of right answers"};
        for (size_t i = 0; i < runs.size(); i++) {
            std::vector<ValidationRecord> measured;
            for (const ValidationRecord& r : runs[i].curves.validations)
                if (r.hellaswag >= 0) measured.push_back(r);
            add_measured(chart, i, curve_of(measured, Axis::step, [](const ValidationRecord& r) { return r.hellaswag; }));
        }
        if (has_values(chart)) add_references(chart, &ReferenceCurve::hellaswag, 0);
        return chart;
    }

    Chart byte_chart() const {
        Chart chart{.title = "Validation loss by bytes of text", .unit = "nats per byte"};
        std::map<std::string, double> baselines;
        for (size_t i = 0; i < runs.size(); i++) {
            add_measured(chart, i, cut(nats_per_byte(runs[i].curves)));
            for (auto& [name, value] : object_in(runs[i].settings, "baselines").items())
                if (value.is_number()) baselines[name] = value.get<double>();
        }
        for (auto& [name, value] : baselines) chart.levels.push_back({value, name + format("  %.3f", value), "#6b5a2e"});
        fit_after_start(chart);
        return chart;
    }

    Chart deviation_chart() const {
        Chart chart{
            .title = "Distance from the reference", .unit = "nats, run minus reference", .keep_in_frame = {-1.3 * band, 1.3 * band}};
        Curve zero;
        for (size_t r = 0; r < references.size(); r++)
            for (size_t i = 0; i < runs.size(); i++) {
                Curve deviation;
                try {
                    Comparison c = compare(runs[i].curves, references[r], band, from);
                    deviation = cut(c.deviation);
                    chart.fit_from = std::max(chart.fit_from, c.judged_from);
                } catch (const Error&) {
                    continue;  // said where the verdicts stand
                }
                add_measured(chart, i, deviation, references.size() > 1 ? (several() ? runs[i].name + ", " : "") + references[r].name : "");
                if (references.size() > 1) chart.lines.back().dashed = r > 0;
                zero.add(deviation.x.front(), 0), zero.add(deviation.x.back(), 0);
            }
        std::sort(zero.x.begin(), zero.x.end());
        chart.bands.push_back({zero, band, "#2f9e6e2e"});
        return chart;
    }

    enum class Fit { all, after_start };
    template <class Field>
    std::string step_chart(const char* title, const char* unit, Field field, Curve ReferenceCurve::*column, Fit fit) const {
        Chart chart{.title = title, .unit = unit, .from_zero = true, .width = 330, .height = 200};
        if (column) add_references(chart, column, 0);
        for (Line& line : chart.lines) line.label = "", line.width = 1.1;
        for (size_t i = 0; i < runs.size(); i++) {
            // one run shows every step; of several the noise would hide one another
            Line line =
                run_line(i, several() ? mean_curve(i, Axis::step, field) : thin(curve_of(runs[i].curves.steps, Axis::step, field), 250));
            line.width = 1.3;
            chart.lines.push_back(std::move(line));
        }
        if (fit == Fit::after_start) fit_after_start(chart);
        return figure(chart, "third");
    }
};

}  // namespace

bool View::validated() const {
    return std::any_of(runs.begin(), runs.end(), [](const Run& run) { return !run.curves.validations.empty(); });
}

std::string run_badge(size_t run) {
    std::string color = run_color(run);
    return format("<span class=\"badge\" style=\"border-color:%s;%s\">%zu</span>", color.c_str(),
                  (run_dashed(run) ? "border-style:dashed;color:" + color : "background:" + color).c_str(), run + 1);
}

std::string all_charts(const View& view) {
    Charts charts{view};
    std::string text = charts.loss_chart();
    std::vector<Chart> halves;
    if (view.several()) halves = {charts.loss_over(Axis::tokens), charts.loss_over(Axis::time)};
    if (view.several() && view.validated()) halves.push_back(charts.training_chart());
    halves.push_back(charts.hellaswag_chart());
    halves.push_back(charts.deviation_chart());
    halves.push_back(charts.byte_chart());
    std::erase_if(halves, [](const Chart& chart) { return !has_values(chart); });
    // two beside each other; the last of an odd number gets the whole width
    for (size_t i = 0; i < halves.size(); i++) {
        bool alone = i + 1 == halves.size() && i % 2 == 0;
        if (alone) halves[i].width = 1058, halves[i].height = 280;
        text += figure(halves[i], alone ? "wide" : "half");
    }
    using Fit = Charts::Fit;
    text += charts.step_chart(
        "Learning rate", "", [](const StepRecord& r) { return r.lr; }, &ReferenceCurve::lr, Fit::all);
    text += charts.step_chart(
        "Gradient norm", view.several() ? "before clipping, averaged" : "before clipping", [](const StepRecord& r) { return r.grad_norm; },
        &ReferenceCurve::grad_norm, Fit::after_start);
    return text + charts.step_chart(
                      "Speed", view.several() ? "tokens per second, averaged" : "tokens per second",
                      [](const StepRecord& r) { return r.tok_per_s; }, nullptr, Fit::all);
}

}  // namespace traincu
