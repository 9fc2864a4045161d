// The scorer of multiple-choice questions against PyTorch in float64, one context with one answer at a time (make_choices.py).
#include <filesystem>

#include "src/command/choice_scorer.h"
#include "tests/golden/golden_file.h"
#include "tests/support/files.h"

namespace traincu::test {

TEST_SUITE("golden") {
    TEST_CASE("golden: the loss of every answer, however many are computed at once") {
        int sets = 0;
        for (const auto& entry : fs::directory_iterator("tests/golden/choices")) {
            if (entry.path().extension() != ".json") continue;
            sets++;
            CAPTURE(entry.path().string());
            const auto expected = nlohmann::json::parse(read_file(entry.path().string()));
            Golden golden("tests/golden/" + expected["model"].get<std::string>() + ".safetensors");
            const ModelConfig config = config_from(nlohmann::json::parse(golden.file.metadata().at("config")));
            const auto examples = read_choices(fs::path(entry.path()).replace_extension(".bin").string(), config.vocab_size);

            REQUIRE(examples.size() == expected["examples"].size());
            for (size_t i = 0; i < examples.size(); i++) {
                const auto& e = expected["examples"][i];
                CHECK(examples[i] == ChoiceExample{e["label"], e["context"], e["completions"]});
            }
            const int64_t T = expected["seq_len"];
            for (int64_t rows : {1, 3, 64}) {
                CAPTURE(rows);
                WeightStore weights(config, Dtype::f32, false);
                ForwardPass pass(weights, rows * T);
                Stream stream;
                weights.allocate(stream), pass.allocate(stream);
                load_weights(weights, golden);
                ChoiceScorer scorer(pass, examples, "set", T, 0);
                const std::vector<double> losses = scorer.completion_losses(stream);
                size_t at = 0;
                for (const auto& answers : expected["losses"])
                    for (double loss : answers) {
                        REQUIRE(at < losses.size());
                        CHECK(std::fabs(losses[at++] - loss) < 1e-4);
                    }
                CHECK(at == losses.size());
                const ChoiceScore score = scorer.run(stream);
                CHECK(score.examples == static_cast<int64_t>(examples.size()));
                CHECK(score.right_by_sum == expected["right_by_sum"]);
                CHECK(score.right_by_mean == expected["right_by_mean"]);
            }
        }
        CHECK(sets == 2);
    }
}

}  // namespace traincu::test
