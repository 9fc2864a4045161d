#include "src/report/tables.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/report/console.h"
#include "src/report/spread.h"
#include "src/report/svg.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

std::string json_text(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// A table with a row per run, whose columns of numbers are left out where no run has one.
class RunTable {
public:
    explicit RunTable(const View& view) : view_(view) {}

    template <class Value>
    void column(const std::string& head, Value value) {
        std::vector<std::string> cells;
        for (const Run& run : view_.runs) cells.push_back(value(run, summarize(run)));
        if (std::all_of(cells.begin(), cells.end(), [](const std::string& cell) { return cell.empty(); })) return;
        heads_.push_back(head), columns_.push_back(std::move(cells));
    }

    std::string html(const std::string& title, const std::string& after = "") const {
        if (columns_.empty()) return "";
        std::string text = title.empty() ? "" : "<h2>" + title + "</h2>\n";
        text += "<div class=\"panel\"><table><tr>";
        if (view_.several()) text += "<th>run</th>";
        for (const std::string& head : heads_) text += "<th class=\"number\">" + escape_html(head) + "</th>";
        text += "</tr>\n";
        for (size_t i = 0; i < view_.runs.size(); i++) {
            text += "<tr>";
            if (view_.several()) text += "<td class=\"run\">" + run_badge(i) + escape_html(view_.runs[i].name) + "</td>";
            for (const auto& cells : columns_) text += "<td class=\"number\">" + escape_html(cells[i]) + "</td>";
            text += "</tr>\n";
        }
        return text + "</table>" + after + "</div>\n";
    }

private:
    const View& view_;
    std::vector<std::string> heads_;
    std::vector<std::vector<std::string>> columns_;
};

// "" for what is unknown, which makes the cell (and perhaps the column) empty.
std::string known(const char* fmt, double value, bool is_known) { return is_known && std::isfinite(value) ? format(fmt, value) : ""; }

int64_t arena_bytes(const Run& run, const std::string& arena) {
    const Json& memory = object_in(run.settings, "memory");
    auto found = memory.find(arena);
    return found != memory.end() && found->is_number_unsigned()
               ? static_cast<int64_t>(std::min<uint64_t>(found->get<uint64_t>(), 1ull << 60))
               : 0;
}

// The arenas of all runs, in the order in which they are met.
std::vector<std::string> arenas_of(const View& view) {
    std::vector<std::string> names;
    for (const Run& run : view.runs)
        for (auto& [name, bytes] : object_in(run.settings, "memory").items())
            if (std::find(names.begin(), names.end(), name) == names.end() && names.size() < 16) names.push_back(name);
    return names;
}

std::string bytes_or_nothing(int64_t bytes) { return bytes > 0 ? human_bytes(bytes) : ""; }

// A bar for each run, as long as its memory, in parts of its arenas.
std::string memory_bars(const View& view, const std::vector<std::string>& arenas) {
    const char* const colors[] = {"#1f5fbf", "#6f9be0", "#b4cbee", "#d9730d", "#eeb06f",
                                  "#0f8a6d", "#7cc4b0", "#7a4fd0", "#b9a2e8", "#8f7a00"};
    double most = 0;
    std::vector<double> totals;
    for (const Run& run : view.runs) {
        totals.push_back(0);
        for (const std::string& arena : arenas) totals.back() += static_cast<double>(arena_bytes(run, arena));
        most = std::max(most, totals.back());
    }
    std::string text = "<div class=\"bars\">";
    for (size_t i = 0; i < view.runs.size(); i++) {
        text += "<div>" + (view.several() ? run_badge(i) : "") + "<span class=\"bar\">";
        for (size_t a = 0; a < arenas.size(); a++)
            if (int64_t bytes = arena_bytes(view.runs[i], arenas[a]); bytes > 0)
                text += format("<i style=\"width:%.2f%%;background:%s\" title=\"%s\"></i>", 100 * static_cast<double>(bytes) / most,
                               colors[a % std::size(colors)], escape_html(arenas[a] + " " + human_bytes(bytes)).c_str());
        text += "</span></div>";
    }
    text += "<p>";
    for (size_t a = 0; a < arenas.size(); a++)
        text += format("<span><i style=\"background:%s\"></i>%s</span> ", colors[a % std::size(colors)], escape_html(arenas[a]).c_str());
    return text + "</p></div>";
}

}  // namespace

std::string result_table(const View& view) {
    RunTable table(view);
    table.column("loss", [](const Run&, const RunSummary& s) { return format("%.4f", s.final_loss); });
    table.column("best", [](const Run&, const RunSummary& s) { return format("%.4f", s.best_loss); });
    table.column("at step", [](const Run&, const RunSummary& s) { return with_commas(s.best_step); });
    table.column("nats/byte", [](const Run&, const RunSummary& s) { return known("%.3f", s.nats_per_byte, s.nats_per_byte > 0); });
    table.column("HellaSwag", [](const Run&, const RunSummary& s) { return known("%.4f", s.hellaswag, s.hellaswag >= 0); });
    table.column("steps", [](const Run&, const RunSummary& s) { return with_commas(s.steps); });
    table.column("skipped", [](const Run&, const RunSummary& s) { return s.skipped ? with_commas(s.skipped) : ""; });
    table.column("tokens", [](const Run&, const RunSummary& s) { return short_count(static_cast<double>(s.tokens)); });
    table.column("time", [](const Run&, const RunSummary& s) { return duration(s.seconds); });
    table.column("parameters",
                 [](const Run&, const RunSummary& s) { return s.parameters > 0 ? short_count(static_cast<double>(s.parameters)) : ""; });
    return table.html("");
}

