// ./train report RUN...: the curves of runs as an HTML page, and whether they lie on a reference.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "src/base/error.h"
#include "src/base/files.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/report/charts.h"
#include "src/report/console.h"
#include "src/report/html.h"
#include "src/report/tensorboard.h"

namespace traincu {

namespace {

struct ReportOptions {
    std::vector<std::string> runs, references;
    double band = 0.02;
    int64_t from_step = -1;
    std::string out, save_curve, tensorboard;
};

// False where only help was asked for.
bool parse(int argc, char** argv, ReportOptions& options) {
    CLI::App app(
        "Writes the curves of one or several runs as one HTML page, and judges them by reference curves.\n"
        "Exit code with a reference: 0 if every run is within the band, 5 if one is outside.",
        "./train report");
    app.add_option("RUN", options.runs, format("run directories, up to %zu", kMostRuns))->required();
    app.add_option("--reference", options.references,
                   "a curve to compare with: CSV with step,val_loss,train_loss,lr,grad_norm; may be repeated")
        ->expected(1)
        ->take_all();
    app.add_option("--band", options.band, "how far from the reference is still on it, in nats")->capture_default_str();
    app.add_option("--from-step", options.from_step,
                   "curves and judgement begin here (else: whole curves, judged after the first 5 % of the reference)");
    app.add_option("--out", options.out, "the page (else: report.html in the first run directory)");
    app.add_option("--tensorboard", options.tensorboard,
                   "also write the runs' logs as TensorBoard event files, a folder for each run in here");
    app.add_option("--save-curve", options.save_curve, "also write the run's curve as CSV, to be a reference for others");
    if (!parse_command_line(app, argc, argv)) return false;
    if (!(options.band >= 0 && options.band < 1e6))
        throw Error(ExitCode::usage, "--band must be a number of nats that is not negative", "--band 0.02");
    if (options.runs.size() > kMostRuns)
        throw Error(ExitCode::usage, format("%zu runs are more than the %zu that one page can tell apart", options.runs.size(), kMostRuns),
                    "leave some out, or make several pages with --out");
    if (!options.save_curve.empty() && options.runs.size() > 1)
        throw Error(ExitCode::usage, "--save-curve takes the curve of one run", "name one run directory");
    return true;
}

void print_summary(const std::vector<Run>& runs) {
    size_t width = 3;
    for (const Run& run : runs) width = std::max(width, std::min<size_t>(run.name.size(), 40));
    std::printf("%-*s %9s %8s %9s %9s %9s %11s %8s\n", static_cast<int>(width), "run", "steps", "tokens", "loss", "best", "at step",
                "tok/s", "time");
    for (const Run& run : runs) {
        RunSummary s = summarize(run);
        // the end of a long name tells more than its beginning
        std::string name = run.name.size() > width ? "..." + run.name.substr(run.name.size() - width + 3) : run.name;
        std::printf("%-*s %9s %8s %9.4f %9.4f %9s %11s %8s%s\n", static_cast<int>(width), name.c_str(), with_commas(s.steps).c_str(),
                    short_count(static_cast<double>(s.tokens)).c_str(), s.final_loss, s.best_loss, with_commas(s.best_step).c_str(),
                    std::isfinite(s.tok_per_s) ? with_commas(std::llround(s.tok_per_s)).c_str() : "?", duration(s.seconds).c_str(),
                    s.by_validation ? "" : "   (training loss)");
    }
}

// When the run began, in seconds since 1970: its log was changed last at its end.
double begin_of(const Run& run) {
    const auto changed = std::filesystem::last_write_time(std::filesystem::path(run.directory) / "log.jsonl");
    const auto since_1970 = std::chrono::file_clock::to_sys(changed).time_since_epoch();
    return std::chrono::duration<double>(since_1970).count() - run.curves.seconds;
}

}  // namespace

int report_command(int argc, char** argv) {
    ReportOptions options;
    if (!parse(argc, argv, options)) return 0;
    std::vector<Run> runs = load_runs(options.runs);
    std::vector<ReferenceCurve> references;
    for (const std::string& path : options.references) references.push_back(read_curve_csv(path));

    std::string out = options.out.empty() ? (std::filesystem::path(options.runs[0]) / "report.html").string() : options.out;
    double from_step = static_cast<double>(options.from_step);
    write_whole_file(out, render_report(runs, references, options.band, from_step));
    if (!options.save_curve.empty()) write_curve_csv(options.save_curve, runs[0].curves);
    if (!options.tensorboard.empty())
        for (const Run& run : runs)
            write_events(run.curves, (std::filesystem::path(options.tensorboard) / run.name).string(), begin_of(run));

    print_summary(runs);
    bool within = true;
    for (const ReferenceCurve& reference : references)
        for (const Run& run : runs) {
            Comparison comparison = compare(run.curves, reference, options.band, from_step);
            std::printf("\n%s beside %s: %s\n  %s\n", run.name.c_str(), reference.name.c_str(), how_judged(comparison, reference).c_str(),
                        verdict(comparison).c_str());
            within = within && comparison.within;
        }
    std::printf("\nreport  %s\n", out.c_str());
    if (!options.save_curve.empty()) std::printf("curve   %s\n", options.save_curve.c_str());
    if (!options.tensorboard.empty())
        std::printf("events  %s   (tensorboard --logdir %s)\n", options.tensorboard.c_str(), options.tensorboard.c_str());
    return static_cast<int>(within ? ExitCode::done : ExitCode::numerical);
}

}  // namespace traincu
