// Files of kernel rates for tests: the times are made up, so that predictions are exact.
#pragma once

#include <string>
#include <vector>

#include "src/plan/rates.h"
#include "tests/support/files.h"

namespace traincu::test {

struct TestRate {
    std::string kernel;
    std::vector<int64_t> sizes;
    double seconds;
};

inline void write_rates(const std::string& path, const std::vector<TestRate>& rates) {
    nlohmann::ordered_json json = {{"file", "train.cu kernel rates, version 1"},
                                   {"machine", "a made-up machine"},
                                   {"threads", 2},
                                   {"gemm_engine", "none"},
                                   {"matmul_peak", 1e9},
                                   {"fma_peak", 2e9},
                                   {"bandwidth", 1e9}};
    json["rates"] = nlohmann::ordered_json::array();
    for (const TestRate& rate : rates) json["rates"].push_back({{"kernel", rate.kernel}, {"sizes", rate.sizes}, {"seconds", rate.seconds}});
    write_file(path, json.dump());
}

// Every kernel, at sizes of 1: a microsecond each.
inline std::vector<TestRate> a_microsecond_each() {
    std::vector<TestRate> rates;
    for (const KernelInfo& k : kernel_table()) rates.push_back({k.name(), std::vector<int64_t>(k.n_sizes(), 1), 1e-6});
    return rates;
}

}  // namespace traincu::test
