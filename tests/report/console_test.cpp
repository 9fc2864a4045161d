#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include <doctest/doctest.h>

#include "src/base/arena.h"
#include "src/report/console.h"

using namespace traincu;

namespace {

StepRecord example() {
    StepRecord r;
    r.step = 120, r.max_steps = 2000, r.loss = 1.84234, r.grad_norm = 0.4121, r.lr = 9.8e-4, r.ms = 161.2, r.tok_per_s = 25412.4,
    r.mfu = 0.41, r.eta_seconds = 302;
    return r;
}

}  // namespace

TEST_SUITE("console") {
    TEST_CASE("step_line: exact") {
        StepRecord r = example();
        CHECK(step_line(r) == "step   120/2000 | loss 1.8423 | norm 0.412 | lr 9.8e-04 | 161 ms | 25,412 tok/s | mfu 41 % | eta 5m02s");
        r.mfu = -1, r.gemm_fraction = 0.785;
        CHECK(step_line(r) == "step   120/2000 | loss 1.8423 | norm 0.412 | lr 9.8e-04 | 161 ms | 25,412 tok/s | matmul 78 % | eta 5m02s");
        r.gemm_fraction = -1, r.eta_seconds = -1, r.max_steps = 0;
        CHECK(step_line(r) == "step   120 | loss 1.8423 | norm 0.412 | lr 9.8e-04 | 161 ms | 25,412 tok/s");
        r.skipped = "loss is not finite", r.loss = std::nan("");
        CHECK(step_line(r) == "step   120 | loss nan | norm 0.412 | lr 9.8e-04 | 161 ms | 25,412 tok/s | skipped: loss is not finite");
    }

    TEST_CASE("step_line: stays below 110 columns") {
        StepRecord r = example();
        r.step = r.max_steps = 19560, r.loss = 11.0091, r.grad_norm = 15.374, r.ms = 9999.4, r.tok_per_s = 999999,
        r.eta_seconds = 3 * 86400;
        CHECK(step_line(r).size() < 110);
        CHECK(step_line(r).find("...") == std::string::npos);
        r.step = r.max_steps = std::numeric_limits<int64_t>::max(), r.loss = 1e300, r.grad_norm = 1e300, r.skipped = std::string(500, 'x');
        CHECK(step_line(r).size() < 110);
        CHECK(step_line(r).substr(106) == "...");
    }

    TEST_CASE("validation_line: exact") {
        CHECK(validation_line({120, 1.75124, 1.102, 491520}) == "step   120 | val loss 1.7512 | 1.1020 bits/byte | 491,520 tokens");
        CHECK(validation_line({5, 1.75126, -1, 0}) == "step     5 | val loss 1.7513");
        CHECK(validation_line({5, 1.75126, -1, 10, 0.29546}) == "step     5 | val loss 1.7513 | hellaswag 29.55 % | 10 tokens");
    }

    TEST_CASE("numbers for people") {
        CHECK(with_commas(0) == "0");
        CHECK(with_commas(999) == "999");
        CHECK(with_commas(1000) == "1,000");
        CHECK(with_commas(1234567) == "1,234,567");
        CHECK(with_commas(-123) == "-123");
        CHECK(with_commas(-123456) == "-123,456");
        CHECK(short_count(950) == "950");
        CHECK(short_count(999.6) == "1.0k");
        CHECK(short_count(1.2e6) == "1.2M");
        CHECK(short_count(124439808) == "124M");
        CHECK(short_count(10.26e9) == "10.3B");
        CHECK(short_count(999.7e6) == "1.0B");
        CHECK(short_count(NAN) == "?");
        CHECK(duration(0) == "0s");
        CHECK(duration(59.4) == "59s");
        CHECK(duration(59.6) == "1m00s");
        CHECK(duration(302) == "5m02s");
        CHECK(duration(3 * 3600 + 12 * 60) == "3h12m");
        CHECK(duration(51 * 3600) == "2d03h");
        CHECK(duration(-1) == "?");
        CHECK(duration(NAN) == "?");
        CHECK(duration(INFINITY) == "?");
        CHECK(milliseconds(3.414) == "3.41 ms");
        CHECK(milliseconds(9.999) == "10 ms");
        CHECK(milliseconds(1234) == "1,234 ms");
        CHECK(milliseconds(12340) == "12.3 s");
    }

    TEST_CASE("table: groups once, columns aligned, long values on lines of their own") {
        std::string text = table(
            "Options",
            {{"model", "preset", "gpt2-124m"}, {"model", "n-layer", "12"}, {"data", "data", ""}, {"run", "out", std::string(200, 'x')}});
        CHECK(text.substr(0, text.find("  run")) ==
              "Options\n"
              "  model  preset   gpt2-124m\n"
              "         n-layer  12\n"
              "  data   data\n");
        std::istringstream lines(text);
        std::string line;
        size_t marks = 0;
        while (std::getline(lines, line)) {
            CHECK(line.size() < 110);
            marks += static_cast<size_t>(std::count(line.begin(), line.end(), 'x'));
        }
        CHECK(marks == 200);
    }

    TEST_CASE("memory_table: every arena and the total") {
        Arena weights("weights"), nothing("scratch");
        Tensor a, b;
        weights.add(a, "wte", Dtype::f32, {1024, 256});
        weights.add(b, "ln", Dtype::f32, {256});
        CHECK(memory_table({&weights, &nothing}) ==
              "Memory\n"
              "  weights     1.00 MiB      2 tensors, largest wte (1.00 MiB)\n"
              "  scratch          0 B\n"
              "  total       1.00 MiB\n");
    }
}
