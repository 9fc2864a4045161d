#include "src/report/charts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "src/base/error.h"
#include "src/report/svg.h"

namespace traincu {

namespace {

const char* const kRunColors[] = {"#1f5fbf", "#d9730d", "#0f8a6d", "#c2336b", "#7a4fd0", "#0b87a8", "#8a7a00", "#5b6472"};
const char* const kReferenceColors[] = {"#444b55", "#8a6d3b", "#6b7c5c", "#7a6a8a"};

std::string reference_color(size_t i) { return kReferenceColors[i % std::size(kReferenceColors)]; }

template <class Record, class Field>
Curve curve_of(const std::vector<Record>& records, Field field) {
    Curve curve;
    for (const Record& r : records) curve.add(static_cast<double>(r.step), field(r));
    return curve;
}

Curve by_tokens(const RunCurves& run) {
    Curve curve;
    for (const ValidationRecord& r : run.validations)
        if (r.tokens > 0 && (curve.empty() || static_cast<double>(r.tokens) > curve.x.back()))
            curve.add(static_cast<double>(r.tokens), r.val_loss);
    return curve;
}

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
                "stroke-width=\"2.5\"%s/></svg>%s</span>",
                line.color.c_str(), line.dashed ? " stroke-dasharray=\"6 3\"" : "", escape_html(line.label).c_str());
    return text + "</figcaption>\n" + svg(chart) + "</figure>\n";
}

struct Charts : View {
    Curve cut(const Curve& curve) const { return from > 0 ? curve.between(from, INFINITY) : curve; }

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
        chart.lines.push_back(
            {.curve = std::move(curve), .color = run_color(run), .label = std::move(label), .dots = true, .end_value = true});
    }

    // Every step in a light tone, and the mean that the eye would draw.
    void add_training(Chart& chart, size_t run, const std::string& color, const std::string& label, bool end_value) const {
        Curve raw = cut(training_loss(runs[run].curves));
        chart.lines.insert(chart.lines.begin(), {.curve = thin(raw, 600), .color = color, .width = 1, .opacity = several() ? 0.18 : 0.35});
        chart.lines.push_back({.curve = smoothed(raw), .color = color, .label = label, .end_value = end_value});
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
        if (together) add_training(chart, 0, "#86abdd", "training, averaged over 2 % of the steps", false);
        add_references(chart, validated() ? &ReferenceCurve::val_loss : &ReferenceCurve::train_loss, band);
        for (size_t i = 0; i < runs.size(); i++) {
            if (validated())
                add_measured(chart, i, cut(validation_loss(runs[i].curves)), several() ? runs[i].name : "validation");
            else
                add_training(chart, i, run_color(i), several() ? runs[i].name : "averaged over 2 % of the steps", true);
        }
        fit_after_start(chart);
        return figure(chart, "wide");
    }

    Chart training_chart() const {
        Chart chart{.title = "Training loss", .unit = "averaged over 2 % of the steps"};
        for (size_t i = 0; i < runs.size(); i++) add_training(chart, i, run_color(i), "", true);
        fit_after_start(chart);
        return chart;
    }

    Chart token_chart() const {
        Chart chart{.title = "Validation loss by tokens", .unit = "nats per token", .x_label = "tokens seen"};
        for (size_t i = 0; i < runs.size(); i++) add_measured(chart, i, by_tokens(runs[i].curves));
        fit_after_start(chart);
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
                chart.lines.back().dashed = r > 0;
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
            Curve curve = cut(curve_of(runs[i].curves.steps, field));
            chart.lines.push_back({.curve = thin(curve, 250), .color = run_color(i), .width = 1.3, .opacity = several() ? 0.8 : 1});
        }
        if (fit == Fit::after_start) fit_after_start(chart);
        return figure(chart, "third");
    }
};

}  // namespace

bool View::validated() const {
    return std::any_of(runs.begin(), runs.end(), [](const Run& run) { return !run.curves.validations.empty(); });
}

std::string run_color(size_t run) { return kRunColors[run % std::size(kRunColors)]; }

std::string all_charts(const View& view) {
    Charts charts{view};
    std::string text = charts.loss_chart();
    std::vector<Chart> halves;
    if (view.several() && view.validated()) halves = {charts.training_chart(), charts.token_chart()};
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
        "Gradient norm", "before clipping", [](const StepRecord& r) { return r.grad_norm; }, &ReferenceCurve::grad_norm, Fit::after_start);
    return text + charts.step_chart(
                      "Speed", "tokens per second", [](const StepRecord& r) { return r.tok_per_s; }, nullptr, Fit::all);
}

}  // namespace traincu
