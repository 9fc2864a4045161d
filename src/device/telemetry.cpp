#include "src/device/telemetry.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <vector>

namespace traincu {

namespace {

using Clock = std::chrono::steady_clock;

// NVML's types, as far as they are used here. Its functions return 0 where they succeed.
using Status = int;
using Card = struct NvmlDevice*;
constexpr Status success = 0, array_too_small = 7;
constexpr int sm_clock = 1, memory_clock = 2;  // nvmlClockType_t
constexpr int core_sensor = 0;                 // nvmlTemperatureSensors_t
struct Memory {
    unsigned long long total, free, used;
};
struct Process {  // nvmlProcessInfo_v2_t
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
};
static_assert(sizeof(Process) == 24);
constexpr unsigned long long not_known = ~0ull;  // as used_memory

// What holds the clocks down. The bit of an idle card (1) is no reason.
struct Reason {
    unsigned long long bit;
    const char* text;
};
constexpr std::array<Reason, 8> reasons = {{
    {0x2, "clocks set by someone"},
    {0x4, "power cap"},
    {0x8, "hardware slowdown"},
    {0x10, "kept in step with other cards"},
    {0x20, "hot"},
    {0x40, "too hot"},
    {0x80, "power brake"},
    {0x100, "clocks set for a display"},
}};

std::string text_of(unsigned long long bits) {
    std::string text;
    for (const Reason& r : reasons)
        if (bits & r.bit) text += std::string(text.empty() ? "" : ", ") + r.text;
    return text;
}

}  // namespace

struct GpuTelemetry::Nvml {
    void* library = nullptr;
    bool started = false;
    Card card = nullptr;

    Status (*init)() = nullptr;
    Status (*shutdown)() = nullptr;
    Status (*by_uuid)(const char*, Card*) = nullptr;
    Status (*by_bus)(const char*, Card*) = nullptr;
    Status (*clock)(Card, int, unsigned*) = nullptr;              // MHz
    Status (*temperature)(Card, int, unsigned*) = nullptr;        // degrees Celsius
    Status (*power)(Card, unsigned*) = nullptr;                   // mW
    Status (*energy)(Card, unsigned long long*) = nullptr;        // mJ
    Status (*slow_reasons)(Card, unsigned long long*) = nullptr;  // bits
    Status (*memory)(Card, Memory*) = nullptr;
    Status (*processes)(Card, unsigned*, Process*) = nullptr;  // in: room, out: how many there are

    explicit Nvml(const char* name) : library(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
        load(init, "nvmlInit_v2"), load(shutdown, "nvmlShutdown");
        load(by_uuid, "nvmlDeviceGetHandleByUUID"), load(by_bus, "nvmlDeviceGetHandleByPciBusId_v2");
        load(clock, "nvmlDeviceGetClockInfo"), load(temperature, "nvmlDeviceGetTemperature");
        load(power, "nvmlDeviceGetPowerUsage"), load(energy, "nvmlDeviceGetTotalEnergyConsumption");
        load(slow_reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");  // older name of ...ClocksEventReasons; newer drivers have both
        load(memory, "nvmlDeviceGetMemoryInfo"), load(processes, "nvmlDeviceGetComputeRunningProcesses_v3");
        started = init && init() == success;
    }
    ~Nvml() {
        if (started && shutdown) shutdown();
        if (library) dlclose(library);
    }

    template <class Function>
    void load(Function& function, const char* name) {
        if (library) function = reinterpret_cast<Function>(dlsym(library, name));
    }

    bool find(const std::string& name) {
        auto* const lookup = name.starts_with("GPU-") || name.starts_with("MIG-") ? by_uuid : by_bus;
        return started && lookup && lookup(name.c_str(), &card) == success;
    }

    // The number that a function hands out; nothing where the function is missing or refuses.
    template <class Number>
    std::optional<Number> number(Status (*function)(Card, Number*)) const {
        Number value = 0;
        if (!function || function(card, &value) != success) return std::nullopt;
        return value;
    }
    std::optional<int> number(Status (*function)(Card, int, unsigned*), int which) const {
        unsigned value = 0;
        if (!function || function(card, which, &value) != success) return std::nullopt;
        return static_cast<int>(value);
    }

    std::optional<std::vector<Process>> list_processes() const {
        if (!processes) return std::nullopt;
        std::vector<Process> list(16);
        for (int attempt = 0; attempt < 3; attempt++) {  // some may have started since the last answer
            unsigned count = static_cast<unsigned>(list.size());
            const Status status = processes(card, &count, list.data());
            if (status != success && status != array_too_small) return std::nullopt;
            list.resize(status == success ? count : count + 8);
            if (status == success) return list;
        }
        return std::nullopt;
    }
};

GpuTelemetry::GpuTelemetry() = default;
GpuTelemetry::~GpuTelemetry() = default;
GpuTelemetry::GpuTelemetry(GpuTelemetry&&) noexcept = default;
GpuTelemetry& GpuTelemetry::operator=(GpuTelemetry&&) noexcept = default;

GpuTelemetry GpuTelemetry::open(const std::string& device, const char* library) {
    GpuTelemetry telemetry;
    auto nvml = std::make_unique<Nvml>(library);
    if (nvml->find(device)) telemetry.nvml_ = std::move(nvml);
    telemetry.read();  // where the integral of the power begins
    return telemetry;
}

const GpuReading& GpuTelemetry::read(std::chrono::milliseconds max_age) {
    const Clock::time_point now = Clock::now();
    if (!nvml_ || (read_at_ != Clock::time_point{} && now - read_at_ < max_age)) return reading_;
    const Nvml& n = *nvml_;
    GpuReading r;
    r.sm_clock_mhz = n.number(n.clock, sm_clock), r.memory_clock_mhz = n.number(n.clock, memory_clock);
    r.temperature_c = n.number(n.temperature, core_sensor);
    if (auto milliwatts = n.number(n.power)) r.power_w = *milliwatts / 1e3;
    if (auto bits = n.number(n.slow_reasons)) r.throttled = text_of(*bits);

    if (auto millijoules = n.number(n.energy)) {
        r.energy_j = static_cast<double>(*millijoules) / 1e3;
    } else if (r.power_w) {
        if (reading_.power_w)
            integrated_j_ += 0.5 * (*reading_.power_w + *r.power_w) * std::chrono::duration<double>(now - read_at_).count();
        r.energy_j = integrated_j_;
    }

    Memory memory{};
    if (n.memory && n.memory(n.card, &memory) == success) r.used_memory = static_cast<int64_t>(memory.used);
    if (const auto processes = n.list_processes()) {
        bool own_seen = false, all_known = true;
        int64_t others = 0;
        for (const Process& p : *processes) {
            if (p.pid == static_cast<unsigned>(getpid()))
                own_seen = true;
            else if (p.used_memory == not_known)
                all_known = false;
            else
                others += static_cast<int64_t>(p.used_memory);
        }
        const int count = static_cast<int>(processes->size());
        r.other_processes = count > 0 ? count - 1 : 0;
        if (count == 0 || (own_seen && all_known)) r.other_memory = others;
    }
    reading_ = r, read_at_ = now;
    return reading_;
}

}  // namespace traincu
