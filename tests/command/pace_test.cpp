#include "src/command/pace.h"

#include <doctest/doctest.h>

namespace traincu::test {

TEST_SUITE("pace") {
    TEST_CASE("pace: the rest of a run is told from the steps so far") {
        Pace pace;
        StepRecord record;
        record.max_steps = 11, record.step = 1, record.ms = 200;
        pace.add(record, 100, {});
        CHECK(record.eta_seconds == doctest::Approx(2.0));
        record.step = 2, record.ms = 400;
        pace.add(record, 100, {});
        CHECK(record.eta_seconds == doctest::Approx(0.21 * 9));
        CHECK(pace.step_seconds == doctest::Approx(0.6));
        CHECK(record.joules_per_token < 0);
        CHECK(record.power_w < 0);
    }

    TEST_CASE("pace: energy is counted from the end of the first step, and a reading that is older than its step waits for the next") {
        Pace pace;
        StepRecord record;
        GpuReading reading;
        reading.power_w = 300, reading.temperature_c = 60, reading.sm_clock_mhz = 1500, reading.throttled = "power cap";
        const double joules[] = {5000, 5000, 5030, 5060, 5060, 5120};
        const double expected[] = {-1, -1, 0.15, 0.2, 0.2, 0.24};  // per token, of 100 a step
        for (int i = 0; i < 6; i++) {
            reading.energy_j = joules[i];
            record.joules_per_token = -1;
            pace.add(record, 100, reading);
            CHECK(record.joules_per_token == doctest::Approx(expected[i]));
            CHECK(record.power_w == 300);
            CHECK(record.throttled == "power cap");
        }
        CHECK(pace.joules == 120);
        CHECK(pace.tokens == 500);
    }
}

}  // namespace traincu::test
