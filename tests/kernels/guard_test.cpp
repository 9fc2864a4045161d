#include "kernels/guard.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

namespace traincu::test {
namespace {

// A guard that is told a loss and a norm at each step.
struct Guard {
    explicit Guard(double zscore_limit) {
        params.zscore_limit = zscore_limit;
        const GuardState fresh;
        test_stream().upload(state_, &fresh);
    }
    Verdict judge(double loss, double norm) {
        *loss_sum_.as<double>() = loss, *squares_.as<double>() = norm * norm;
        guard_step(state_, loss_sum_, squares_, params, test_stream());
        test_stream().synchronize();
        return state().verdict;
    }
    bool accepts(double loss, double norm) { return judge(loss, norm) == Verdict::accepted; }
    const GuardState& state() const { return guard_state_of(state_); }

    GuardParams params;

private:
    Pool pool_;
    Tensor state_ = pool_.poison(Dtype::f64, {guard_state_size}), loss_sum_ = pool_.zeros(Dtype::f64, {1}),
           squares_ = pool_.zeros(Dtype::f64, {1});
};

const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();

}  // namespace

TEST_SUITE("guard") {
    TEST_CASE("guard: nothing that is not finite is accepted, and the window survives it") {
        Guard guard(6);
        for (int i = 0; i < 200; i++) CHECK(guard.accepts(2.0 + 0.01 * (i % 7), 1.0 + 0.01 * (i % 5)));
        CHECK(guard.judge(nan, 1) == Verdict::loss_not_finite);
        CHECK(guard.judge(2, inf) == Verdict::norm_not_finite);
        CHECK(guard.state().consecutive_nonfinite == 2);
        CHECK(guard.accepts(2.02, 1.01));
        CHECK(guard.state().consecutive_nonfinite == 0);
        CHECK(guard.judge(3.0, 1.01) == Verdict::loss_spike);  // still caught after the NaNs
        CHECK(guard.judge(2.0, 9.0) == Verdict::norm_spike);
        CHECK(guard.accepts(1.0, 0.1));  // below is no spike
        CHECK(guard.state().skipped == 4);
        CHECK(guard.state().adam_steps == 202);
    }

    TEST_CASE("guard: a lasting shift of level ends the skipping") {
        Guard guard(6);
        for (int i = 0; i < 128; i++) guard.judge(2.0 + 0.001 * (i % 3), 1.0 + 0.001 * (i % 4));
        int skipped = 0;
        for (int i = 0; i < 50; i++) skipped += !guard.accepts(5.0 + 0.001 * (i % 3), 1.0);
        CHECK(skipped == 9);
    }

    TEST_CASE("guard: zero turns the z-score off, not the finite check; a short history skips nothing") {
        Guard off(0), young(6);
        for (int i = 0; i < 300; i++) CHECK(off.accepts(i == 200 ? 1e6 : 2.0 + 0.001 * (i % 3), 1));
        CHECK(!off.accepts(nan, 1));
        for (int i = 0; i < 127; i++) CHECK(young.accepts(i % 20 == 19 ? 100.0 : 2.0, 1));
    }

    TEST_CASE("guard: the loss is scaled, and the clip brings a norm down to its limit") {
        Guard guard(0);
        guard.params = {0.125, 0, 2.0};
        CHECK(guard.accepts(20.0, 8.0));
        CHECK(guard.state().loss == 2.5);
        CHECK(guard.state().norm == 8.0);
        CHECK(guard.state().clip == 0.25);
        CHECK(guard.accepts(20.0, 1.5));
        CHECK(guard.state().clip == 1.0);
        guard.params.grad_clip = 0;
        CHECK(guard.accepts(20.0, 8.0));
        CHECK(guard.state().clip == 1.0);
    }

    TEST_CASE("guard: the window holds the last 128 accepted steps, the oldest first") {
        Guard guard(0);
        for (int i = 0; i < 131; i++) CHECK(guard.accepts(i, 2 * i) == true);
        CHECK(guard.state().filled == 128);
        for (int i = 0; i < 128; i++) {
            CHECK(guard.state().losses[i] == i + 3);
            CHECK(guard.state().norms[i] == 2 * (i + 3));
        }
    }

    TEST_CASE("guard: the GPU judges as the CPU does, to the last bit, over a long run of all that happens") {
        Pool pool;
        Tensor here = pool.zeros(Dtype::f64, {guard_state_size}), there = pool.zeros(Dtype::f64, {guard_state_size});
        Tensor loss = pool.zeros(Dtype::f64, {1}), squares = pool.zeros(Dtype::f64, {1});
        const GuardState fresh;
        Stream cpu;
        cpu.upload(here, &fresh), test_stream().upload(there, &fresh);
        const Random random{7, RandomStream::sampling};
        double level = 3;
        int64_t verdicts[5] = {};
        for (uint32_t step = 0; step < 900; step++) {
            level = step == 500 ? 7 : level - 0.001;
            double x = level + 0.05 * random.normal(step, 0), norm = 1 + 0.1 * random.normal(step, 1);
            const uint64_t event = random.below(60, step, 2);
            if (event == 0) x += 3;
            if (event == 1) norm *= 5;
            if (event == 2) x = nan;
            if (event == 3) norm = inf;
            Pool::set(loss, 0, 100 * x), Pool::set(squares, 0, norm * norm);
            const GuardParams p{0.01, 4, step % 2 == 0 ? 0.9 : 0};
            guard_step(here, loss, squares, p, cpu);
            guard_step(there, loss, squares, p, test_stream());
            test_stream().synchronize();
            REQUIRE(equal_bits(here, there));
            verdicts[static_cast<int>(guard_state_of(there).verdict)]++;
        }
        for (int64_t count : verdicts) CHECK(count > 0);
    }
}

}  // namespace traincu::test
