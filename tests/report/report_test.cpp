#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include <doctest/doctest.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/command/commands.h"
#include "src/report/console.h"
#include "src/report/html.h"
#include "src/report/svg.h"
#include "tests/support/files.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// A file in the folder; its path.
std::string written(const TempDir& folder, const std::string& name, const std::string& text) {
    write_file(folder / name, text);
    return folder / name;
}

// report_command with the terminal's output caught.
struct Outcome {
    int code;
    std::string printed;
};
Outcome report(const TempDir& folder, std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::string capture = (folder / "stdout.txt");
    std::fflush(stdout);
    int saved = ::dup(1);
    FILE* file = std::fopen(capture.c_str(), "w");
    ::dup2(::fileno(file), 1);
    Outcome outcome{-1, ""};
    std::string thrown;
    ExitCode code = ExitCode::done;
    try {
        outcome.code = report_command(static_cast<int>(arguments.size()), argv.data());
    } catch (const Error& error) {
        thrown = error.what(), code = error.code();
    }
    std::fflush(stdout);
    ::dup2(saved, 1), ::close(saved), std::fclose(file);
    if (!thrown.empty()) throw Error(code, thrown);
    outcome.printed = read_file(capture);
    return outcome;
}

ExitCode code_of(const TempDir& folder, const std::vector<std::string>& arguments, std::string* what = nullptr) {
    try {
        report(folder, arguments);
    } catch (const Error& error) {
        if (what) *what = error.what();
        return error.code();
    }
    return ExitCode::done;
}

// Losses on a straight line, so that interpolating them is exact.
double line_loss(double step) { return 4 - 2 * step / 1000; }
std::string log_of(double offset, int64_t last, int64_t every, bool validates = true) {
    std::string text;
    for (int64_t s = 1; s <= last; s++) {
        double loss = line_loss(static_cast<double>(s)) + offset;
        text += format(
            "{\"step\":%lld,\"loss\":%.9f,\"lr\":0.001,\"grad_norm\":0.5,\"tokens\":%lld,\"tok_per_s\":25000,\"ms\":160,\"time\":%.3f}\n",
            static_cast<long long>(s), loss, static_cast<long long>(s * 4096), 0.16 * static_cast<double>(s));
        if (validates && s % every == 0)
            text += format("{\"step\":%lld,\"val_loss\":%.9f,\"tokens\":%lld}\n", static_cast<long long>(s), loss,
                           static_cast<long long>(s * 4096));
    }
    return text;
}
std::string csv_of(int64_t last, int64_t every, const char* column = "val_loss") {
    std::string text = std::string("step,") + column + "\n";
    for (int64_t s = 0; s <= last; s += every) text += format("%lld,%.9f\n", static_cast<long long>(s), line_loss(static_cast<double>(s)));
    return text;
}

// Whether tags are closed in the order they were opened, attributes quoted, and entities known: enough of XML for these pages.
std::string imbalance(const std::string& text) {
    std::vector<std::string> open;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] == '&') {
            size_t end = text.find(';', i);
            std::string name = end == std::string::npos ? "" : text.substr(i + 1, end - i - 1);
            bool known = name == "amp" || name == "lt" || name == "gt" || name == "quot" || (name.size() > 1 && name[0] == '#');
            if (!known) return "bare & at " + text.substr(i, 20);
        }
        if (text[i] == '>') return "bare > at " + text.substr(i, 20);
        if (text[i] != '<') continue;
        size_t end = i;
        bool quoted = false;
        while (++end < text.size() && (quoted || text[end] != '>')) {
            if (text[end] == '"') quoted = !quoted;
            if (text[end] == '<') return "< inside a tag at " + text.substr(i, 40);
        }
        if (end >= text.size()) return "tag never ends: " + text.substr(i, 40);
        std::string tag = text.substr(i + 1, end - i - 1), name = tag.substr(0, tag.find_first_of(" \n/", tag[0] == '/' ? 1 : 0));
        i = end;
        if (tag[0] == '!') continue;
        if (tag[0] == '/') {
            if (open.empty() || "/" + open.back() != tag) return "unexpected <" + tag + ">";
            open.pop_back();
        } else if (tag.back() != '/') {
            open.push_back(name);
            if (name == "style") i = text.find("</style>", i) - 1;
        }
    }
    return open.empty() ? "" : "never closed: " + open.back();
}

size_t occurrences(const std::string& text, const std::string& what) {
    size_t n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) n++;
    return n;
}

}  // namespace

