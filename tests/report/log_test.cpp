#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <sys/resource.h>
#include <csignal>
#include <unistd.h>

#include "src/base/error.h"
#include "src/report/curves.h"
#include "src/report/log.h"
#include "tests/support/files.h"

using namespace traincu;
using namespace traincu::test;

namespace {

StepRecord step_record(int64_t step, double loss = 2.5) {
    StepRecord r;
    r.step = step, r.max_steps = 100, r.loss = loss, r.grad_norm = 0.5, r.lr = 1e-3, r.ms = 161, r.tok_per_s = 25412,
    r.tokens = step * 4096;
    return r;
}

std::vector<int64_t> steps_of(const RunCurves& curves) {
    std::vector<int64_t> steps;
    for (const StepRecord& r : curves.steps) steps.push_back(r.step);
    return steps;
}

}  // namespace

TEST_SUITE("log") {
    TEST_CASE("log: what was written is read back") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        {
            RunLog log(path, -1);
            StepRecord r = step_record(1, 1.0 / 3);
            r.mfu = 0.41, r.skipped = "loss is not finite";
            r.power_w = 412.5, r.temperature_c = 61, r.sm_clock_mhz = 1755, r.joules_per_token = 0.0125, r.throttled = "power cap";
            r.traffic = {100, 200, 300, int64_t{1} << 40, 8, 12.5};
            log.step(r);
            log.step(step_record(2, 1));
            log.validation({1, 2.25, 1.125, 4096, 0.2955});
            log.validation({2, 2.25});
            log.sample(1, "In the \"beginning\"\n\xFF\x00");
            log.checkpoint(1, "step_0000000001");
            log.note(1, "first");
            log.note(1, "second");
            CHECK(log.warnings() == 0);
        }
        RunCurves c = read_log(path);
        REQUIRE(c.steps.size() == 2);
        CHECK(c.steps[0].loss == 1.0 / 3);  // every bit
        const TrafficRecord& sent = c.steps[0].traffic;
        CHECK(std::vector{sent.weights_inside, sent.weights_between, sent.gradients_inside, sent.gradients_between, sent.other} ==
              std::vector<int64_t>{100, 200, 300, int64_t{1} << 40, 8});
        CHECK(sent.waited_ms == 12.5);
        CHECK(sent.bytes() == (int64_t{1} << 40) + 608);
        CHECK(c.steps[1].traffic.waited_ms < 0);  // one rank
        CHECK(c.steps[0].mfu == 0.41);
        CHECK(c.steps[0].gemm_fraction < 0);
        CHECK(c.steps[0].tokens == 4096);
        CHECK(c.steps[0].power_w == 412.5);
        CHECK(c.steps[0].temperature_c == 61);
        CHECK(c.steps[0].sm_clock_mhz == 1755);
        CHECK(c.steps[0].joules_per_token == 0.0125);
        CHECK(c.steps[0].throttled == "power cap");
        CHECK(c.steps[0].skipped == "loss is not finite");
        REQUIRE(c.validations.size() == 2);
        CHECK(c.validations[0].val_loss == 2.25);
        CHECK(c.validations[0].bits_per_byte == 1.125);
        CHECK(c.validations[0].hellaswag == 0.2955);
        CHECK(c.validations[1].hellaswag < 0);
        REQUIRE(c.samples.size() == 1);
        CHECK(c.samples[0].text == "In the \"beginning\"\n\xEF\xBF\xBD");
        CHECK(c.checkpoints.size() == 1);
        REQUIRE(c.notes.size() == 2);
        CHECK(c.notes[1].text == "second");
        CHECK(c.ignored_lines == 0);
    }

    TEST_CASE("log: every line is JSON with a step and a time; numbers that are not finite are null, unknown ones absent") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        {
            RunLog log(path, -1);
            StepRecord r = step_record(7, std::nan(""));
            r.grad_norm = INFINITY;
            log.step(r);
            log.validation({7, -INFINITY, -1, 0});
        }
        std::ifstream in(path);
        std::string first, second, none;
        std::getline(in, first), std::getline(in, second);
        CHECK(!std::getline(in, none));
        CHECK(first.find("\"loss\":null") != std::string::npos);
        CHECK(first.find("\"grad_norm\":null") != std::string::npos);
        CHECK(second.find("\"val_loss\":null") != std::string::npos);
        for (const std::string& line : {first, second}) {
            auto json = nlohmann::json::parse(line);
            CHECK(json["step"] == 7);
            CHECK(json["time"].is_number());
            CHECK(!json.contains("mfu"));
            CHECK(!json.contains("val_bits_per_byte"));
        }
        RunCurves c = read_log(path);
        CHECK(std::isnan(c.steps.at(0).loss));
        CHECK(std::isnan(c.validations.at(0).val_loss));
    }

    TEST_CASE("log: resume drops the torn line and later steps, and each step appears once") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        {
            RunLog log(path, -1);
            for (int s = 1; s <= 10; s++) log.step(step_record(s));
            log.validation({5, 2.0, -1, 0});
            log.validation({10, 1.9, -1, 0});
        }
        std::string whole = read_file(path);
        std::string torn = whole.substr(0, whole.size() - 9);
        write_file(path, torn);
        {
            RunLog log(path, 6);
            for (int s = 7; s <= 8; s++) log.step(step_record(s, 9.0));
        }
        RunCurves c = read_log(path);
        CHECK(steps_of(c) == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8});
        CHECK(c.steps[5].loss == 2.5);
        CHECK(c.steps[6].loss == 9.0);
        CHECK(c.validations.size() == 1);
        CHECK(c.ignored_lines == 0);
        CHECK(!fs::exists(path + ".tmp"));
    }

    TEST_CASE("log: cut at any byte, a resumed log holds whole lines only") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        {
            RunLog log(path, -1);
            for (int s = 1; s <= 3; s++) log.step(step_record(s));
        }
        std::string whole = read_file(path);
        for (size_t cut = 0; cut <= whole.size(); cut++) {
            write_file(path, whole.substr(0, cut));
            auto complete = std::count(whole.begin(), whole.begin() + static_cast<int64_t>(cut), '\n');
            { RunLog log(path, 3); }
            std::string text = read_file(path);
            CHECK(std::count(text.begin(), text.end(), '\n') == complete);
            CHECK((text.empty() || text.back() == '\n'));
            CHECK(text == whole.substr(0, text.size()));
        }
    }

    TEST_CASE("log: time goes on where the resumed run stopped") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        write_file(path, "{\"step\":1,\"loss\":2,\"time\":100.5}\n{\"step\":2,\"loss\":2,\"time\":900}\n");
        {
            RunLog log(path, 1);
            log.step(step_record(2));
        }
        std::string text = read_file(path);
        double time = nlohmann::json::parse(text.substr(text.find('\n')))["time"];
        CHECK(time >= 100.5);
        CHECK(time < 200);
        CHECK(read_log(path).seconds == time);
    }

    TEST_CASE("log: a new run in an old directory keeps the older log aside") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        write_file(path, "{\"step\":1,\"loss\":2}\n");
        { RunLog log(path, -1); }
        CHECK(read_file(path).empty());
        CHECK(read_file(path + ".old") == "{\"step\":1,\"loss\":2}\n");
    }

    TEST_CASE("log: the reader takes a log as it is") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        std::string deep = std::string(100000, '[');
        write_file(
            path,
            "{\"step\":1,\"loss\":3,\"future\":{\"key\":[1]}}\n"
            "{\"step\":2,\"loss\":2,\"gra{\"step\":3,\"loss\":1}\n"  // torn by a full disk, in the middle
            "\n[1,2]\n{\"loss\":1}\n{\"step\":-1,\"loss\":1}\n{\"step\":1e300,\"loss\":1}\n{\"step\":99999999999999999999,\"loss\":1}\n" +
                deep +
                "\n{\"step\":4,\"loss\":\"text\",\"lr\":null,\"tokens\":-5,\"sample\":7}\n{\"step\":5,\"loss\":1e999}\n{\"step\":6,\"lo");
        RunCurves c = read_log(path);
        CHECK(steps_of(c) == std::vector<int64_t>{1, 4});
        CHECK(std::isnan(c.steps[1].loss));
        CHECK(c.steps[1].tokens == 0);
        CHECK(c.ignored_lines == 9);
    }

    TEST_CASE("log: where steps go back the later records hold") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        write_file(path, "{\"step\":1,\"loss\":1}\n{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":3}\n{\"step\":2,\"loss\":20}\n");
        RunCurves c = read_log(path);
        CHECK(steps_of(c) == std::vector<int64_t>{1, 2});
        CHECK(c.steps[1].loss == 20);
    }

    TEST_CASE("log: a full disk costs a warning and a count, never an exception") {
        RunLog log("/dev/full", 5);
        CHECK_NOTHROW(log.step(step_record(6)));
        CHECK_NOTHROW(log.validation({6, 2, -1, 0}));
        CHECK_NOTHROW(log.note(6, "x"));
        CHECK(log.warnings() == 3);
    }

    TEST_CASE("log: a record cut short by a full disk does not take the next one with it") {
        TempDir folder;
        std::string path = (folder / "log.jsonl");
        auto handler = std::signal(SIGXFSZ, SIG_IGN);
        rlimit before;
        getrlimit(RLIMIT_FSIZE, &before);
        {
            RunLog log(path, -1);
            log.step(step_record(1));
            rlimit full = before;
            full.rlim_cur = static_cast<rlim_t>(fs::file_size(path)) + 20;
            setrlimit(RLIMIT_FSIZE, &full);
            log.step(step_record(2));
            log.step(step_record(3));
            setrlimit(RLIMIT_FSIZE, &before);
            CHECK(log.warnings() == 2);
            log.step(step_record(4));
            log.step(step_record(5));
        }
        std::signal(SIGXFSZ, handler);
        CHECK(steps_of(read_log(path)) == std::vector<int64_t>{1, 4, 5});
        CHECK(read_log(path).ignored_lines == 1);
    }

    TEST_CASE("log: a directory that cannot hold a log is refused before training") {
        CHECK_THROWS_AS(RunLog("/nonexistent/log.jsonl", -1), Error);
        try {
            RunLog("/nonexistent/log.jsonl", -1);
        } catch (const Error& error) {
            CHECK(error.code() == ExitCode::io);
        }
        CHECK_THROWS_AS(read_log("/nonexistent/log.jsonl"), Error);
        CHECK_THROWS_AS(read_log("/tmp"), Error);
    }
}
