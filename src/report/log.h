// The log of a run: `log.jsonl`, one JSON object a line, appended while training and read back by the report.
//
//   {"step":120,"loss":1.8423,"lr":0.00098,"grad_norm":0.412,"tokens":491520,"tok_per_s":25412,"ms":161,"time":19.3}
//   {"step":120,"val_loss":1.7512,"val_bits_per_byte":1.102,"hellaswag":0.2955,"tokens":491520,"time":19.9}
//   {"step":120,"sample":"..."}   {"step":120,"checkpoint":"..."}   {"step":120,"note":"..."}
//
// `time` is in seconds since the run began; pauses before a resume are left out.
//
// A step counts the optimizer updates done: the first record is step 1, and a checkpoint of step k holds k updates.
// On a GPU a step also has power_w, temperature_c, sm_clock_mhz, joules_per_token, and throttled where something holds the clocks down.
// On several ranks a step has "sent": {"weights_inside":..., ..., "waited_ms":...}, a TrafficRecord of rank 0.
// A number that is not finite is written as null; one that is unknown (mfu, gemm_fraction, bits per byte, hellaswag, ...) is left out.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace traincu {

// What a rank sent in a step, in bytes, to ranks of its node and of others; the largest of all ranks need not be known.
struct TrafficRecord {
    int64_t weights_inside = 0, weights_between = 0, gradients_inside = 0, gradients_between = 0, other = 0;
    double waited_ms = -1;  // that the host stood still for others; below 0: one rank

    int64_t bytes() const { return weights_inside + weights_between + gradients_inside + gradients_between + other; }
};

struct StepRecord {
    int64_t step = 0, max_steps = 0;
    double loss = 0, grad_norm = 0, lr = 0;
    double ms = 0, tok_per_s = 0;
    double mfu = -1;            // fraction of the machine's peak; below 0: unknown
    double gemm_fraction = -1;  // share of the step spent in matrix products; below 0: unknown
    // Of the GPU, where it tells; below 0: unknown.
    double power_w = -1, temperature_c = -1, sm_clock_mhz = -1, joules_per_token = -1;
    std::string throttled;  // what holds its clocks down: "power cap"
    int64_t tokens = 0;     // seen so far
    double eta_seconds = -1;
    TrafficRecord traffic;
    std::string skipped;  // why the update was skipped; empty where it was done
    double time = 0;      // seconds since the run began, pauses left out; filled in by the log
};

struct ValidationRecord {
    int64_t step = 0;
    double val_loss = 0;
    double bits_per_byte = -1;  // below 0: unknown
    int64_t tokens = 0;
    double hellaswag = -1;  // share of right answers (acc_norm); below 0: not scored
    double time = 0;        // as in a step
};

class EventFile;

// Appends to a log, and to TensorBoard's event files beside it where wanted. Losing a line of it never stops a training run: a full disk
// costs one warning on stderr and a count.
class RunLog {
public:
    // Opens `path` (a log.jsonl); an empty one: nothing is written (a rank beside the one that writes). resumed_step >= 0: goes on with the
    // run that is in it, without torn lines and without what was logged after that step, so that each step appears once. Below 0: a new
    // run; an older log is kept as `path`.old. tensorboard: every record goes to an event file too, in the folder `tensorboard` beside the
    // log. Throws Error(io) where the file cannot be opened: that is before training.
    RunLog(std::string path, int64_t resumed_step, bool tensorboard = false);
    ~RunLog();
    RunLog(const RunLog&) = delete;
    RunLog& operator=(const RunLog&) = delete;

    void step(const StepRecord& record);
    void validation(const ValidationRecord& record);
    void sample(int64_t step, const std::string& text);
    void checkpoint(int64_t step, const std::string& path);
    void note(int64_t step, const std::string& text);

    int64_t warnings() const { return warnings_; }  // records that could not be written whole

    // The steps of the newest validation and sample in the log, also of those before a resume; -1: none.
    int64_t last_validation() const { return last_validation_; }
    int64_t last_sample() const { return last_sample_; }

private:
    void text_record(int64_t step, const char* key, const std::string& text);
    void append(nlohmann::ordered_json& record);
    void warn(const std::string& why);

    std::string path_;
    int file_ = -1;
    int64_t warnings_ = 0;
    int64_t last_validation_ = -1, last_sample_ = -1;
    std::unique_ptr<EventFile> events_;  // null without tensorboard
    bool torn_ = false;                  // the last write was cut short: the next record begins on a new line
    double earlier_seconds_ = 0;         // of the run before it was resumed
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A log read back. Unknown values are NaN (mfu and the like as in the records: below 0).
struct RunCurves {
    struct Text {
        int64_t step;
        std::string text;
        double time;  // as in the records
    };
    std::vector<StepRecord> steps;              // ascending, each step once
    std::vector<ValidationRecord> validations;  // the same
    std::vector<Text> samples, checkpoints, notes;
    double seconds = 0;         // of training
    int64_t ignored_lines = 0;  // torn or foreign
};

// Reads a log as it is found, even one that is being written: lines that are no records are counted and passed over, unknown
// keys ignored; where steps go back (a resume that could not tidy up) the later records hold. Error(data) if it cannot be read.
RunCurves read_log(const std::string& path);

}  // namespace traincu
