// Losses, all gradients and ten optimizer steps against an independent implementation (make_golden.py).
#include <doctest/doctest.h>

#include <filesystem>

#include "tests/golden/golden_file.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {

namespace {

StepBatch batch_from(const Golden& golden) {
    StepBatch step;
    MicroBatch b;
    b.tokens = golden.get<int32_t>("tokens"), b.targets = golden.get<int32_t>("targets"), b.positions = golden.get<int32_t>("positions");
    b.loss_weights = golden.get<float>("loss_weights");
    std::vector<int32_t> table = golden.get<int32_t>("segments");
    for (size_t i = 0; i + 4 < table.size() + 0; i += 5)
        b.segments.push_back({table[i], table[i + 1], table[i + 2], table[i + 3], table[i + 4]});
    for (int32_t target : b.targets) step.loss_tokens += target >= 0;
    step.tokens = b.T();
    step.micro_batches.push_back(std::move(b));
    return step;
}

std::vector<std::string> golden_files() {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator("tests/golden"))
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
    return files;
}

struct Settings {
    ModelConfig config;
    AdamwParams hyper;
    double lr, clip, z_loss;
};
Settings settings_of(const Golden& golden) {
    auto j = nlohmann::json::parse(golden.file.metadata().at("config"));
    AdamwParams hyper;
    hyper.beta1 = j["beta1"], hyper.beta2 = j["beta2"], hyper.eps = j["adam_eps"], hyper.weight_decay = j["weight_decay"];
    return {config_from(j), hyper, j["lr"], j["grad_clip"], j["z_loss"]};
}

}  // namespace

TEST_SUITE("golden") {
    TEST_CASE("golden: the files are there") { CHECK(golden_files().size() == 18); }

    TEST_CASE("golden: losses and every gradient, in f64 and f32") {
        for (const std::string& path : golden_files()) {
            CAPTURE(path);
            Golden golden(path);
            Settings s = settings_of(golden);
            StepBatch batch = batch_from(golden);
            for (Dtype dtype : {Dtype::f64, Dtype::f32}) {
                CAPTURE(name_of(dtype));
                TinyModel m(s.config, dtype, batch.tokens, Recompute::none, s.z_loss);
                load_weights(m.store, golden);
                double loss = m.loss_and_gradients(batch), expected = golden.get<double>("losses10")[0];
                CHECK(loss == doctest::Approx(expected).epsilon(dtype == Dtype::f64 ? 1e-9 : 1e-6));
                std::vector<double> losses = golden.get<double>("losses");
                double worst = 0;
                for (size_t t = 0; t < losses.size(); t++)
                    worst = std::max(worst, std::fabs(Pool::get(m.instance->model.losses(), static_cast<int64_t>(t)) - losses[t]));
                CHECK(worst < (dtype == Dtype::f64 ? 1e-9 : 2e-5));
                for (const ParamRow& row : m.store.table.rows) {
                    CAPTURE(row.name);
                    double difference = 0, size = 0;
                    visit(golden, "g.", row, s.config, [&](double value, int64_t at) {
                        double d = Pool::get(m.gradients(), at) - value;
                        difference += d * d, size += value * value;
                    });
                    CHECK(size > 0);
                    CHECK(std::sqrt(difference / size) < (dtype == Dtype::f64 ? 1e-6 : 1e-5));  // the files hold f32
                }
            }
        }
    }

    TEST_CASE("golden: ten AdamW steps agree to 1e-5") {
        for (const std::string& path : golden_files()) {
            CAPTURE(path);
            Golden golden(path);
            Settings s = settings_of(golden);
            StepBatch batch = batch_from(golden);
            std::vector<double> losses = golden.get<double>("losses10"), norms = golden.get<double>("grad_norms10");
            for (Dtype dtype : {Dtype::f64, Dtype::f32}) {
                CAPTURE(name_of(dtype));
                TinyModel m(s.config, dtype, batch.tokens, Recompute::none, s.z_loss, s.hyper);
                load_weights(m.store, golden);
                for (size_t step = 0; step < 10; step++) {
                    CAPTURE(step);
                    double norm = 0, loss = m.train_step(batch, s.lr, s.clip, &norm);
                    CHECK(std::fabs(loss - losses[step]) < 1e-5);
                    CHECK(norm == doctest::Approx(norms[step]).epsilon(1e-4));
                }
                CHECK(losses[9] < losses[0] - 0.1);  // the steps moved something
            }
        }
    }

}  // TEST_SUITE
}  // namespace traincu::test
