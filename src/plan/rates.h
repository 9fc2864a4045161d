// How long kernel calls take: measured here when first asked for, or read from the file that ./train bench --save wrote on another machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/plan/kernel_timer.h"

namespace traincu {

// What rates belong to. Peaks are 0 where they were not measured.
struct Machine {
    std::string name, gemm_engine;         // "AMD EPYC", "oneDNN 2.6.3"; "NVIDIA H200", "cuBLASLt 13.0.2"
    int threads = 0;                       // 0: a GPU
    Dtype dtype = Dtype::f32;              // of weights and activations
    double matmul_peak = 0, fma_peak = 0;  // FLOP/s; on a GPU fma_peak is the vendor's peak of `dtype`, where it is known
    double bandwidth = 0;                  // bytes/s
};
// What the stream computes on, with the threads and the engine in force; measures the peak of matrix products, and the other two if asked.
Machine this_machine(Stream& stream, Dtype dtype, bool roofs);

class Rates {
public:
    // Measures, with operands that walk through `footprint` bytes (kernel_timer.h). The threads in force must stay the same.
    Rates(Machine machine, int64_t footprint, Stream& stream)
        : machine_(std::move(machine)), timer_(std::make_unique<KernelTimer>(stream, machine_.dtype, footprint)) {}
    // Error(usage) if the file is not one that save() wrote.
    explicit Rates(const std::string& path);

    // A call of this very shape, or, scaled by KernelCall::work(), the one that the timer makes of it; from a file, the nearest shape
    // of the same kernel. Error(usage) where the file has none.
    double seconds(const KernelCall& call);

    const Machine& machine() const { return machine_; }
    bool measures() const { return timer_ != nullptr; }
    KernelTimer& timer() { return *timer_; }  // where measures()

    // One JSON object: the machine, and every call timed so far with its seconds.
    nlohmann::ordered_json json() const;
    void save(const std::string& path) const;  // Error(io)

private:
    struct Sample {
        KernelCall call;
        double seconds;
    };
    const Sample& sample(const KernelCall& call);

    Machine machine_;
    std::unique_ptr<KernelTimer> timer_;  // null: from a file
    std::string path_;
    std::vector<std::vector<Sample>> samples_ = std::vector<std::vector<Sample>>(kernel_table().size());
};

}  // namespace traincu
