// Learning-rate shapes, the guard, clipping and decay.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "src/optim/guard.h"
#include "src/optim/lr_schedule.h"
#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {

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

    TEST_CASE("guard: nothing that is not finite is accepted, and the window survives it") {
        Guard guard(6);
        const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
        for (int i = 0; i < 200; i++) CHECK(guard.judge(2.0 + 0.01 * (i % 7), 1.0 + 0.01 * (i % 5)).empty());
        CHECK(!guard.judge(nan, 1).empty());
        CHECK(!guard.judge(2, inf).empty());
        CHECK(guard.consecutive_nonfinite() == 2);
        CHECK(guard.judge(2.02, 1.01).empty());
        CHECK(guard.consecutive_nonfinite() == 0);
        CHECK(!guard.judge(3.0, 1.01).empty());  // a spike is still caught after the NaNs
        CHECK(!guard.judge(2.0, 9.0).empty());
        CHECK(guard.judge(1.0, 0.1).empty());  // below is no spike
        CHECK(guard.skipped() == 4);
    }

    TEST_CASE("guard: a lasting shift of level ends the skipping") {
        Guard guard(6);
        for (int i = 0; i < 128; i++) guard.judge(2.0 + 0.001 * (i % 3), 1.0 + 0.001 * (i % 4));
        int skipped = 0;
        for (int i = 0; i < 50; i++) skipped += !guard.judge(5.0 + 0.001 * (i % 3), 1.0).empty();
        CHECK(skipped == 9);
    }

    TEST_CASE("guard: zero turns the z-score off, not the finite check; a short history skips nothing") {
        Guard off(0), young(6);
        for (int i = 0; i < 300; i++) CHECK(off.judge(i == 200 ? 1e6 : 2.0 + 0.001 * (i % 3), 1).empty());
        CHECK(!off.judge(std::nan(""), 1).empty());
        for (int i = 0; i < 127; i++) CHECK(young.judge(i % 20 == 19 ? 100.0 : 2.0, 1).empty());
    }

    TEST_CASE("guard: a restored guard decides alike") {
        Guard a(6);
        for (int i = 0; i < 150; i++) a.judge(2.0 + 0.01 * ((i * 37) % 11), 1.0 + 0.01 * ((i * 17) % 7));
        a.judge(9, 1);
        Guard b(6);
        b.restore(nlohmann::ordered_json::parse(a.state().dump()));
        CHECK(b.skipped() == a.skipped());
        for (int i = 0; i < 100; i++) {
            double loss = i % 13 == 0 ? 2.8 : 2.0 + 0.01 * (i % 11), norm = 1.0 + 0.01 * (i % 7);
            CHECK(a.judge(loss, norm) == b.judge(loss, norm));
        }
    }

    TEST_CASE("optimizer: decay acts on matrices only, the norm is over everything, clipping scales") {
        ModelConfig config = gpt2_like();
        AdamwParams hyper;
        hyper.weight_decay = 0.5;
        TinyModel m(config, Dtype::f64, 8, Recompute::none, 0, hyper);
        for (int64_t i = 0; i < m.store.table.flat_size; i++) Pool::set(m.weights(), i, 1.0);
        m.optimizer.update(m.weights(), m.gradients(), 0.1, 1.0, m.stream);  // gradients are zero: only decay moves weights
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
        CHECK(Optimizer::global_norm(m.gradients(), m.stream) == doctest::Approx(5.0));
        CHECK(Optimizer::clip_factor(5.0, 1.0) == doctest::Approx(0.2));
        CHECK(Optimizer::clip_factor(0.5, 1.0) == 1.0);
        CHECK(Optimizer::clip_factor(5.0, 0.0) == 1.0);
    }

}  // TEST_SUITE
}  // namespace traincu::test
