#include "src/report/log.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/base/files.h"
#include "src/report/tensorboard.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

const double kUnknown = std::numeric_limits<double>::quiet_NaN();

// A line as a record: an object with a step. Anything else (torn, foreign) gives null.
Json parse_record(const std::string& line) {
    Json record = Json::parse(line, nullptr, false);
    if (!record.is_object()) return nullptr;
    auto step = record.find("step");
    // 2^53 bounds what a double holds exactly; it keeps later arithmetic on steps free of overflow
    if (step == record.end() || !step->is_number_unsigned() || step->get<uint64_t>() > (uint64_t{1} << 53)) return nullptr;
    return record;
}

double number(const Json& record, const char* key, double otherwise = kUnknown) {
    auto value = record.find(key);
    return value != record.end() && value->is_number() ? value->get<double>() : otherwise;
}

int64_t count(const Json& record, const char* key) {
    double value = number(record, key, 0);
    return value > 0 && value < 9e18 ? static_cast<int64_t>(value) : 0;
}

std::string text_of(const Json& record, const char* key) {
    auto value = record.find(key);
    return value != record.end() && value->is_string() ? value->get<std::string>() : "";
}

std::string one_line(const Json& record) {
    // text from a model need not be UTF-8: what is not is replaced
    return record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool is_regular(const std::string& path) {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

double wall_clock() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Ends a list at the first record that a later one of the same or an earlier step overtakes.
template <class Record>
void push_in_order(std::vector<Record>& records, Record record) {
    while (!records.empty() && records.back().step >= record.step) records.pop_back();
    records.push_back(std::move(record));
}

}  // namespace

RunLog::RunLog(std::string path, int64_t resumed_step, bool tensorboard) : path_(std::move(path)) {
    if (is_regular(path_) && resumed_step < 0) {
        struct stat info;
        if (::stat(path_.c_str(), &info) == 0 && info.st_size > 0 && ::rename(path_.c_str(), (path_ + ".old").c_str()) != 0)
            throw Error(ExitCode::io, "cannot set the older log aside: " + path_ + ": " + std::strerror(errno), "choose another --out")
                .file(path_);
    } else if (is_regular(path_)) {
        std::ifstream in(path_, std::ios::binary);
        std::string line, kept;
        bool changed = false, ends_whole = true;
        while (std::getline(in, line)) {
            ends_whole = !in.eof();  // no newline after the last line
            Json record = parse_record(line);
            if (record.is_null() || record["step"].get<int64_t>() > resumed_step || !ends_whole) {
                changed = true;
                continue;
            }
            kept += line + "\n";
            earlier_seconds_ = std::max(earlier_seconds_, number(record, "time", 0));
            if (record.contains("val_loss")) last_validation_ = record["step"].get<int64_t>();
            if (record.contains("sample")) last_sample_ = record["step"].get<int64_t>();
        }
        if (changed && !replace_file(path_, kept)) {
            torn_ = !ends_whole;
            warn(std::string("cannot be tidied after the resume: ") + std::strerror(errno));
        }
    }
    if (path_.empty()) return;
    file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file_ < 0)
        throw Error(ExitCode::io, "cannot open the log " + path_ + ": " + std::strerror(errno),
                    "the run directory (--out) must be writable")
            .file(path_);
    if (tensorboard)
        events_ = std::make_unique<EventFile>((std::filesystem::path(path_).parent_path() / "tensorboard").string(), resumed_step + 1,
                                              wall_clock());
}

RunLog::~RunLog() {
    if (file_ >= 0) ::close(file_);
}

static std::vector<std::pair<const char*, double>> gpu_fields(const StepRecord& r) {
    return {{"power_w", r.power_w},
            {"temperature_c", r.temperature_c},
            {"sm_clock_mhz", r.sm_clock_mhz},
            {"joules_per_token", r.joules_per_token}};
}

void RunLog::step(const StepRecord& r) {
    Json record;
    record["step"] = r.step;
    record["loss"] = r.loss;
    record["lr"] = r.lr;
    record["grad_norm"] = r.grad_norm;
    record["tokens"] = r.tokens;
    record["tok_per_s"] = r.tok_per_s;
    record["ms"] = r.ms;
    if (r.mfu >= 0) record["mfu"] = r.mfu;
    if (r.gemm_fraction >= 0) record["gemm_fraction"] = r.gemm_fraction;
    for (const auto& [name, value] : gpu_fields(r))
        if (value >= 0) record[name] = value;
    if (!r.throttled.empty()) record["throttled"] = r.throttled;
    if (const TrafficRecord& t = r.traffic; t.waited_ms >= 0)
        record["sent"] = {{"weights_inside", t.weights_inside},
                          {"weights_between", t.weights_between},
                          {"gradients_inside", t.gradients_inside},
                          {"gradients_between", t.gradients_between},
                          {"other", t.other},
                          {"waited_ms", t.waited_ms}};
    if (!r.skipped.empty()) record["skipped"] = r.skipped;
    append(record);
    if (events_) events_->step(r, wall_clock());
}

