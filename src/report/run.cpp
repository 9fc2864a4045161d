#include "src/report/run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numbers>

#include "src/base/error.h"

namespace traincu {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const double kNone = std::numeric_limits<double>::quiet_NaN();

double median(std::vector<double> values) {
    std::erase_if(values, [](double v) { return !std::isfinite(v) || v < 0; });
    if (values.empty()) return kNone;
    auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

fs::path clean_path(const std::string& directory) {
    fs::path path = fs::absolute(directory).lexically_normal();
    return path.has_filename() ? path : path.parent_path();  // without a slash at the end
}

// The end of the run's path that is one folder longer than its name; the name itself where the path has no more.
std::string with_one_more_folder(const Run& run) {
    fs::path rest = clean_path(run.directory), name;
    for (bool longer = false; !longer && rest.has_filename(); rest = rest.parent_path()) {
        name = name.empty() ? rest.filename() : rest.filename() / name;
        longer = name.string().size() > run.name.size();
    }
    return name.string();
}

}  // namespace

const Json& object_in(const Json& settings, const char* key) {
    static const Json empty = Json::object();
    auto found = settings.find(key);
    return found != settings.end() && found->is_object() ? *found : empty;
}

Curve smoothed(const Curve& curve) {
    if (curve.empty()) return curve;
    std::vector<double> at;
    size_t every = std::max<size_t>(1, curve.x.size() / 400);
    for (size_t i = 0; i < curve.x.size(); i += every) at.push_back(curve.x[i]);
    if (at.back() != curve.x.back()) at.push_back(curve.x.back());
    return moving_mean(curve, at, std::max(2.0, 0.01 * (curve.x.back() - curve.x.front())));
}

Curve nats_per_byte(const RunCurves& run) {
    Curve curve;
    for (const ValidationRecord& r : run.validations)
        if (r.bits_per_byte >= 0) curve.add(static_cast<double>(r.step), r.bits_per_byte * std::numbers::ln2);
    return curve;
}

Run load_run(const std::string& directory) {
    if (!fs::is_directory(directory))
        throw Error(ExitCode::data, "there is no run directory " + directory, "name the directory given to --out").file(directory);
    Run run;
    run.directory = directory;
    run.name = clean_path(directory).filename().string();
    run.curves = read_log((fs::path(directory) / "log.jsonl").string());
    if (run.curves.steps.empty() && run.curves.validations.empty())
        throw Error(ExitCode::data, "the log of " + directory + " holds no step yet", "let the run make a step first")
            .file(directory + "/log.jsonl");
    run.settings = Json::object();
    std::string settings_path = (fs::path(directory) / "run.json").string();
    if (std::ifstream in(settings_path); in) {
        run.settings = Json::parse(in, nullptr, false);
        if (!run.settings.is_object())
            throw Error(ExitCode::data, settings_path + " is not a JSON object", "remove it: the report does without").file(settings_path);
    }
    return run;
}

std::vector<Run> load_runs(const std::vector<std::string>& directories) {
    std::vector<Run> runs;
    for (const std::string& directory : directories) runs.push_back(load_run(directory));
    auto shared = [&](const Run& run) {
        return std::count_if(runs.begin(), runs.end(), [&](const Run& other) { return other.name == run.name; }) > 1;
    };
    for (bool grown = true; grown;) {
        std::vector<std::string> longer;
        for (const Run& run : runs) longer.push_back(shared(run) ? with_one_more_folder(run) : run.name);
        grown = false;
        for (size_t i = 0; i < runs.size(); i++) grown |= longer[i] != runs[i].name, runs[i].name = longer[i];
    }
    // one directory named twice
    for (size_t i = 0; i < runs.size(); i++)
        for (int k = 2; shared(runs[i]); k++) runs[i].name = runs[i].name.substr(0, runs[i].name.rfind(" (")) + format(" (%d)", k);
    return runs;
}

RunSummary summarize(const Run& run) {
    RunSummary s;
    const RunCurves& c = run.curves;
    std::vector<double> speeds, times, mfus, gemms;
    for (const StepRecord& r : c.steps) {
        speeds.push_back(r.tok_per_s), times.push_back(r.ms), mfus.push_back(r.mfu), gemms.push_back(r.gemm_fraction);
        s.skipped += !r.skipped.empty();
    }
    s.tok_per_s = median(speeds), s.ms = median(times), s.mfu = median(mfus), s.gemm_fraction = median(gemms);
    s.seconds = c.seconds;
    if (!c.steps.empty()) s.steps = c.steps.back().step, s.tokens = c.steps.back().tokens;
    if (!c.validations.empty())
        s.steps = std::max(s.steps, c.validations.back().step), s.tokens = std::max(s.tokens, c.validations.back().tokens);

    s.by_validation = !c.validations.empty();
    Curve loss = s.by_validation ? validation_loss(c) : smoothed(training_loss(c));
    s.final_loss = loss.y.back(), s.best_loss = kNone;
    for (size_t i = 0; i < loss.x.size(); i++)
        if (!(loss.y[i] >= s.best_loss) && std::isfinite(loss.y[i])) s.best_loss = loss.y[i], s.best_step = static_cast<int64_t>(loss.x[i]);
    Curve bytes = nats_per_byte(c);
    s.nats_per_byte = bytes.empty() ? 0 : bytes.y.back();
    for (const ValidationRecord& r : c.validations)
        if (r.hellaswag >= 0) s.hellaswag = r.hellaswag;
    for (const Json* place : {&run.settings, &object_in(run.settings, "model")})
        if (auto count = place->find("parameters"); count != place->end() && count->is_number_unsigned())
            s.parameters = static_cast<int64_t>(count->get<uint64_t>());
    return s;
}

}  // namespace traincu