TEST_SUITE("report") {
    TEST_CASE("report: WITHIN and OUTSIDE, with their exit codes, the largest deviation and its step") {
        TempDir folder;
        std::string reference = written(folder, "reference.csv", csv_of(1000, 250));
        std::string good = (folder / "good"), bad = (folder / "bad");
        written(folder, "good/log.jsonl", log_of(0.019, 1000, 70));  // between the reference's steps: interpolated
        written(folder, "bad/log.jsonl", log_of(-0.0211, 1000, 70));

        Outcome within = report(folder, {good, "--reference", reference});
        CHECK(within.code == 0);
        CHECK(within.printed.find("WITHIN the band of 0.020 nats: largest deviation +0.0190 at step ") != std::string::npos);
        CHECK(within.printed.find("steps 70 to 980 (after the first 5 % of 1,000;") != std::string::npos);
        CHECK(fs::exists(good + "/report.html"));

        Outcome outside = report(folder, {bad, "--reference", reference});
        CHECK(outside.code == 5);
        CHECK(outside.printed.find("OUTSIDE the band of 0.020 nats: largest deviation -0.0211") != std::string::npos);
        CHECK(report(folder, {bad, "--reference", reference, "--band", "0.03"}).code == 0);
        CHECK(report(folder, {good, bad, "--reference", reference}).code == 5);
        CHECK(report(folder, {bad, good, "--reference", reference}).code == 5);
        CHECK(report(folder, {bad}).code == 0);  // nothing to compare with
    }

    TEST_CASE("report: judged after the first 5 % of the reference, or from --from-step") {
        TempDir folder;
        std::string run = (folder / "run");
        // far off at step 40, on the reference later; off by 0.05 at step 300 only
        std::string log;
        for (int s : {40, 100, 300, 400, 900})
            log += format("{\"step\":%d,\"val_loss\":%.6f}\n", s, line_loss(s) + (s == 40 ? 1.0 : s == 300 ? -0.05 : 0.001));
        written(folder, "run/log.jsonl", log);
        std::string reference = written(folder, "reference.csv", csv_of(1000, 500));
        Outcome judged = report(folder, {run, "--reference", reference, "--band", "0.06"});
        CHECK(judged.code == 0);
        CHECK(judged.printed.find("largest deviation -0.0500 at step 300") != std::string::npos);
        CHECK(judged.printed.find("at 4 points, steps 100 to 900") != std::string::npos);
        CHECK(report(folder, {run, "--reference", reference}).code == 5);
        CHECK(report(folder, {run, "--reference", reference, "--from-step", "301"}).code == 0);
        CHECK(report(folder, {run, "--reference", reference, "--from-step", "0", "--band", "0.06"}).code == 5);
    }

    TEST_CASE("report: a loss that is not finite is outside") {
        TempDir folder;
        written(folder, "run/log.jsonl",
                "{\"step\":500,\"val_loss\":3}\n{\"step\":750,\"val_loss\":null}\n{\"step\":1000,\"val_loss\":2}\n");
        std::string reference = written(folder, "reference.csv", csv_of(1000, 250));
        Outcome outcome = report(folder, {(folder / "run"), "--reference", reference});
        CHECK(outcome.code == 5);
        CHECK(outcome.printed.find("at step 750") != std::string::npos);
    }

    TEST_CASE("report: without validation losses training losses are compared, averaged alike on both sides") {
        TempDir folder;
        written(folder, "near/log.jsonl", log_of(0.015, 1000, 70, false));
        written(folder, "far/log.jsonl", log_of(0.025, 600, 70, false));
        // sparse after step 200, as published curves are, ending elsewhere than the run does
        std::string reference = written(folder, "reference.csv", csv_of(1200, 10, "train_loss"));
        Outcome near = report(folder, {(folder / "near"), "--reference", reference});
        CHECK(near.code == 0);
        CHECK(near.printed.find("training loss judged") != std::string::npos);
        CHECK(report(folder, {(folder / "far"), "--reference", reference}).code == 5);
    }

    TEST_CASE("report: a log with steps left out is compared where it has some") {
        TempDir folder;
        std::string log;
        for (int s = 1; s <= 1000; s++)
            if (s < 300 || s > 600) log += format("{\"step\":%d,\"loss\":%.6f}\n", s, line_loss(s));
        written(folder, "run/log.jsonl", log);
        std::string reference = written(folder, "reference.csv", csv_of(1000, 10, "train_loss"));
        CHECK(report(folder, {(folder / "run"), "--reference", reference, "--band", "0.05"}).code == 0);
    }

    TEST_CASE("report: a saved curve is a reference that its own run is within") {
        TempDir folder;
        written(folder, "run/log.jsonl", log_of(0.3, 1000, 50));
        std::string csv = (folder / "curve.csv");
        CHECK(report(folder, {(folder / "run"), "--save-curve", csv}).code == 0);
        std::string text = read_file(csv);
        CHECK(text.rfind("step,val_loss,train_loss,lr,grad_norm\n1,,4.2980,0.001,0.5\n", 0) == 0);
        CHECK(text.find("\n1000,2.3000,2.3000,0.001,0.5\n") != std::string::npos);
        CHECK(text.find("\n201,") == std::string::npos);
        CHECK(read_curve_csv(csv).val_loss.x.size() == 20);
        CHECK(read_curve_csv(csv).train_loss.x.size() == 200 + 16);
        CHECK(report(folder, {(folder / "run"), "--reference", csv, "--band", "0.0001"}).code == 0);
        CHECK(code_of(folder, {(folder / "run"), (folder / "run"), "--save-curve", csv}) == ExitCode::usage);
    }

    TEST_CASE("report: bad input is named, with exit code data") {
        TempDir folder;
        std::string what;
        CHECK(code_of(folder, {(folder / "nowhere")}, &what) == ExitCode::data);
        CHECK(what.find("nowhere") != std::string::npos);
        fs::create_directories((folder / "empty"));
        CHECK(code_of(folder, {(folder / "empty")}, &what) == ExitCode::data);
        CHECK(what.find("log.jsonl") != std::string::npos);
        written(folder, "blank/log.jsonl", "not json\n");
        CHECK(code_of(folder, {(folder / "blank")}) == ExitCode::data);
        written(folder, "run/log.jsonl", log_of(0, 100, 10));
        written(folder, "broken/log.jsonl", log_of(0, 100, 10));
        written(folder, "broken/run.json", "{\"options\":");
        CHECK(code_of(folder, {(folder / "broken")}) == ExitCode::data);

        auto csv_error = [&](const std::string& text) {
            ExitCode code = code_of(folder, {(folder / "run"), "--reference", written(folder, "r.csv", text)}, &what);
            return code == ExitCode::data;
        };
        CHECK(code_of(folder, {(folder / "run"), "--reference", (folder / "no.csv")}) == ExitCode::data);
        CHECK(csv_error(""));
        CHECK(csv_error("val_loss\n1\n"));
        CHECK(what.find("line 1") != std::string::npos);
        CHECK(csv_error("step,val_loss\n1,2\n2,3,4\n"));
        CHECK(what.find("r.csv, line 3") != std::string::npos);
        CHECK(csv_error("step,val_loss\n1,2\n2,abc\n"));
        CHECK(what.find("line 3") != std::string::npos);
        CHECK(csv_error("step,val_loss\n1,nan\n"));
        CHECK(csv_error("step,val_loss\n5,2\n4,2\n"));
        CHECK(what.find("line 3: '4' is no step after") != std::string::npos);
        CHECK(csv_error("step,val_loss\n,2\n"));
        CHECK(csv_error("step,lr\n5,2\n"));                 // neither loss
        CHECK(csv_error("step,val_loss\n500,2\n900,2\n"));  // no common steps
        CHECK(what.find("no common step") != std::string::npos);

        CHECK(code_of(folder, {}) == ExitCode::usage);
        CHECK(code_of(folder, {(folder / "run"), "--nonsense"}) == ExitCode::usage);
        CHECK(code_of(folder, {(folder / "run"), "--band", "nan"}) == ExitCode::usage);
        CHECK(code_of(folder, {(folder / "run"), "--band", "-1"}) == ExitCode::usage);
        CHECK(code_of(folder, {(folder / "run"), "--out", "/nonexistent/x.html"}) == ExitCode::io);
        CHECK(report(folder, {"--help"}).code == 0);
    }

    TEST_CASE("report: the published curves can be read") {
        ReferenceCurve curve = read_curve_csv("data/curves/gpt2_124m_llmc.csv");
        CHECK(curve.last_step() == 19560);
        CHECK(curve.val_loss.y.back() == 3.2722);
        CHECK(curve.train_loss.x[200] == 200);
        CHECK(read_curve_csv("data/curves/gpt2_350m_llmc.csv").last_step() == 60000);
    }

    TEST_CASE("report: interpolation and moving mean against sums by hand") {
        Curve curve{{0, 10, 30}, {1, 2, 6}};
        CHECK(interpolate(curve, 0) == 1);
        CHECK(interpolate(curve, 10) == 2);
        CHECK(interpolate(curve, 15) == 3);
        CHECK(interpolate(curve, 30) == 6);
        CHECK(std::isnan(interpolate(curve, -1)));
        CHECK(std::isnan(interpolate(curve, 30.001)));
        CHECK(std::isnan(interpolate(Curve{}, 0)));

        Curve noisy;
        for (int i = 0; i < 57; i++) noisy.add(3 * i, i == 20 ? NAN : std::sin(i * i));
        for (double half : {0.0, 4.0, 9.0, 1000.0}) {
            Curve mean = moving_mean(noisy, noisy.x, half);
            for (size_t k = 0; k < noisy.x.size(); k++) {
                double sum = 0, n = 0;
                for (size_t i = 0; i < noisy.x.size(); i++)
                    if (std::abs(noisy.x[i] - noisy.x[k]) <= half && std::isfinite(noisy.y[i])) sum += noisy.y[i], n++;
                if (n > 0)
                    CHECK(mean.y[k] == doctest::Approx(sum / n).epsilon(1e-12));
                else
                    CHECK(std::isnan(mean.y[k]));
            }
        }
    }

    TEST_CASE("html: the page is well formed, and what comes from files is escaped") {
        TempDir folder;
        std::string evil = "<script>alert(1)</script> & \"quoted\" 'single' \xC3\x28 \x01";
        std::string log = log_of(0.01, 400, 20);
        log +=
            "{\"step\":400,\"val_loss\":3.2,\"val_bits_per_byte\":1.5,\"tokens\":1638400}\n{\"step\":400,\"sample\":\"<b>&"
            "\\u0000\\ud83d\\ude00</b>\"}\n{\"step\":400,\"note\":\"<i>\"}\n";
        nlohmann::ordered_json settings;
        settings["options"] = {{"lr", 1e-3}, {"data", "<script>alert(2)</script>"}, {"x<y", true}};
        settings["command"] = "./train --data '<script>'";
        settings["git_revision"] = "abc&def";
        settings["build"] = "g++ <12>";
        settings["model"] = {{"parameters", 3211264}};
        settings["baselines"] = {{"gzip -9 <", 1.64}, {"bad", "text"}};
        written(folder, "a<b>/log.jsonl", log);
        written(folder, "a<b>/run.json", settings.dump());
        settings["options"]["lr"] = 2e-3;
        written(folder, "c/log.jsonl", log);
        written(folder, "c/run.json", settings.dump());
        std::string reference = written(folder, "r&d.csv", csv_of(1000, 100));

        std::string out = (folder / "page.html");
        write_report({(folder / "a<b>")}, {reference}, 0.02, out);
        std::string one = read_file(out);
        CHECK(imbalance(one) == "");
        CHECK(one.find("<script") == std::string::npos);
        CHECK(one.find("&lt;script&gt;alert(2)") != std::string::npos);
        CHECK(one.find("3,211,264") != std::string::npos);
        CHECK(one.find("gzip -9 &lt;") != std::string::npos);
        CHECK(one.find("<b>WITHIN</b>") != std::string::npos);
        CHECK(one.find("http://") == one.find("http://www.w3.org/2000/svg"));  // a name, not an address: nothing is loaded
        CHECK(one.find("nan") == std::string::npos);

        CHECK(occurrences(one, "<figure class=\"half\">") == 2);
        write_report({(folder / "c")}, {}, 0.02, out);  // one chart less: the other gets its place
        CHECK(occurrences(read_file(out), "<figure class=\"half\">") == 0);
        CHECK(occurrences(read_file(out), "<figure class=\"wide\">") == 2);

        write_report({(folder / "a<b>"), (folder / "c")}, {reference}, 0.02, out);
        std::string two = read_file(out);
        CHECK(imbalance(two) == "");
        size_t table = two.find("Settings that differ");
        REQUIRE(table != std::string::npos);
        CHECK(two.find("<td>lr</td><td>0.001</td><td>0.002</td>", table) != std::string::npos);
        CHECK(two.find("x&lt;y", table) == std::string::npos);  // the same in both
        CHECK(escape_html(evil) ==
              "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quoted&quot; &#39;single&#39; \xEF\xBF\xBD( \xEF\xBF\xBD");
    }

    TEST_CASE("html: three runs beside each other: every number of the logs where it belongs") {
        TempDir folder;
        for (int i = 1; i <= 3; i++) {
            std::string log;
            for (int s = 1; s <= 100; s++)
                log += format(
                    "{\"step\":%d,\"loss\":%.3f,\"lr\":0.001,\"grad_norm\":0.5,\"tokens\":%d,\"tok_per_s\":%d,\"ms\":%d,\"mfu\":0.%d25,"
                    "\"gemm_fraction\":0.6%d,\"time\":%d}\n",
                    s, 5.0 / i, s * 1000 * i, 10000 * i + 234, 40 * i, i, i, s * i);
            log += format("{\"step\":50,\"val_loss\":%d.25,\"val_bits_per_byte\":2,\"hellaswag\":0.2%d5,\"tokens\":%d,\"time\":%d}\n", i, i,
                          50000 * i, 51 * i);
            log +=
                format("{\"step\":100,\"val_loss\":%d.75,\"val_bits_per_byte\":2.5,\"tokens\":%d,\"time\":%d}\n", i, 100000 * i, 102 * i);
            log += format(
                "{\"step\":50,\"sample\":\"early %d\"}\n{\"step\":100,\"sample\":\"late %d\"}\n{\"step\":7,\"note\":\"remark %d\"}\n", i, i,
                i);
            for (int s = 1; s <= 14; s++) log += format("{\"step\":%d,\"checkpoint\":\"where/step_%d\"}\n", s * 1000, s);
            nlohmann::ordered_json settings;
            settings["options"] = {{"preset", "tiny"}, {"lr", 0.1 * i}, {"seed", 5}, {"out", "elsewhere" + std::to_string(i)}};
            settings["memory"] = {{"weights", i << 20}, {"odd <arena>", 3 << 20}};
            written(folder, format("run%d/log.jsonl", i), log);
            written(folder, format("run%d/run.json", i), settings.dump());
        }
        std::string out = folder / "page.html";
        write_report({folder / "run1", folder / "run2", folder / "run3"}, {}, 0.02, out);
        const std::string page = read_file(out);
        CHECK(imbalance(page) == "");
        CHECK(page.find("nan") == std::string::npos);
        auto row_of = [&](const char* title, int run) {  // the cells of a run's row in the table under a title
            size_t at = page.find("run" + std::to_string(run) + "</td>", *title ? page.find(std::string("<h2>") + title) : 0);
            REQUIRE(at != std::string::npos);
            return page.substr(at, page.find("</tr>", at) - at);
        };
        const std::string number = "<td class=\"number\">", end = "</td>";
        for (int i = 1; i <= 3; i++) {
            CAPTURE(i);
            CHECK(row_of("", i) == format("run%d</td>", i) + number + format("%d.7500", i) + end + number + format("%d.2500", i) + end +
                                       number + "50" + end + number + "1.733" + end + number + format("0.2%d50", i) + end + number + "100" +
                                       end + number + short_count(100000 * i) + end + number + duration(102 * i) + end);
            CHECK(row_of("Speed", i) == format("run%d</td>", i) + number + format("%d0,234", i) + end + number + format("%d ms", 40 * i) +
                                            end + number + format("%d2.5 %%", i) + end + number + format("6%d %%", i) + end + number +
                                            duration(102 * i) + end);
            CHECK(row_of("Memory", i) == format("run%d</td>", i) + number + format("%d.00 MiB", i) + end + number + "3.00 MiB" + end +
                                             number + format("%d.00 MiB", 3 + i) + end);
            CHECK(row_of("Checkpoints", i) ==
                  format("run%d</td>", i) + number + "14" + end +
                      "<td>1,000, 2,000, 3,000, 4,000, 5,000, &#8230;, 10,000, 11,000, 12,000, 13,000, 14,000</td>" +
                      "<td>where/step_14</td>");
            CHECK(occurrences(page, "<pre>late " + std::to_string(i)) == 1);
            CHECK(page.find("early " + std::to_string(i)) == std::string::npos);
            CHECK(occurrences(page, "remark " + std::to_string(i)) == 1);
        }
        CHECK(page.find("<td>lr</td><td>0.1</td><td>0.2</td><td>0.30000000000000004</td>") != std::string::npos);
        CHECK(page.find("<td>preset</td><td>tiny</td><td>tiny</td><td>tiny</td>") != std::string::npos);  // the same, but told
        CHECK(page.find("<td>seed</td>") == std::string::npos);
        CHECK(page.find("elsewhere") == std::string::npos);
        CHECK(page.find("odd &lt;arena&gt;") != std::string::npos);
        // the bars are to scale: the third run has the most, 3 and 3 MiB
        for (const char* width : {"16.67", "33.33", "50.00"})
            CHECK(page.find(std::string("<i style=\"width:") + width + "%;background:#1f5fbf\"") != std::string::npos);

        // the last validation of each run by tokens and by time stands where its own tokens and seconds put it: 300k and 306 s are the
        // right edge
        auto dot_at = [&](const char* title, const std::string& tip) {
            size_t figure = page.find(title), dot = page.find("<title>" + tip, figure);
            REQUIRE(dot < page.find("</figure>", figure));
            size_t begin = page.rfind("cx=\"", dot) + 4;
            return std::atof(page.substr(begin, 10).c_str());
        };
        const double left = 46, right = 516 - 64;
        CHECK(dot_at("loss by tokens", "run3, tokens seen 300000: 3.75") == doctest::Approx(right).epsilon(1e-3));
        CHECK(dot_at("loss by tokens", "run1, tokens seen 100000: 1.75") - dot_at("loss by tokens", "run1, tokens seen 50000: 1.25") ==
              doctest::Approx((right - left) / 5.0 * 50 / 50).epsilon(2e-3));
        CHECK(dot_at("loss by time", "run2, minutes since the start 3.40: 2.75") ==
              doctest::Approx(left + (right - left) * (204 - 51) / (306 - 51)).epsilon(2e-3));
        CHECK(occurrences(page, "<b>HellaSwag</b>") == 1);
        CHECK(occurrences(page, "step 50: 0.2") == 3);
    }

    TEST_CASE("html: twenty runs are told apart by number, colour and dashes; one more is refused") {
        TempDir folder;
        std::vector<std::string> runs;
        for (int i = 0; i < 21; i++) {
            runs.push_back(folder / format("%d/run", i));
            written(folder, format("%d/run/log.jsonl", i), log_of(0.1 * i, 60, 10));
        }
        std::string what;
        CHECK(code_of(folder, runs, &what) == ExitCode::usage);
        CHECK(what.find("21 runs") != std::string::npos);
        runs.pop_back();
        report(folder, runs);
        const std::string page = read_file(folder / "0/run/report.html");
        CHECK(imbalance(page) == "");
        std::vector<std::string> signs;
        for (size_t at = page.find("<span class=\"legend\">"); at != std::string::npos; at = page.find("<span class=\"legend\">", at + 1)) {
            const std::string legend = page.substr(at, page.find("</span></span>", at) - at),
                              stroke = legend.substr(legend.find("stroke="), 60);
            signs.push_back(stroke.substr(0, stroke.find("/>")));
        }
        std::sort(signs.begin(), signs.end());
        CHECK(signs.size() == 20);
        CHECK(std::unique(signs.begin(), signs.end()) == signs.end());
        for (int i = 0; i < 20; i++) {
            CHECK(page.find(format(">%d</span>%d/run</span>", i + 1, i)) != std::string::npos);        // legend
            CHECK(page.find(format(">%d</span>%d/run</td>", i + 1, i)) != std::string::npos);          // table
            CHECK(page.find(format("<tspan class=\"mark\">%d</tspan>", i + 1)) != std::string::npos);  // at the end of its line
        }
    }

    TEST_CASE("report: names of runs grow by the folders above until they differ") {
        TempDir folder;
        for (const char* name : {"x/a/run", "y/a/run", "y/b/run", "other"})
            written(folder, std::string(name) + "/log.jsonl", log_of(0, 20, 10));
        auto names = [&](const std::vector<std::string>& paths) {
            std::vector<std::string> all;
            for (const Run& run : load_runs(paths)) all.push_back(run.name);
            return all;
        };
        using Names = std::vector<std::string>;
        CHECK(names({folder / "x/a/run", folder / "y/a/run/", folder / "y/b/run", folder / "other"}) ==
              Names{"x/a/run", "y/a/run", "b/run", "other"});
        CHECK(names({folder / "x/a/run", folder / "y/b/run/."}) == Names{"a/run", "b/run"});
        CHECK(names({folder / "x/a/run"}) == Names{"run"});
        const Names twice = names({folder / "other", folder / "x/a/run", folder / "other", folder / "other/."});
        CHECK(twice.size() == 4);
        CHECK(std::set<std::string>(twice.begin(), twice.end()).size() == 4);
    }

    TEST_CASE("report: end values never leave the frame, and lines that end inside it show their number only") {
        Chart chart{.title = "t", .unit = "u"};
        for (int i = 0; i < 12; i++)
            chart.lines.push_back(
                {.curve = {{0, 100}, {1, 2 - 1e-4 * i}}, .color = "#123456", .end_value = true, .mark = std::to_string(i)});
        chart.lines.push_back({.curve = {{0, 40}, {2, 1.5}}, .color = "#123456", .end_value = true, .mark = "inside"});
        chart.lines.push_back({.curve = {{0, 100}, {2, 1}}, .color = "#123456", .end_value = true, .mark = "low"});
        const std::string text = svg(chart);
        CHECK(imbalance(text) == "");
        CHECK(text.find(">inside</text>") != std::string::npos);
        CHECK(text.find("1.500") == std::string::npos);
        CHECK(text.find("low</tspan>&#160; 1.000</text>") != std::string::npos);
        std::vector<double> heights;
        for (size_t at = text.find("class=\"end\""); at != std::string::npos; at = text.find("class=\"end\"", at + 1))
            if (text.compare(text.find('>', at), 8, ">inside<") != 0)
                heights.push_back(std::atof(text.substr(text.rfind(" y=\"", at) + 4, 8).c_str()) - 4);
        std::sort(heights.begin(), heights.end());
        REQUIRE(heights.size() == 13);
        CHECK(heights.front() >= 10);
        CHECK(heights.back() <= 204);
        for (size_t i = 1; i < heights.size(); i++) CHECK(heights[i] - heights[i - 1] >= 12.99);
        for (int i = 0; i < 5; i++) chart.lines.push_back(chart.lines[0]);
        CHECK(occurrences(svg(chart), "class=\"end\"") == 0);  // more than fit
    }

    TEST_CASE("report: --save-curve keeps hellaswag where it was measured") {
        TempDir folder;
        written(folder, "run/log.jsonl", log_of(0, 20, 10) + "{\"step\":20,\"val_loss\":3.5,\"hellaswag\":0.3125}\n");
        std::string csv = folder / "curve.csv";
        CHECK(report(folder, {folder / "run", "--save-curve", csv}).code == 0);
        CHECK(read_file(csv).rfind("step,val_loss,train_loss,lr,grad_norm,hellaswag\n1,,3.9980,0.001,0.5,\n", 0) == 0);
        CHECK(read_curve_csv(csv).hellaswag.y == std::vector<double>{0.3125});
    }

    TEST_CASE("html: what ranks sent, where there were several") {
        TempDir folder;
        auto step = [](int k, const char* sent) {
            return format("{\"step\":%d,\"loss\":3,\"ms\":200%s}\n", k, *sent ? format(",\"sent\":{%s}", sent).c_str() : "");
        };
        const char* sent =
            "\"weights_inside\":1048576,\"gradients_inside\":2097152,\"gradients_between\":3145728,\"other\":512,\"waited_ms\":";
        written(folder, "ranks/log.jsonl",
                step(1, (sent + std::string("150")).c_str()) + step(2, (sent + std::string("50")).c_str()) +
                    step(3, (sent + std::string("20")).c_str()));
        written(folder, "ranks/run.json", "{\"ranks\":4,\"nodes\":2}");
        written(folder, "alone/log.jsonl", step(1, ""));
        written(folder, "alone/run.json", "{\"ranks\":1,\"nodes\":1}");
        const std::string out = folder / "page.html";
        auto page = [&](const std::vector<std::string>& runs) {
            write_report(runs, {}, 0, out);
            return read_file(out);
        };
        auto cells = [](std::initializer_list<const char*> values) {
            std::string text;
            for (const char* value : values) text += std::string("<td class=\"number\">") + value + "</td>";
            return text;
        };
        CHECK(page({folder / "alone"}).find("Sent between ranks") == std::string::npos);
        const std::string numbers = cells({"4", "2", "1.00 MiB", "2.00 MiB", "3.00 MiB", "512 B", "6.00 MiB", "25 % of the step"});
        const std::string one = page({folder / "ranks"}), two = page({folder / "ranks", folder / "alone"});
        CHECK(imbalance(one) == "");
        CHECK(one.find("weights, in the node") != std::string::npos);
        CHECK(one.find("weights, to other nodes") == std::string::npos);  // none was sent
        CHECK(one.find("<tr>" + numbers + "</tr>") != std::string::npos);
        CHECK(two.find(numbers + "</tr>") != std::string::npos);
        CHECK(two.find(cells({"", "", "", "", "", "", "", ""}) + "</tr>") != std::string::npos);
        for (const char* odd : {"null", "7", "{}", "{\"waited_ms\":null}", "{\"other\":1e300,\"waited_ms\":1e308}",
                                "{\"other\":9e17,\"weights_inside\":8e18,\"gradients_between\":8e18,\"waited_ms\":0}"}) {
            CAPTURE(std::string(odd));
            written(folder, "odd/log.jsonl", format("{\"step\":1,\"loss\":3,\"ms\":1,\"sent\":%s}\n", odd));
            CHECK(imbalance(page({folder / "odd"})) == "");
        }
    }

    TEST_CASE("html: odd runs make a page too") {
        TempDir folder;
        std::string out = (folder / "page.html");
        const char* logs[] = {
            "{\"step\":0,\"val_loss\":5.5}\n",
            "{\"step\":1,\"loss\":null,\"lr\":null}\n",
            "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":3}\n",
            "{\"step\":1,\"loss\":1e308}\n{\"step\":2,\"loss\":-1e308}\n{\"step\":9007199254740992,\"loss\":0}\n",
            "{\"step\":1,\"loss\":1e-300,\"tok_per_s\":1e300}\n{\"step\":2,\"loss\":1e-308,\"tokens\":1e300}\n",
        };
        for (const char* log : logs) {
            CAPTURE(std::string(log));
            written(folder, "run/log.jsonl", log);
            write_report({(folder / "run")}, {"data/curves/gpt2_124m_llmc.csv"}, 0.02, out);
            CHECK(imbalance(read_file(out)) == "");
            CHECK(read_file(out).find("NOT COMPARED") != std::string::npos);
            write_report({(folder / "run"), (folder / "run")}, {}, 0, out);
            CHECK(imbalance(read_file(out)) == "");
        }
    }

    TEST_CASE("escape_html: text that is not UTF-8 is replaced, all else kept") {
        std::string mark = "\xEF\xBF\xBD";
        CHECK(escape_html("a\tb\nc \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80") == "a\tb\nc \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80");
        CHECK(escape_html("\x80") == mark);
        CHECK(escape_html("\xC3") == mark);
        CHECK(escape_html("\xE2\x82") == mark + mark);
        CHECK(escape_html("\xC0\xAF") == mark + mark);                        // overlong
        CHECK(escape_html("\xE0\x80\xAF") == mark + mark + mark);             // overlong
        CHECK(escape_html("\xED\xA0\x80") == mark + mark + mark);             // surrogate
        CHECK(escape_html("\xF4\x90\x80\x80") == mark + mark + mark + mark);  // above U+10FFFF
        CHECK(escape_html("\xEF\xBF\xBE") == mark + mark + mark);             // U+FFFE
        CHECK(escape_html(std::string("\0x", 2)) == mark + "x");
        CHECK(escape_html("\x7F") == mark);
    }

    TEST_CASE("svg: ticks are round, inside the range, and few") {
        auto ticks = nice_ticks(0, 19560, 6);
        CHECK(ticks == std::vector<double>{0, 5000, 10000, 15000});
        CHECK(nice_ticks(3.1, 4.3, 6).size() == 6);
        CHECK(nice_ticks(-0.026, 0.026, 5).size() == 3);
        for (double low : {-3.7, 0.0, 1e-9, 12345.6, -1e20})
            for (double size : {1e-7, 0.3, 7.0, 1e5, 3e25})
                for (int count : {3, 5, 14}) {
                    auto t = nice_ticks(low, low + size, count);
                    CHECK(t.size() <= static_cast<size_t>(count) + 2);
                    for (double tick : t) CHECK((tick >= low - 1e-5 * size && tick <= low + size + 1e-5 * size));
                }
        CHECK(tick_text(0, 5) == "0");
        CHECK(tick_text(15000, 5000) == "15k");
        CHECK(tick_text(2.5e6, 5e5) == "2.5M");
        CHECK(tick_text(0.0006, 0.0002) == "0.0006");
        CHECK(tick_text(3.5, 0.5) == "3.5");
        CHECK(tick_text(4, 0.5) == "4.0");
        CHECK(tick_text(-0.02, 0.02) == "-0.02");
        CHECK(tick_text(1e-7, 1e-7) == "1e-07");
    }

    TEST_CASE("svg: a point is drawn where it belongs, a gap where there is no value") {
        Chart chart{.title = "t", .unit = "u"};
        chart.from_zero = true;
        chart.lines.push_back({.curve = {{0, 50, 75, 100}, {0, 1, NAN, 1}}, .color = "#123456"});
        std::string text = svg(chart);
        CHECK(imbalance(text) == "");
        // the frame is 46..504 wide and 204..10 high, the highest value 1 at 1 / 1.12 of its height
        CHECK(text.find(format("d=\"M46.0 204.0L275.0 %.1fM504.0 %.1f\"", 204 - 194 / 1.12, 204 - 194 / 1.12)) != std::string::npos);
        chart.lines[0].dots = true;
        CHECK(occurrences(svg(chart), "<circle") == 3);
    }

    TEST_CASE("svg: thinning keeps spikes, ends, and gaps") {
        Curve curve;
        for (int i = 0; i < 10007; i++) curve.add(i, i == 5003 ? 99 : i == 7001 ? NAN : std::sin(i * 0.01));
        Curve thinned = thin(curve, 100);
        CHECK(thinned.x.size() <= 200);
        CHECK(*std::max_element(thinned.y.begin(), thinned.y.end()) == 99);
        CHECK(std::is_sorted(thinned.x.begin(), thinned.x.end()));
        CHECK(std::any_of(thinned.y.begin(), thinned.y.end(), [](double y) { return std::isnan(y); }));
        Curve few{{1, 2}, {3, 4}};
        CHECK(thin(few, 100).x == few.x);
    }
}
