// A run's log: reading it, writing what was read, going on with it from a step, and the report that is made of it.
#include "src/report/log.h"

#include <cmath>
#include <iterator>

#include "src/report/html.h"
#include "tests/fuzz/input.h"

namespace traincu::fuzz {

static bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }
static bool same_known(double a, double b) { return same(a, b) || (a < 0 && b < 0); }  // below 0: unknown, and not written

static void ensure_same(const RunCurves& a, const RunCurves& b) {
    ENSURE(a.steps.size() == b.steps.size() && a.validations.size() == b.validations.size());
    for (size_t i = 0; i < a.steps.size(); i++) {
        const StepRecord &x = a.steps[i], &y = b.steps[i];
        ENSURE(x.step == y.step && x.tokens == y.tokens && x.skipped == y.skipped && same(x.loss, y.loss) &&
               same(x.grad_norm, y.grad_norm));
        ENSURE(same(x.lr, y.lr) && same(x.ms, y.ms) && same(x.tok_per_s, y.tok_per_s) && same_known(x.mfu, y.mfu) &&
               same_known(x.gemm_fraction, y.gemm_fraction));
    }
    for (size_t i = 0; i < a.validations.size(); i++) {
        const ValidationRecord &x = a.validations[i], &y = b.validations[i];
        ENSURE(x.step == y.step && x.tokens == y.tokens && same(x.val_loss, y.val_loss) && same_known(x.bits_per_byte, y.bits_per_byte));
    }
    for (auto list : {&RunCurves::samples, &RunCurves::checkpoints, &RunCurves::notes}) {
        ENSURE((a.*list).size() == (b.*list).size());
        for (size_t i = 0; i < (a.*list).size(); i++)
            ENSURE((a.*list)[i].step == (b.*list)[i].step && (a.*list)[i].text == (b.*list)[i].text);
    }
}

static void check_written_again(const RunCurves& curves) {
    const std::string path = scratch_folder() + "/again.jsonl";
    fs::remove(path);
    {
        RunLog log(path, -1);
        for (const StepRecord& record : curves.steps) log.step(record);
        for (const ValidationRecord& record : curves.validations) log.validation(record);
        for (const RunCurves::Text& text : curves.samples) log.sample(text.step, text.text);
        for (const RunCurves::Text& text : curves.checkpoints) log.checkpoint(text.step, text.text);
        for (const RunCurves::Text& text : curves.notes) log.note(text.step, text.text);
        ENSURE(log.warnings() == 0);
    }
    ensure_same(curves, read_log(path));
}

// A resume keeps whole lines up to its step, and what it appends stands on a line of its own.
static void check_resumed(const std::string& path, int64_t resumed) {
    {
        RunLog log(path, resumed);
        log.note(resumed, "resumed");
    }
    const RunCurves after = read_log(path);
    ENSURE(after.ignored_lines == 0 && !after.notes.empty() && after.notes.back().text == "resumed");
    for (const StepRecord& record : after.steps) ENSURE(record.step <= resumed);
    for (const ValidationRecord& record : after.validations) ENSURE(record.step <= resumed);
}

bool fuzz_log(Bytes input) {
    return accepted([&] {
        fs::create_directories(scratch_folder() + "/run");
        const std::string path = put_file("run/log.jsonl", text_of(input));
        const RunCurves curves = read_log(path);
        auto ascending = [](const auto& records) {
            for (size_t i = 1; i < records.size(); i++) ENSURE(records[i].step > records[i - 1].step);
        };
        ascending(curves.steps), ascending(curves.validations);
        check_written_again(curves);
        accepted([&] {  // a log without a step has no report
            const Run run = load_run(scratch_folder() + "/run");
            (void)summarize(run);
            const std::string page = render_report({run}, {}, 0.02);
            ENSURE(page.size() < 4 * input.size() + (1 << 20));
            const std::string csv = scratch_folder() + "/curve.csv";
            write_curve_csv(csv, curves);
            const int64_t last = std::max(curves.steps.empty() ? 0 : curves.steps.back().step,
                                          curves.validations.empty() ? 0 : curves.validations.back().step);
            if (last < 1'000'000'000'000'000) (void)render_report({run}, {read_curve_csv(csv)}, 0.02);  // the largest step of a curve
        });
        check_resumed(path, curves.steps.empty() ? 0 : curves.steps[curves.steps.size() / 2].step);
    });
}

Seeds log_seeds() {
    std::string whole;
    for (int step = 1; step <= 5; step++)
        whole += R"({"step":)" + std::to_string(step) + R"(,"loss":5.5,"lr":0.001,"grad_norm":1.25,"tokens":)" +
                 std::to_string(step * 1024) + R"(,"tok_per_s":25412.5,"ms":40.25,"mfu":0.5,"gemm_fraction":0.7,"time":1.5})" + "\n";
    return {
        whole + R"({"step":5,"val_loss":3.25,"val_bits_per_byte":1.5,"tokens":5120,"time":2})" + "\n" +
            R"({"step":5,"sample":"In the \u00e9 beginning\n","time":2})" + "\n" +
            R"({"step":5,"checkpoint":"runs/a/step_0000000005","time":3})" + "\n",
        R"({"step":0,"val_loss":5.5,"tokens":0,"time":0.1})"
        "\n"
        R"({"step":1,"loss":null,"lr":0.1,"grad_norm":null,"tokens":9,"tok_per_s":1,"ms":2,"skipped":"loss is nan","time":1})"
        "\n"
        R"({"step":1,"note":"checkpoint failed: no space","time":1})"
        "\n",
        whole + whole.substr(whole.size() / 2),
        whole.substr(0, whole.size() - 30),
    };
}

}  // namespace traincu::fuzz
