// Learning-rate shapes, the guard, clipping and decay.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "src/optim/guard.h"
#include "src/optim/lr_schedule.h"
#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {
namespace {

struct Guard {
    double zscore_limit;
    GuardState state = {};

    std::string judge(double loss, double norm) {
        double squares = norm * norm;
        Stream stream;
        guard_step(Tensor(&state, Dtype::f64, {guard_state_size}), Tensor(&loss, Dtype::f64, {1}), Tensor(&squares, Dtype::f64, {1}),
                   {1, zscore_limit, 0}, stream);
        return skip_reason(state);
    }
};

}  // namespace

TEST_SUITE("optim") {
    TEST_CASE("lr schedule: warmup, then the shape, known values") {
        LrSchedule s{"cosine", 1e-3, 0.1, 10, 110, 0.2};
        CHECK(s.at(0) == doctest::Approx(1e-4));
        CHECK(s.at(9) == doctest::Approx(1e-3));
        CHECK(s.at(10) == doctest::Approx(1e-3));
        CHECK(s.at(60) == doctest::Approx(0.55e-3));  // half way: the mean of peak and end
        CHECK(s.at(110) == doctest::Approx(1e-4));
        s.shape = "linear";
        CHECK(s.at(35) == doctest::Approx(1e-4 + 0.75 * 0.9e-3));
        s.shape = "constant";
        CHECK(s.at(109) == doctest::Approx(1e-3));
        s.shape = "wsd";
        CHECK(s.at(87) == doctest::Approx(1e-3));  // constant until the last fifth: step 88
        CHECK(s.at(99) == doctest::Approx(0.55e-3));
        s = {"linear", 2.0, 0.0, 0, 1, 0.2};
        CHECK(s.at(0) == doctest::Approx(2.0));  // a single step runs at the peak
    }

    TEST_CASE("lr schedule: llm.c's formula at every step of its 124M recipe") {
        LrSchedule s{"cosine", 6e-4, 0.0, 700, 19560, 0.2};
        for (int step = 0; step < 19560; step += 37) {
            double expected = step < 700 ? 6e-4 * (step + 1) / 700 : 0.5 * (1 + std::cos(M_PI * (step - 700.0) / (19560 - 700.0))) * 6e-4;
            CHECK(s.at(step) == doctest::Approx(expected).epsilon(1e-12));
        }
    }

    TEST_CASE("guard: a restored state decides alike") {
        Guard a{6};
        for (int i = 0; i < 150; i++) a.judge(2.0 + 0.01 * ((i * 37) % 11), 1.0 + 0.01 * ((i * 17) % 7));
        a.judge(9, 1);
        Guard b{6};
        b.state = guard_from_json(nlohmann::ordered_json::parse(guard_to_json(a.state).dump()));
        CHECK(b.state.skipped == a.state.skipped);
        for (int i = 0; i < 100; i++) {
            double loss = i % 13 == 0 ? 2.8 : 2.0 + 0.01 * (i % 11), norm = 1.0 + 0.01 * (i % 7);
            CHECK(a.judge(loss, norm) == b.judge(loss, norm));
        }
    }

    TEST_CASE("guard: the reason of a skip is said with its number") {
        Guard guard{6};
        CHECK(guard.judge(std::nan(""), 1) == "loss is nan");
        CHECK(guard.judge(1, std::numeric_limits<double>::infinity()) == "gradient norm is inf");
        for (int i = 0; i < 128; i++) CHECK(guard.judge(2.0 + 0.01 * (i % 2), 1.0) == "");
        CHECK(guard.judge(2.205, 1.0) == "loss 40.0 sigma above the last 128 steps");  // mean 2.005, deviation 0.005
    }

    TEST_CASE("optimizer: decay acts on matrices only, the norm is over everything, clipping scales") {
        ModelConfig config = gpt2_like();
        AdamwParams hyper;
        hyper.weight_decay = 0.5;
        TinyModel m(config, Dtype::f64, 8, Recompute::none, 0, hyper);
        for (int64_t i = 0; i < m.store.table.flat_size; i++) Pool::set(m.weights(), i, 1.0);
        m.optimizer.step(m.instance->model.loss_sum(), 0.1, {},
                         m.stream);  // no gradients: only decay moves weights
        int decayed = 0;
        for (const ParamRow& row : m.store.table.rows) {
            CAPTURE(row.name);
            bool matrix = row.rows > 1;
            CHECK(Pool::get(m.weights(), row.offset) == doctest::Approx(matrix ? 0.95 : 1.0));
            decayed += matrix;
        }
        CHECK(decayed == 2 + 4 * config.n_layer);
        Pool::set(m.gradients(), m.store.table.rows[0].offset, 3.0);
        Pool::set(m.gradients(), m.store.table.rows.back().offset, 4.0);
        for (auto [limit, clip] : {std::pair{1.0, 0.2}, {5.5, 1.0}, {0.0, 1.0}}) {
            m.optimizer.step(m.instance->model.loss_sum(), 0.1, {1, 0, limit}, m.stream);
            CHECK(m.optimizer.read_guard(m.stream).norm == doctest::Approx(5.0));
            CHECK(m.optimizer.read_guard(m.stream).clip == doctest::Approx(clip));
        }
    }

}  // TEST_SUITE
}  // namespace traincu::test
