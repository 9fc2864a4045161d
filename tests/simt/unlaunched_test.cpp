// Every kernel is launched by some test. Test cases run in the order of their files, so this one comes after those that launch.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include "tests/simt/names.h"
#include "tests/simt/report.h"
#include "tests/simt/runner.h"

using namespace traincu;

namespace {

// Whether a part of the test cases was asked for: then most kernels were not launched, and nothing can be said.
bool only_a_part() {
    std::ifstream file("/proc/self/cmdline", std::ios::binary);
    for (std::string argument; std::getline(file, argument, '\0');) {
        const std::string name = argument.substr(0, argument.find('='));
        for (const char* option : {"tc", "test-case", "ts", "test-suite", "sf", "source-file", "f", "first", "l", "last"})
            for (const char* dashes : {"-", "--", "-dt-", "--dt-"})
                if (name == std::string(dashes) + option) return true;
    }
    return false;
}

}  // namespace

TEST_SUITE("simt") {
    TEST_CASE("simt: kernels are found in their source") {
        CHECK(simt::kernels_in(
                  "template <int n>\n__global__ void __launch_bounds__(256, 2) one_kernel(float* x) {}\n"
                  "// __global__ void commented_kernel()\n/* __global__ void\nno_kernel() */ __global__ void\n  two_kernel (int)") ==
              std::set<std::string>{"one_kernel", "two_kernel"});
        CHECK(simt::functions_named("product_kernel") ==
              std::set<std::string>{"product_kernel<traincu::bf16>", "product_kernel<traincu::f16>"});
        CHECK(simt::functions_named("sum_pack_kernel") == std::set<std::string>{"sum_pack_kernel"});  // has a template as parameter
    }

    TEST_CASE("simt: every kernel is launched by a test") {
        if (only_a_part()) {
            MESSAGE("skipped: only a part of the tests runs");
            return;
        }
        const std::set<std::string> launched = simt::launched();
        int kernels = 0;
        for (const char* folder : {"kernels", "tests/simt/faults"})
            for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
                if (entry.path().extension() != ".cu") continue;
                std::ifstream file(entry.path());
                for (const std::string& name : simt::kernels_in(std::string(std::istreambuf_iterator<char>(file), {}))) {
                    CAPTURE(entry.path().string());
                    CAPTURE(name);
                    // One instance of a template is enough; SIMT_REPORT=1 names the others.
                    std::string not_launched;
                    const std::set<std::string> instances = simt::functions_named(name);
                    size_t count = 0;
                    for (const std::string& instance : instances)
                        launched.contains(instance) ? count++ : (not_launched += "\n  " + instance, 0);
                    CHECK_MESSAGE(count > 0, "no test launches this kernel");
                    if (simt::report::wanted && count > 0 && !not_launched.empty())
                        MESSAGE("instances of " << name << " that no test launches:" << not_launched);
                    kernels++;
                }
            }
        CHECK(kernels > 20);
    }
}
