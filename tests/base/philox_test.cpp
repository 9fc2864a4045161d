#include "src/base/philox.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <initializer_list>
#include <set>

using namespace traincu;

TEST_SUITE("philox") {
    TEST_CASE("philox: the known answers published with Random123 (philox4x32, 10 rounds)") {
        constexpr uint32_t ones = 0xffffffff;
        CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
        CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) == PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
        CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
        static_assert(philox4x32({0, 0, 0, 0}, {0, 0})[0] == 0x6627e8d5, "usable at compile time");
    }

    TEST_CASE("random: seed (both halves), stream, step and index (both halves) each change the bits") {
        std::set<PhiloxBlock> seen;
        for (uint64_t seed : {uint64_t{1}, uint64_t{2}, uint64_t{1} << 32 | 1})
            for (RandomStream stream : {RandomStream::init, RandomStream::shard_order, RandomStream::sample_order, RandomStream::sampling})
                for (uint32_t step : {0u, 1u, 7u})
                    for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32})
                        seen.insert(Random{seed, stream}.bits(step, index));
        CHECK(seen.size() == 3 * 4 * 3 * 3);
        CHECK(Random{5, RandomStream::init}.bits(3, 9) == Random{5, RandomStream::init}.bits(3, 9));
    }

    TEST_CASE("random: uniform lies inside (0, 1) and has the moments of a uniform") {
        Random random{42, RandomStream::init};
        constexpr int n = 200000;
        double sum = 0, squares = 0, smallest = 1, largest = 0, neighbours = 0, previous = 0.5;
        for (int i = 0; i < n; i++) {
            double u = random.uniform(3, static_cast<uint64_t>(i));
            sum += u, squares += u * u, neighbours += (u - 0.5) * (previous - 0.5), previous = u;
            smallest = std::min(smallest, u), largest = std::max(largest, u);
        }
        // five standard deviations of each estimate
        CHECK(std::fabs(sum / n - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
        CHECK(std::fabs(squares / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
        CHECK(std::fabs(neighbours / n) < 5 * std::sqrt(1.0 / 144 / n));
        CHECK(smallest > 0);
        CHECK(smallest < 1e-4);
        CHECK(largest < 1);
        CHECK(largest > 1 - 1e-4);
    }

    TEST_CASE("random: normal has mean 0, variance 1, skewness 0, kurtosis 3, and the tails of a normal") {
        Random random{42, RandomStream::init};
        constexpr int n = 200000;
        double moment[5] = {};
        int beyond_two = 0;
        for (int i = 0; i < n; i++) {
            double z = random.normal(3, static_cast<uint64_t>(i)), power = 1;
            for (double& m : moment) m += power / n, power *= z;
            beyond_two += std::fabs(z) > 2;
        }
        CHECK(std::fabs(moment[1]) < 5 * std::sqrt(1.0 / n));
        CHECK(std::fabs(moment[2] - 1) < 5 * std::sqrt(2.0 / n));
        CHECK(std::fabs(moment[3]) < 5 * std::sqrt(15.0 / n));
        CHECK(std::fabs(moment[4] - 3) < 5 * std::sqrt(96.0 / n));
        double expected = 0.0455002639, deviation = std::sqrt(expected * (1 - expected) / n);
        CHECK(std::fabs(static_cast<double>(beyond_two) / n - expected) < 5 * deviation);
    }

    TEST_CASE("random: below(n) stays below n and is even over its values") {
        Random random{7, RandomStream::sampling};
        constexpr int n = 70000;
        int counts[8] = {};  // the last one: out of range
        for (int i = 0; i < n; i++) counts[std::min<uint64_t>(random.below(7, 1, static_cast<uint64_t>(i)), 7)]++;
        CHECK(counts[7] == 0);
        double chi_squared = 0;
        for (int k = 0; k < 7; k++) chi_squared += (counts[k] - n / 7.0) * (counts[k] - n / 7.0) / (n / 7.0);
        CHECK(chi_squared < 22.5);  // 6 degrees of freedom: exceeded once in a thousand
        CHECK(random.below(1, 0, 0) == 0);
        uint64_t large = uint64_t{1} << 63;
        bool upper_half = false;
        for (uint64_t i = 0; i < 64; i++) {
            uint64_t k = random.below(large, 0, i);
            REQUIRE(k < large);
            upper_half = upper_half || k >= large / 2;
        }
        CHECK(upper_half);
    }
}
