// The fuzz targets without libFuzzer: their seeds, inputs that once were findings (findings/), and a few thousand changes of the seeds,
// the same ones every time. `make fuzz` searches; this keeps what was found and the targets themselves alive.
#include <doctest/doctest.h>

#include <iterator>

#include "src/base/philox.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/mutate.h"

namespace traincu::fuzz {

TEST_SUITE("fuzz") {
    // The verdict on an input; an exception that is a finding fails the test and is told with the input.
    static bool verdict(const Target& target, const std::string& input, const std::string& origin) {
        try {
            return target.run(bytes_of(input));
        } catch (const std::exception& finding) {
            const std::string report = std::string(target.name) + ", " + origin + ": " + finding.what() + "\n" + input.substr(0, 500);
            FAIL_CHECK(report);
            return false;
        }
    }

    TEST_CASE("every target accepts its valid inputs") {
        for (const Target& target : targets()) {
            const Seeds seeds = target.seeds();
            REQUIRE(!seeds.empty());
            for (size_t i = 0; i < seeds.size(); i++) {
                const bool open = verdict(target, seeds[i], "seed " + std::to_string(i));
                const std::string name = target.name;
                CAPTURE(name);
                CAPTURE(i);
                CHECK(open);
            }
        }
    }

    TEST_CASE("what was found once is refused or right now") {
        int inputs = 0;
        for (const Target& target : targets()) {
            const fs::path folder = fs::path("tests/fuzz/findings") / target.name;
            if (!fs::is_directory(folder)) continue;
            for (const auto& file : fs::directory_iterator(folder)) verdict(target, content_of(file.path()), file.path()), inputs++;
        }
        CHECK(inputs > 0);
    }

    // A manifest holds hashes of files that change with the program, so its findings are changes of a valid one.
    TEST_CASE("a manifest whose hash is right and whose state of the run is not") {
        const std::string valid = manifest_seeds()[0];
        const std::pair<const char*, const char*> changes[] = {
            {"\"tokens\": 0", "\"tokens\": {}"},
            {"\"tokens\": 0", "\"tokens\": 1e300"},
            {"\"tokens\": 0", "\"tokens\": -1"},
            {"\"adam_steps\": 0", "\"adam_steps\": null"},
            {"\"epoch\": 0", "\"epoch\": \"0\""},
            {"\"sample\": 0", "\"sample\": -5"},
            {"\"skipped\": 0", "\"skipped\": 1e300"},
            {"\"losses\": [", "\"losses\": [1,"},  // more losses than norms
            {"\"losses\": [", "\"losses\": [null,"},
            {"\"guard\": {", "\"guard\": 1, \"x\": {"},
            {"\"options\": {", "\"options\": 1, \"x\": {"},
            {"\"data\": [", "\"x\": ["},
            {"\"meta\": {", "\"x\": {"},
            {"\"seq-len\": 256", "\"seq-len\": \"256\""},
            {"\"d_model\": 4", "\"d_model\": 1048576"},
        };
        REQUIRE(verdict(targets()[2], valid, "the valid manifest"));
        for (const auto& [from, to] : changes) {
            std::string text = valid;
            const size_t at = text.find(from);
            const std::string change = to;
            CAPTURE(change);
            REQUIRE(at != text.npos);
            text.replace(at, std::string(from).size(), to);
            CHECK(!verdict(targets()[2], text, to));
        }
    }

    TEST_CASE("changed inputs are refused or come back equal") {
        for (const Target& target : targets()) {
            const Seeds seeds = target.seeds();
            // a checkpoint costs a few milliseconds
            const uint64_t count = target.name == std::string("run_directory") || target.name == std::string("manifest") ? 400 : 2000;
            const Random random{2024, RandomStream::sampling};
            uint64_t refused = 0;
            for (uint64_t i = 0; i < count; i++) {
                std::string input = seeds[i % seeds.size()];
                for (uint64_t change = 0; change <= i % 3; change++)
                    input = mutated(std::move(input), seeds[(i / seeds.size()) % seeds.size()], random, 4 * i + change);
                refused += !verdict(target, input, "change " + std::to_string(i));
            }
            const std::string name = target.name;
            CAPTURE(name);
            if (name != "log") CHECK(refused > 0);  // a log is read as far as it can be
        }
    }

}  // TEST_SUITE

}  // namespace traincu::fuzz