void RunLog::validation(const ValidationRecord& r) {
    Json record;
    record["step"] = r.step;
    record["val_loss"] = r.val_loss;
    if (r.bits_per_byte >= 0) record["val_bits_per_byte"] = r.bits_per_byte;
    if (r.hellaswag >= 0) record["hellaswag"] = r.hellaswag;
    record["tokens"] = r.tokens;
    append(record);
    if (events_) events_->validation(r, wall_clock());
    last_validation_ = r.step;
}

void RunLog::sample(int64_t step, const std::string& text) {
    text_record(step, "sample", text);
    if (events_) events_->text("sample", step, text, wall_clock());
    last_sample_ = step;
}

void RunLog::checkpoint(int64_t step, const std::string& path) { text_record(step, "checkpoint", path); }

void RunLog::note(int64_t step, const std::string& text) {
    text_record(step, "note", text);
    if (events_) events_->text("note", step, text, wall_clock());
}

void RunLog::text_record(int64_t step, const char* key, const std::string& text) {
    Json record;
    record["step"] = step;
    record[key] = text;
    append(record);
}

void RunLog::append(Json& record) {
    if (path_.empty()) return;
    double seconds = earlier_seconds_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    record["time"] = std::round(seconds * 1e3) / 1e3;
    std::string line = (torn_ ? "\n" : "") + one_line(record);
    ssize_t written;
    do written = ::write(file_, line.data(), line.size());
    while (written < 0 && errno == EINTR);
    if (written == static_cast<ssize_t>(line.size())) {
        torn_ = false;
        return;
    }
    if (written > 0) torn_ = true;
    warn(written < 0 ? std::strerror(errno) : "a record was written in part: no space left");
}

void RunLog::warn(const std::string& why) {
    if (warnings_++ == 0)
        std::fprintf(stderr, "warning: log %s: %s; training goes on, further log errors are only counted\n", path_.c_str(), why.c_str());
}

RunCurves read_log(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in || !is_regular(path))
        throw Error(ExitCode::data, "cannot read the log " + path, "a run directory holds a log.jsonl").file(path);
    RunCurves curves;
    std::string line;
    while (std::getline(in, line)) {
        if (line.empty()) continue;
        Json record = parse_record(line);
        if (record.is_null()) {
            curves.ignored_lines++;
            continue;
        }
        int64_t step = record["step"].get<int64_t>();
        curves.seconds = std::max(curves.seconds, number(record, "time", 0));
        if (record.contains("val_loss"))
            push_in_order(curves.validations,
                          ValidationRecord{step, number(record, "val_loss"), number(record, "val_bits_per_byte", -1),
                                           count(record, "tokens"), number(record, "hellaswag", -1), number(record, "time")});
        if (record.contains("loss")) {
            StepRecord r;
            r.step = step;
            r.loss = number(record, "loss"), r.grad_norm = number(record, "grad_norm"), r.lr = number(record, "lr");
            r.ms = number(record, "ms"), r.tok_per_s = number(record, "tok_per_s");
            r.mfu = number(record, "mfu", -1), r.gemm_fraction = number(record, "gemm_fraction", -1);
            r.power_w = number(record, "power_w", -1), r.temperature_c = number(record, "temperature_c", -1);
            r.sm_clock_mhz = number(record, "sm_clock_mhz", -1), r.joules_per_token = number(record, "joules_per_token", -1);
            r.throttled = text_of(record, "throttled");
            if (auto sent = record.find("sent"); sent != record.end() && sent->is_object()) {
                auto bytes = [&](const char* key) { return std::min(count(*sent, key), int64_t{1} << 60); };  // their sum is one too
                r.traffic = {bytes("weights_inside"),    bytes("weights_between"), bytes("gradients_inside"),
                             bytes("gradients_between"), bytes("other"),           number(*sent, "waited_ms", -1)};
            }
            r.tokens = count(record, "tokens");
            r.skipped = text_of(record, "skipped"), r.time = number(record, "time");
            push_in_order(curves.steps, std::move(r));
        }
        // several notes may belong to one step; they go back only with the steps
        auto collect = [&](const char* key, std::vector<RunCurves::Text>& list) {
            if (!record.contains(key)) return;
            while (!list.empty() && list.back().step > step) list.pop_back();
            list.push_back({step, text_of(record, key), number(record, "time")});
        };
        collect("sample", curves.samples);
        collect("checkpoint", curves.checkpoints);
        collect("note", curves.notes);
    }
    return curves;
}

}  // namespace traincu
