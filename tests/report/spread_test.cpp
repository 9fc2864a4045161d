// What losses owe to circumstances: groups of runs, spreads and partings, against figures set by hand.
#include <doctest/doctest.h>

#include <cmath>

#include "src/report/html.h"
#include "src/report/spread.h"
#include "tests/support/cli.h"

namespace traincu::test {
namespace {

Run run_of(const char* name, const nlohmann::ordered_json& options, std::vector<double> losses, double val_loss) {
    Run run;
    run.directory = run.name = name;
    run.settings = {{"options", options}};
    int64_t step = 0;
    for (double loss : losses) {
        StepRecord record;
        record.step = ++step, record.loss = loss;
        run.curves.steps.push_back(record);
    }
    run.curves.validations.push_back({step, val_loss, 0, step});
    return run;
}

}  // namespace

TEST_SUITE("report") {
    TEST_CASE("spread: over circumstances within a seed, over seeds, and where runs part") {
        using Json = nlohmann::ordered_json;
        auto options = [](const char* precision, int seed, int batch, int threads) {
            return Json{{"precision", precision}, {"seed", seed}, {"batch-size", batch}, {"threads", threads}, {"lr", 0.001}};
        };
        const std::vector<Run> runs = {
            run_of("a", options("fp32", 1, 8, 1), {5, 4, 3}, 2.5),         run_of("b", options("fp32", 1, 2, 1), {5, 4, 3}, 2.5),
            run_of("c", options("bf16", 1, 8, 1), {5, 4, 3}, 2.5),         run_of("d", options("bf16", 1, 8, 2), {5, 4.001, 3.1}, 2.625),
            run_of("e", options("bf16", 2, 8, 1), {5.5, 4.5, 3.5}, 3),     run_of("f", options("bf16", 2, 1, 1), {5.5, 4.5, 3.5001}, 3.25),
            run_of("g", options("bf16", 2, 4, 1), {5.5, 4.5, 3.5}, 3.125),
        };
        const std::vector<Spread> rows = spreads(runs);
        REQUIRE(rows.size() == 2);
        CHECK(rows[0].what == "precision fp32");
        CHECK(rows[0].runs == 2);
        CHECK(rows[0].seeds == 1);
        CHECK(rows[0].circumstances == 0);
        CHECK(std::isnan(rows[0].over_seeds));
        CHECK(rows[0].exact == -1);
        CHECK(rows[1].what == "precision bf16");
        CHECK(rows[1].runs == 5);
        CHECK(rows[1].seeds == 2);
        CHECK(rows[1].loss == doctest::Approx((2.5 + 2.625 + 3 + 3.25 + 3.125) / 5));
        CHECK(rows[1].circumstances == doctest::Approx((0.125 + 0.25) / 2));
        CHECK(rows[1].over_seeds == 0.5);
        CHECK(rows[1].exact == 2);
        CHECK(rows[1].far == 3);
        const std::string page = render_report(runs, {}, 0.02);
        for (const char* words : {"Circumstances", "precision bf16", "1.9e-01", "5.0e-01"}) CHECK(page.find(words) != std::string::npos);
        // what is sent in few bits is another training
        std::vector<Run> sent = {runs[0], runs[1], runs[1]};
        sent[2].settings["options"]["quant-weights"] = "diff4";
        CHECK(spreads(sent).size() == 2);
        // runs that are not the same training have no such table, nor have runs that differ in the seed alone
        for (const auto& other : {std::vector<Run>{runs[0], runs[2]}, std::vector<Run>{runs[2], runs[4]}}) {
            CHECK(spreads(other).empty());
            CHECK(render_report(other, {}, 0.02).find("Circumstances") == std::string::npos);
        }
    }
}

}  // namespace traincu::test
