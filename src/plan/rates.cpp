#include "src/plan/rates.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "kernels/matmul.h"
#include "src/base/files.h"
#include "src/base/json.h"
#include "src/base/version.h"
#include "src/plan/gpu_peak.h"
#include "src/plan/peak.h"

namespace traincu {

using Json = nlohmann::ordered_json;

namespace {

constexpr const char* file_kind = "train.cu kernel rates, version 1";

std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with("model name") && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
    return "unknown processor";
}

// How unlike two calls of one kernel are: the octaves between their sizes; a missing bias or branch counts as one.
double distance(const KernelCall& a, const KernelCall& b) {
    double total = 0;
    for (size_t i = 0; i < info(a.kernel).n_sizes(); i++)
        total += std::fabs(std::log2(static_cast<double>(a.sizes[i] + 1) / static_cast<double>(b.sizes[i] + 1)));
    return total;
}

}  // namespace

Machine this_machine(Stream& stream, Dtype dtype, bool roofs) {
    const bool gpu = stream.on_gpu();
    Machine machine{gpu ? gpu::device_info().name : processor_name(), gemm_engine_name(stream.device()), gpu ? 0 : omp_get_max_threads(),
                    dtype, measure_matmul_peak(stream, dtype)};
    if (roofs) machine.fma_peak = gpu ? gpu_peak(machine.name, dtype) : measure_fma_peak(), machine.bandwidth = measure_bandwidth(stream);
    return machine;
}

const Rates::Sample& Rates::sample(const KernelCall& call) {
    std::vector<Sample>& known = samples_[static_cast<size_t>(call.kernel)];
    const KernelCall timed = measures() ? timer_->of_timed_size(call) : call;
    for (const KernelCall* wanted : {&call, &timed})
        for (const Sample& s : known)
            if (s.call.same_shape(*wanted)) return s;
    if (measures()) return known.emplace_back(timed, timer_->seconds(timed));
    if (known.empty())
        throw Error(ExitCode::usage, format("%s has no figure for %s", path_.c_str(), info(call.kernel).name().c_str()),
                    "make it with ./train bench --save FILE, without --only")
            .file(path_);
    return *std::min_element(known.begin(), known.end(),
                             [&](const Sample& a, const Sample& b) { return distance(a.call, timed) < distance(b.call, timed); });
}

double Rates::seconds(const KernelCall& call) {
    if (call.work() == 0) return 0;
    const Sample& s = sample(call);
    return s.seconds * call.work() / s.call.work();
}

Json Rates::json() const {
    Json rates = Json::array();
    for (const auto& known : samples_)
        for (const Sample& s : known) {
            Json sizes = Json::array();
            for (size_t i = 0; i < info(s.call.kernel).n_sizes(); i++) sizes.push_back(s.call.sizes[i]);
            rates.push_back({{"kernel", info(s.call.kernel).name()}, {"sizes", sizes}, {"seconds", s.seconds}});
        }
    return {{"file", file_kind},
            {"machine", machine_.name},
            {"threads", machine_.threads},
            {"dtype", name_of(machine_.dtype)},
            {"gemm_engine", machine_.gemm_engine},
            {"build", build_summary()},
            {"matmul_peak", machine_.matmul_peak},
            {"fma_peak", machine_.fma_peak},
            {"bandwidth", machine_.bandwidth},
            {"rates", rates}};
}

void Rates::save(const std::string& path) const { write_whole_file(path, json().dump(1) + "\n"); }

Rates::Rates(const std::string& path) : path_(path) {
    auto refuse = [&](const std::string& why) {
        return Error(ExitCode::usage, format("%s is no file of kernel rates: %s", path.c_str(), why.c_str()),
                     "make one with ./train bench --save FILE")
            .file(path);
    };
    try {
        const nlohmann::json json = parse_untrusted(read_whole_file(path, ExitCode::usage), 8, path, ExitCode::usage);
        if (json.at("file") != file_kind) throw refuse("it says otherwise in its first field");
        const std::string dtype = json.value("dtype", "f32");
        if (dtype != "f32" && dtype != "bf16") throw refuse("dtype is neither f32 nor bf16");
        machine_ = {json.at("machine"),     json.at("gemm_engine"), json.at("threads"),  dtype == "bf16" ? Dtype::bf16 : Dtype::f32,
                    json.at("matmul_peak"), json.at("fma_peak"),    json.at("bandwidth")};
        if (!(machine_.matmul_peak > 0)) throw refuse("matmul_peak must be above 0");
        for (const auto& row : json.at("rates")) {
            const std::string name = row.at("kernel");
            const auto found = std::find_if(kernel_table().begin(), kernel_table().end(), [&](auto& k) { return k.name() == name; });
            if (found == kernel_table().end()) throw refuse("there is no kernel '" + name + "'");
            KernelCall call{found->kernel};
            const auto& sizes = row.at("sizes");
            if (sizes.size() != found->n_sizes()) throw refuse(format("%s has %zu sizes", name.c_str(), found->n_sizes()));
            for (size_t i = 0; i < sizes.size(); i++) {
                call.sizes[i] = sizes[i].get<int64_t>();
                const bool is_flag = std::string(found->size_names[i]).back() == '?';
                if (call.sizes[i] < (is_flag ? 0 : 1) || call.sizes[i] > (is_flag ? 1 : int64_t{1} << 40))
                    throw refuse(format("%s of %s is %lld", found->size_names[i], name.c_str(), static_cast<long long>(call.sizes[i])));
            }
            const double seconds = row.at("seconds");
            if (!(seconds > 0)) throw refuse("seconds must be above 0");
            samples_[static_cast<size_t>(call.kernel)].push_back({call, seconds});
        }
    } catch (const nlohmann::json::exception& error) {
        throw refuse(error.what());
    }
}

}  // namespace traincu
