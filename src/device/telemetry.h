// What a GPU says about itself while it computes: clocks, power, temperature, energy, what holds it back, who else is on it. Read through
// NVIDIA's management library (NVML, part of the driver), which is loaded at run time: where it or one of its functions is missing, the
// readings are absent, and nothing fails.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace traincu {

struct GpuReading {
    std::optional<int> sm_clock_mhz, memory_clock_mhz, temperature_c;
    std::optional<double> power_w;
    // Joules since some moment in the past; only differences mean something. The card's own counter (it begins when the driver is loaded),
    // or where it has none (before Volta), the power integrated over the readings since open().
    std::optional<double> energy_j;
    std::optional<std::string> throttled;  // what holds the clocks down, "power cap, hot"; "" = nothing does
    std::optional<int64_t> used_memory;    // bytes, of everyone
    // Of everyone else, where this process computes on the card already. In a container the driver shows the process numbers of the host:
    // then one of the processes is taken for this one, and the memory of the others is not known.
    std::optional<int> other_processes;
    std::optional<int64_t> other_memory;  // bytes
};

class GpuTelemetry {
public:
    GpuTelemetry();  // of no card: every reading is absent
    ~GpuTelemetry();
    GpuTelemetry(GpuTelemetry&&) noexcept;
    GpuTelemetry& operator=(GpuTelemetry&&) noexcept;

    // device: the UUID ("GPU-...") or the PCI bus address ("0000:65:00.0") of a CUDA device. NVML counts cards in its own order, so the
    // number of a device means nothing to it.
    static GpuTelemetry open(const std::string& device, const char* library = "libnvidia-ml.so.1");

    bool available() const { return nvml_ != nullptr; }

    // A reading takes some tens of microseconds to a few milliseconds of host time: give max_age where it is wanted every step, and the
    // last one is handed out again until it is older.
    const GpuReading& read(std::chrono::milliseconds max_age = std::chrono::milliseconds(0));

private:
    struct Nvml;
    std::unique_ptr<Nvml> nvml_;
    GpuReading reading_;
    std::chrono::steady_clock::time_point read_at_{};
    double integrated_j_ = 0;
};

}  // namespace traincu