std::string speed_table(const View& view) {
    RunTable table(view);
    table.column("tokens per second",
                 [](const Run&, const RunSummary& s) { return std::isfinite(s.tok_per_s) ? with_commas(std::llround(s.tok_per_s)) : ""; });
    table.column("a step", [](const Run&, const RunSummary& s) { return std::isfinite(s.ms) ? milliseconds(s.ms) : ""; });
    table.column("of the peak (MFU)", [](const Run&, const RunSummary& s) { return known("%.1f %%", 100 * s.mfu, true); });
    table.column("in matrix products", [](const Run&, const RunSummary& s) { return known("%.0f %%", 100 * s.gemm_fraction, true); });
    table.column("in all", [](const Run&, const RunSummary& s) { return duration(s.seconds); });
    table.column("threads", [](const Run& run, const RunSummary&) {
        return run.settings.contains("threads") ? json_text(run.settings["threads"]) : "";
    });
    return table.html(
        "Speed",
        "<div class=\"where\">Medians over the steps; &#8220;in all&#8221; is the time with validations, samples and checkpoints.</div>");
}

std::string arena_table(const View& view) {
    const std::vector<std::string> arenas = arenas_of(view);
    if (arenas.empty()) return "";
    RunTable table(view);
    for (const std::string& arena : arenas)
        table.column(arena, [&](const Run& run, const RunSummary&) { return bytes_or_nothing(arena_bytes(run, arena)); });
    table.column("total", [&](const Run& run, const RunSummary&) {
        int64_t total = 0;
        for (const std::string& arena : arenas) total += arena_bytes(run, arena);
        return bytes_or_nothing(total);
    });
    return table.html("Memory", memory_bars(view, arenas));
}

std::string sent_table(const View& view) {
    // The median over a run's steps of what `value` says of one; NaN where it ran on one rank.
    auto median = [](const Run& run, auto value) {
        std::vector<double> values;
        for (const StepRecord& r : run.curves.steps)
            if (r.traffic.waited_ms >= 0 && r.ms > 0) values.push_back(static_cast<double>(value(r)));
        if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
        std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
        return values[values.size() / 2];
    };
    RunTable table(view);
    for (const char* name : {"ranks", "nodes"})
        table.column(name, [&](const Run& run, const RunSummary&) {
            return std::isfinite(median(run, [](const StepRecord& r) { return r.ms; })) && run.settings.contains(name)
                       ? json_text(run.settings[name])
                       : "";
        });
    auto bytes_column = [&](const char* head, auto bytes) {
        table.column(head, [&](const Run& run, const RunSummary&) {
            const double sent = median(run, [&](const StepRecord& r) { return bytes(r.traffic); });
            return sent > 0 ? human_bytes(static_cast<int64_t>(sent)) : "";
        });
    };
    bytes_column("weights, in the node", [](const TrafficRecord& t) { return t.weights_inside; });
    bytes_column("weights, to other nodes", [](const TrafficRecord& t) { return t.weights_between; });
    bytes_column("gradients, in the node", [](const TrafficRecord& t) { return t.gradients_inside; });
    bytes_column("gradients, to other nodes", [](const TrafficRecord& t) { return t.gradients_between; });
    bytes_column("other", [](const TrafficRecord& t) { return t.other; });
    bytes_column("total", [](const TrafficRecord& t) { return t.bytes(); });
    table.column("waited", [&](const Run& run, const RunSummary&) {
        return known("%.0f %% of the step", median(run, [](const StepRecord& r) { return 100 * r.traffic.waited_ms / r.ms; }), true);
    });
    return table.html("Sent between ranks",
                      "<div class=\"where\">By rank 0 in a step, medians. &#8220;Waited&#8221;: how long its host stood still for other "
                      "ranks; ranks with GPUs of their own wait on these instead.</div>");
}

