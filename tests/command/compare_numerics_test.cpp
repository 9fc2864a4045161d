// ./train compare-numerics: precisions beside f64, and where runs part.
#include "tests/support/cli.h"

#include <cmath>

namespace traincu::test {

namespace {

nlohmann::json compared(const TempDir& folder, const std::string& arguments) {
    const Result result = run(folder, "compare-numerics --threads 1 --json figures.json " + arguments);
    INFO(result.err);
    REQUIRE(result.code == 0);
    return nlohmann::json::parse(read_file(folder / "figures.json"));
}

void train(const TempDir& folder, const std::string& out, const std::string& arguments) {
    REQUIRE(run(folder, tiny_run + "--max-steps 12 --device cpu --out " + out + " " + arguments).code == 0);
}

}  // namespace

TEST_SUITE("command line") {
    TEST_CASE("cli: compare-numerics: the arithmetic of each precision, layer by layer") {
        TempDir f;
        make_corpus(f);
        train(f, "run", "--precision fp32");
        const auto json = compared(f, "run");
        CHECK(json["step"] == 12);
        CHECK(json["tokens"] == 64);
        CHECK(!json.contains("runs"));
        const auto &fp32 = json["precisions"][0], &layercast = json["precisions"][1], &bf16 = json["precisions"][2];
        CHECK(fp32["precision"] == "fp32");
        CHECK(!fp32.contains("own_weights"));
        CHECK(layercast["precision"] == "layercast");
        CHECK(bf16["precision"] == "bf16");
        REQUIRE(fp32["original_weights"]["layers"].size() == 4);  // embedding, two blocks, head
        for (size_t i = 0; i < 4; i++)
            for (const std::string what : {"activations", "gradients"}) {
                CAPTURE(i);
                CAPTURE(what);
                auto error = [&](const nlohmann::json& precision, const char* weights) {
                    return precision[weights]["layers"][i][what].get<double>();
                };
                const double exact = error(fp32, "original_weights");
                CHECK(exact > 0);
                CHECK(exact < 1e-5);
                // Weights in 16 bits, arithmetic in fp32: beside f64 with the same weights as near as fp32.
                CHECK(error(layercast, "own_weights") < 3 * exact);
                CHECK(error(layercast, "original_weights") > 30 * exact);
                for (const char* weights : {"own_weights", "original_weights"}) {
                    CHECK(error(bf16, weights) > 100 * exact);
                    CHECK(error(bf16, weights) < 0.1);
                }
            }
        CHECK(std::fabs(fp32["original_weights"]["loss_difference"].get<double>()) < 1e-6);

        // the loss of f64 is that of eval on the same tokens
        const Result eval =
            run(f, "eval --model run --data text_train_000000.bin --device cpu --max-tokens 64 --batch-size 1 --json eval.json");
        REQUIRE(eval.code == 0);
        const auto evaluated = nlohmann::json::parse(read_file(f / "eval.json"));
        CHECK(json["loss"].get<double>() == doctest::Approx(evaluated["data"][0]["loss"].get<double>()).epsilon(1e-6));

        const auto few = compared(f, "run --precisions bf16 --tokens 16 --data text_val_000000.bin");
        CHECK(few["precisions"].size() == 1);
        CHECK(few["tokens"] == 16);
        CHECK(compared(f, "--precisions fp32 --tokens 192 run")["tokens"] == 192);
        CHECK(run(f, "compare-numerics run --precisions layercast").says("layercast"));
    }

    TEST_CASE("cli: compare-numerics: where runs part, and their bands") {
        TempDir f;
        make_corpus(f);
        train(f, "a", "--precision fp32 --seed 3");
        train(f, "b", "--precision fp32 --seed 3");
        train(f, "other", "--precision fp32 --seed 4 --max-steps 9");
        train(f, "narrow", "--precision bf16 --seed 3");
        const auto json = compared(f, "a b other narrow --precisions fp32");
        const auto& runs = json["runs"];
        REQUIRE(runs.size() == 4);
        CHECK(runs[1]["steps_compared"] == 12);
        CHECK(runs[1]["first_other_step"].is_null());
        CHECK(runs[1]["first_far_step"].is_null());
        CHECK(runs[2]["steps_compared"] == 9);
        CHECK(runs[2]["first_other_step"] == 1);
        CHECK(runs[2]["first_far_step"] == 1);
        CHECK(runs[3]["precision"] == "bf16");
        CHECK(runs[3]["first_other_step"] == 1);

        // the figures of the bands, from the logs
        auto loss = [&](const std::string& name, const char* key, int64_t step) {
            std::string line;
            for (std::stringstream lines(read_file(f / (name + "/log.jsonl"))); std::getline(lines, line);)
                if (const auto record = nlohmann::json::parse(line); record["step"] == step && record.contains(key))
                    return record[key].get<double>();
            return std::nan("");
        };
        const double same = loss("a", "loss", 9), other = loss("other", "loss", 9);
        const auto& band = json["bands"][0];
        CHECK(band["precision"] == "fp32");
        CHECK(band["of"] == "loss");
        CHECK(band["step"] == 9);
        CHECK(band["n"] == 3);
        CHECK(band["mean"].get<double>() == doctest::Approx((2 * same + other) / 3).epsilon(1e-12));
        CHECK(band["smallest"] == std::min(same, other));
        CHECK(band["largest"] == std::max(same, other));
        CHECK(band["spread"].get<double>() == std::fabs(same - other));
        CHECK(json["bands"][1]["precision"] == "bf16");
        CHECK(json["bands"][1]["mean"] == loss("narrow", "loss", 9));
        bool validated = false;
        for (const auto& b : json["bands"])
            if (b["of"] == "val_loss" && b["precision"] == "bf16") {
                validated = true;
                CHECK(b["step"] == 12);
                CHECK(b["mean"] == loss("narrow", "val_loss", 12));
            }
        CHECK(validated);
    }

    TEST_CASE("cli: compare-numerics: losses that differ a little, then more, and one that is no number") {
        TempDir f;
        make_corpus(f);
        train(f, "a", "--precision fp32");
        for (const char* name : {"close", "broken"}) fs::copy(f / "a", f / name, fs::copy_options::recursive);
        auto edit = [&](const std::string& name, auto&& change) {
            std::string line, text;
            for (std::stringstream lines(read_file(f / (name + "/log.jsonl"))); std::getline(lines, line);) {
                auto record = nlohmann::json::parse(line);
                if (record.contains("loss")) change(record["step"].get<int64_t>(), record["loss"]);
                text += record.dump() + "\n";
            }
            write_file(f / (name + "/log.jsonl"), text);
        };
        edit("close", [](int64_t step, nlohmann::json& loss) {
            loss = loss.get<double>() * (step == 5 ? 1.0009 : step == 6 ? 0.9991 : step >= 8 ? 0.9989 : 1);
        });
        edit("broken", [](int64_t step, nlohmann::json& loss) {
            if (step >= 7) loss = nullptr;
        });
        const auto json = compared(f, "a close broken --precisions fp32 --tokens 8");
        CHECK(json["runs"][1]["first_other_step"] == 5);
        CHECK(json["runs"][1]["first_far_step"] == 8);
        CHECK(json["runs"][2]["first_other_step"] == 7);
        CHECK(json["runs"][2]["first_far_step"] == 7);
        for (const char* figure : {"mean", "smallest", "largest", "spread"}) CHECK(json["bands"][0][figure].is_null());
        CHECK(compared(f, "broken broken --precisions fp32 --tokens 8")["runs"][1]["first_other_step"].is_null());
    }

    TEST_CASE("cli: compare-numerics: mistakes") {
        TempDir f;
        make_corpus(f);
        train(f, "run", "--precision fp32");
        train(f, "deeper", "--n-layer 3");
        fs::create_directories(f / "empty");
        struct Case {
            const char *arguments, *says;
            int code;
        };
        for (const Case& c : {
                 Case{"", "RUN is required", 2},
                 Case{"nowhere", "there is no model at nowhere", 2},
                 Case{"empty", "holds no checkpoint", 4},
                 Case{"run empty", "holds no checkpoint", 4},
                 Case{"run --precisions fp32,fp8", "'fp8' is none that can be compared", 2},
                 Case{"run deeper", "run and deeper are models of different shapes", 2},
                 Case{"run --tokens 100", "not a whole number of rows of 64 tokens", 2},
                 Case{"run --data nowhere.bin", "nowhere.bin", 3},
             }) {
            CAPTURE(c.arguments);
            const Result result = run(f, std::string("compare-numerics ") + c.arguments);
            CHECK(result.code == c.code);
            CHECK(result.says(c.says));
            CHECK(!result.verdict()["hint"].get<std::string>().empty());
        }
        const Result help = run(f, "compare-numerics --help");
        CHECK(help.code == 0);
        CHECK(help.says("--precisions"));
        CHECK(help.says("./train compare-numerics runs/book"));
        CHECK(run(f, "compare-nothing").says("compare-numerics"));
    }
}

}  // namespace traincu::test
