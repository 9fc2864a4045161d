#include "src/report/html.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "src/base/error.h"
#include "src/base/files.h"
#include "src/report/charts.h"
#include "src/report/console.h"
#include "src/report/svg.h"
#include "src/report/tables.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

const char* const kStyle = R"(
:root { --ink: #1d2430; --soft: #667080; --rule: #e3e5e8; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f8; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1128px; margin: 0 auto; padding: 36px 20px 56px; }
.brand { color: var(--soft); font-size: 13px; letter-spacing: .06em; }
h1 { font-size: 28px; line-height: 1.25; margin: 2px 0 4px; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 10px; font-weight: 650; }
.command { color: var(--soft); font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(152px, 1fr)); gap: 12px; margin: 22px 0 12px; }
.card, figure, .panel { background: #fff; border: 1px solid var(--rule); border-radius: 8px; break-inside: avoid; }
.card { padding: 12px 16px 13px; }
.card .name { color: var(--soft); font-size: 12.5px; }
.card .value { font-size: 24px; line-height: 1.3; font-weight: 600; letter-spacing: -.01em; }
.card .more { color: var(--soft); font-size: 12.5px; }
.verdict { display: flex; gap: 14px; align-items: baseline; padding: 11px 16px; margin: 0 0 12px; }
.verdict b { font-size: 13px; letter-spacing: .05em; } .within b { color: #0f7a4d; } .outside b { color: #b3261e; }
.within { border-left: 4px solid #2f9e6e; } .outside { border-left: 4px solid #d1493f; } .open { border-left: 4px solid #b9bfc7; }
.verdict small { display: block; color: var(--soft); font-size: 12.5px; }
.charts { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; }
figure { margin: 0; padding: 12px 14px 8px 12px; grid-column: span 3; min-width: 0;
  display: flex; flex-direction: column; justify-content: space-between; }
figure.wide { grid-column: 1 / -1; }
figure.third { grid-column: span 2; }
@media screen and (max-width: 820px) { figure, figure.third { grid-column: 1 / -1; } }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin: 0 4px 6px; font-size: 12.5px;
  color: var(--soft); }
figcaption b { color: var(--ink); font-size: 14.5px; font-weight: 600; }
figcaption .legend { display: inline-flex; align-items: center; gap: 6px; } figcaption .legend svg { width: 22px; height: 8px; }
svg { display: block; width: 100%; height: auto; font-size: 11px; font-family: inherit; }
.grid { stroke: #eceef0; } .axis { stroke: #b9bfc7; } .tick { fill: #667080; } .end { font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 3px; stroke-linejoin: round; }
.end .mark { font-weight: 400; font-size: 10px; } figcaption .mark { font-weight: 600; color: var(--ink); } .level { font-size: 11px; }
.panel { padding: 6px 16px 10px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; } th { font-weight: 500; color: var(--soft); text-align: left; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; } th { overflow-wrap: normal; }
td.run { min-width: 150px; }
.badge { display: inline-block; min-width: 26px; padding: 0 4px; margin-right: 8px; border: 1.5px solid; border-radius: 10px; color: #fff;
  font: 600 11px/16px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; text-align: center; vertical-align: 1px; }
.bars { padding: 12px 0 4px; } .bars div { display: flex; align-items: center; margin: 4px 0; }
.bars .badge { width: 30px; flex: none; } .bar { flex: 1; display: flex; height: 14px; } .bar i { height: 14px; border-right: 1px solid #fff; }
.bars p { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 8px 0 0; color: var(--soft); font-size: 12.5px; }
.bars p i { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 10px; }
dl { columns: 3 240px; column-gap: 34px; margin: 4px 0; font-size: 13px; }
dl div { display: flex; justify-content: space-between; gap: 12px; padding: 2px 0; border-bottom: 1px solid #f0f1f3; break-inside: avoid; }
dt { color: var(--soft); white-space: nowrap; } dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; margin: 4px 0 6px; }
.panel + .panel { margin-top: 10px; } .samples .panel { margin: 0; }
h1 + .panel { margin: 22px 0 12px; }
.where { color: var(--soft); font-size: 12.5px; padding-top: 4px; }
@media print {
  body { background: #fff; font-size: 12px; }
  main { padding: 0; max-width: none; }
  .cards { grid-template-columns: repeat(6, 1fr); }
  .card { padding: 8px 10px; }
  .card .value { font-size: 17px; }
  h2 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  @page { size: landscape; margin: 12mm; }
  .panel { overflow: visible; break-inside: auto; } tr, .samples .panel, .bars { break-inside: avoid; }
  table { font-size: 11px; } th, td { padding: 3px 10px 3px 0; } td.run { min-width: 110px; }
}
)";

std::string string_in(const Json& settings, const char* key) {
    auto found = settings.find(key);
    return found != settings.end() && found->is_string() ? found->get<std::string>() : "";
}

// ---- the parts of the page

struct Page : View {
    std::string verdicts() const {
        std::string text;
        for (const ReferenceCurve& reference : references)
            for (const Run& run : runs) {
                std::string name = escape_html(several() ? run.name + " beside " + reference.name : reference.name);
                try {
                    Comparison c = compare(run.curves, reference, band, from);
                    std::string words = verdict(c), head = words.substr(0, words.find(' '));
                    text += "<div class=\"panel verdict " + std::string(c.within ? "within" : "outside") + "\"><b>" + head + "</b><span>" +
                            escape_html(words.substr(head.size() + 1)) + "<small>" + name + ": " + escape_html(how_judged(c, reference)) +
                            "</small></span></div>\n";
                } catch (const Error& error) {
                    text += "<div class=\"panel verdict open\"><b>NOT COMPARED</b><span>" + name + "<small>" + escape_html(error.what()) +
                            "</small></span></div>\n";
                }
            }
        return text;
    }

    std::string cards() const {
        RunSummary s = summarize(runs[0]);
        std::string text = "<div class=\"cards\">\n";
        auto card = [&](const std::string& name, const std::string& value, const std::string& more) {
            text += "<div class=\"card\"><div class=\"name\">" + name + "</div><div class=\"value\">" + value +
                    "</div><div class=\"more\">" + more + "</div></div>\n";
        };
        card(s.by_validation ? "Validation loss" : "Training loss", format("%.4f", s.final_loss),
             s.by_validation ? format("best %.4f at step %s", s.best_loss, with_commas(s.best_step).c_str()) : "mean of the last steps");
        if (s.nats_per_byte > 0)
            card("Nats per byte", format("%.3f", s.nats_per_byte), format("%.3f bits per byte", s.nats_per_byte / std::numbers::ln2));
        card("Tokens", short_count(static_cast<double>(s.tokens)),
             with_commas(s.steps) + " steps" + (s.skipped ? ", " + with_commas(s.skipped) + " skipped" : ""));
        card("Time", duration(s.seconds), "of training");
        card("Tokens per second", std::isfinite(s.tok_per_s) ? with_commas(std::llround(s.tok_per_s)) : "?",
             std::isfinite(s.mfu)             ? format("%.0f %% of peak", 100 * s.mfu)
             : std::isfinite(s.gemm_fraction) ? format("%.0f %% in matrix products", 100 * s.gemm_fraction)
                                              : "median");
        if (s.parameters > 0) card("Parameters", short_count(static_cast<double>(s.parameters)), with_commas(s.parameters));
        return text + "</div>\n";
    }

    // What the runs wrote, beside each other: the last sample of each, or the last three of one.
    std::string samples() const {
        std::string text;
        for (size_t i = 0; i < runs.size(); i++) {
            const auto& all = runs[i].curves.samples;
            for (size_t k = all.size() - std::min<size_t>(all.size(), several() ? 1 : 3); k < all.size(); k++)
                text += "<div class=\"panel\"><div class=\"where\">" + sign(i) + "step " + with_commas(all[k].step) + "</div><pre>" +
                        escape_html(all[k].text) + "</pre></div>\n";
        }
        return text.empty() ? "" : "<h2>Samples</h2>\n<div class=\"samples\">" + text + "</div>\n";
    }

    std::string remarks() const {
        std::string text;
        for (size_t i = 0; i < runs.size(); i++) {
            const auto& all = runs[i].curves.notes;
            for (size_t k = all.size() - std::min<size_t>(all.size(), 8); k < all.size(); k++)
                text += "<tr><td class=\"run\">" + sign(i) + "step " + with_commas(all[k].step) + "</td><td>" + escape_html(all[k].text) +
                        "</td></tr>\n";
        }
        return text.empty() ? "" : "<h2>Remarks</h2>\n<div class=\"panel\"><table>" + text + "</table></div>\n";
    }

    std::string commands() const {
        std::string text;
        for (size_t i = 0; i < runs.size(); i++) {
            std::string command = string_in(runs[i].settings, "command"), revision = string_in(runs[i].settings, "git_revision");
            if (!command.empty())
                text += "<div class=\"command\">" + (several() ? run_badge(i) : "") + escape_html(command) +
                        (revision.empty() ? "" : " &#160;(" + escape_html(revision) + ")") + "</div>\n";
        }
        if (several() && !text.empty()) return "<h2>Command lines</h2>\n<div class=\"panel\">" + text + "</div>\n";
        return text;
    }

    std::string sign(size_t run) const { return several() ? run_badge(run) + escape_html(runs[run].name) + ", " : ""; }

    std::string title() const {
        if (runs.size() > 3) return format("%zu runs beside each other", runs.size());
        std::string names = runs[0].name;
        for (size_t i = 1; i < runs.size(); i++) names += (i + 1 < runs.size() ? ", " : " and ") + runs[i].name;
        return names;
    }

    std::string render() const {
        std::string name = escape_html(title());
        std::string text =
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, "
            "initial-scale=1\"/>\n<title>" +
            name + " - train.cu</title>\n<style>" + kStyle +
            "</style></head>\n<body><main>\n<div class=\"brand\">train.cu report</div><h1>" + name + "</h1>\n";
        const std::string charts = "<div class=\"charts\">\n" + all_charts(*this) + "</div>\n";
        if (!several()) {
            text += commands() + cards() + verdicts() + charts + samples() + remarks() + sent_table(*this) + arena_table(*this) +
                    checkpoint_table(*this) + settings_lists(runs[0]);
            std::string build = string_in(runs[0].settings, "build");
            if (!build.empty()) text += "<h2>Build</h2>\n<div class=\"panel\"><pre>" + escape_html(build) + "</pre></div>\n";
        } else {
            text += result_table(*this) + verdicts() + charts + spread_table(*this) + differing_settings(*this) + speed_table(*this) +
                    sent_table(*this) + arena_table(*this) + samples() + remarks() + checkpoint_table(*this) + commands();
        }
        return text + "</main></body></html>\n";
    }
};

}  // namespace

std::string render_report(const std::vector<Run>& runs, const std::vector<ReferenceCurve>& references, double band, double from_step) {
    ENSURE(!runs.empty());
    return Page{{runs, references, band, from_step}}.render();
}

void write_report(const std::vector<std::string>& runs, const std::vector<std::string>& references, double band, const std::string& out) {
    std::vector<ReferenceCurve> curves;
    for (const std::string& path : references) curves.push_back(read_curve_csv(path));
    write_whole_file(out, render_report(load_runs(runs), curves, band));
}

}  // namespace traincu