std::string spread_table(const View& view) {
    std::string text;
    auto step = [](int64_t s) { return s < 0 ? std::string("none") : with_commas(s); };
    for (const Spread& s : spreads(view.runs)) {
        auto cell = [&](const std::string& value) { text += "<td class=\"number\">" + value + "</td>"; };
        text += "<tr><td>" + escape_html(s.what.empty() ? "all" : s.what) + "</td>";
        cell(with_commas(static_cast<int64_t>(s.runs))), cell(with_commas(static_cast<int64_t>(s.seeds))), cell(format("%.5f", s.loss));
        cell(known("%.1e", s.circumstances, true)), cell(known("%.1e", s.over_seeds, true)), cell(step(s.exact)), cell(step(s.far));
        text += "</tr>\n";
    }
    if (text.empty()) return "";
    std::string head = "<tr><th>runs alike but for seed and circumstances</th>";
    for (const char* name :
         {"runs", "seeds", "last loss, mean", "spread over circumstances", "spread over seeds", "first other step", "first 0.1 % away"})
        head += std::string("<th class=\"number\">") + name + "</th>";
    return "<h2>Circumstances</h2>\n<div class=\"panel\"><table>" + head + "</tr>\n" + text +
           "</table><div class=\"where\">Circumstances: how the same training was computed, in micro-batches, threads, kernels, or with "
           "recomputation. Spreads are the largest less the smallest last loss, over the runs of a seed (mean over seeds) and over the "
           "first runs of the seeds. Steps: the earliest whose training loss is not that of the seed&#8217;s first run.</div></div>\n";
}

std::string checkpoint_table(const View& view) {
    std::string text;
    for (size_t i = 0; i < view.runs.size(); i++) {
        const auto& all = view.runs[i].curves.checkpoints;
        if (all.empty()) continue;
        // a long run's list is told by its beginning and end
        std::string steps;
        for (size_t k = 0; k < all.size(); k++) {
            if (all.size() > 12 && k == 5) steps += ", &#8230;", k = all.size() - 5;
            steps += (steps.empty() ? "" : ", ") + with_commas(all[k].step);
        }
        text += "<tr>" + (view.several() ? "<td class=\"run\">" + run_badge(i) + escape_html(view.runs[i].name) + "</td>" : "") +
                "<td class=\"number\">" + with_commas(static_cast<int64_t>(all.size())) + "</td><td>" + steps + "</td><td>" +
                escape_html(all.back().text) + "</td></tr>\n";
    }
    if (text.empty()) return "";
    return std::string("<h2>Checkpoints</h2>\n<div class=\"panel\"><table><tr>") + (view.several() ? "<th>run</th>" : "") +
           "<th class=\"number\">written</th><th>after steps</th><th>the last</th></tr>\n" + text + "</table></div>\n";
}

std::string settings_lists(const Run& run) {
    std::string text;
    for (auto [key, title] : {std::pair{"options", "Settings"}, std::pair{"model", "Model"}}) {
        const Json& values = object_in(run.settings, key);
        if (values.empty()) continue;
        text += std::string("<h2>") + title + "</h2>\n<div class=\"panel\"><dl>";
        for (auto& [name, value] : values.items()) {
            std::string shown = json_text(value);
            text += "<div><dt>" + escape_html(name) + "</dt><dd>" + (shown.empty() ? "&#8211;" : escape_html(shown)) + "</dd></div>\n";
        }
        text += "</dl></div>\n";
    }
    return text;
}

std::string differing_settings(const View& view) {
    const std::vector<Run>& runs = view.runs;
    std::vector<std::pair<std::string, std::vector<std::string>>> rows;
    auto collect = [&](size_t i, const std::string& name, const Json& value) {
        auto row = std::find_if(rows.begin(), rows.end(), [&](auto& r) { return r.first == name; });
        if (row == rows.end()) row = rows.insert(rows.end(), {name, std::vector<std::string>(runs.size())});
        row->second[i] = json_text(value);
    };
    for (size_t i = 0; i < runs.size(); i++) {
        for (auto& [name, value] : object_in(runs[i].settings, "options").items())
            if (name != "out") collect(i, name, value);
        for (auto& [name, value] : object_in(runs[i].settings, "model").items()) collect(i, "model: " + name, value);
        for (auto [key, name] : {std::pair{"git_revision", "git revision"}, {"gemm_engine", "matrix products by"}})
            if (runs[i].settings.contains(key)) collect(i, name, runs[i].settings[key]);
    }
    std::string body, head = "<tr><th>setting</th>";
    bool differ = false;
    // names have no room over many columns: the numbers are explained by the first table
    for (size_t i = 0; i < runs.size(); i++) head += "<th>" + run_badge(i) + (runs.size() <= 5 ? escape_html(runs[i].name) : "") + "</th>";
    for (auto& [name, values] : rows) {
        const bool same = std::count(values.begin(), values.end(), values[0]) == std::ssize(values);
        if (same && name != "preset") continue;  // the preset is where all the others come from
        differ |= !same;
        body += "<tr><td>" + escape_html(name) + "</td>";
        for (const std::string& value : values) body += "<td>" + (value.empty() ? "&#8211;" : escape_html(value)) + "</td>";
        body += "</tr>\n";
    }
    if (rows.empty()) return "";
    if (!differ) return "<h2>Settings</h2>\n<div class=\"panel\">The same in all runs.</div>\n";
    return "<h2>Settings that differ</h2>\n<div class=\"panel\"><table>" + head + "</tr>\n" + body + "</table></div>\n";
}

}  // namespace traincu
