// The readings of a card, against a library that stands in for the driver's: the test writes it in C, by NVML's documentation and with its
// numbers, and compiles it.
#include "src/device/telemetry.h"

#include <unistd.h>

#include <cstdlib>
#include <thread>

#include <doctest/doctest.h>

#include "tests/support/files.h"

namespace traincu::test {

namespace {

using std::chrono::milliseconds;

// -DNO_COUNTER: a card without an energy counter. -DBARE: an old driver, with little more than the power.
const char* const stand_in = R"(
#include <string.h>
typedef struct { int number; } *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int pid; unsigned long long usedGpuMemory; unsigned int gpuInstanceId, computeInstanceId; } nvmlProcessInfo_t;
static struct { int number; } card = {7};
static int started, calls;
static int mine(nvmlDevice_t d) { return started && d && d->number == 7 ? 0 : 2; }
int nvmlInit_v2(void) { started = 1; return 0; }
int nvmlShutdown(void) { started = 0; return 0; }
int nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* d) { *d = (void*)&card; return started && !strcmp(uuid, "GPU-1234") ? 0 : 6; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, nvmlDevice_t* d) { *d = (void*)&card; return started && !strcmp(bus, "0000:65:00.0") ? 0 : 6; }
int nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned* mw) { *mw = ++calls == 1 ? 100000 : 300000; return mine(d); }
#ifndef BARE
int nvmlDeviceGetClockInfo(nvmlDevice_t d, int type, unsigned* mhz) { *mhz = type == 1 ? 1980 : type == 2 ? 3201 : 11; return mine(d); }
int nvmlDeviceGetTemperature(nvmlDevice_t d, int sensor, unsigned* c) { *c = sensor == 0 ? 61 : 99; return mine(d); }
int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long* mj) {
#ifdef NO_COUNTER
    return 3;
#endif
    *mj = 5000000000123ull; return mine(d);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long* bits) { *bits = REASONS; return mine(d); }
int nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t* m) { m->total = 150ull << 30; m->free = 60ull << 30; m->used = 90ull << 30; return mine(d); }
int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned* count, nvmlProcessInfo_t* list) {
    unsigned room = *count; *count = N_PROCESSES;
    if (room < N_PROCESSES) return 7;
    for (unsigned i = 0; i < N_PROCESSES; i++) {
        list[i].pid = i == 1 ? OWN_PID : 4000000000u + i; list[i].usedGpuMemory = i == 1 ? 50ull << 30 : 1ull << 30;
        list[i].gpuInstanceId = list[i].computeInstanceId = ~0u;
    }
    return mine(d);
}
#endif
)";

struct Library {
    TempDir folder;
    std::string path = folder / "libstand_in.so";

    explicit Library(const std::string& flags = "", int processes = 20, unsigned own_pid = static_cast<unsigned>(getpid()),
                     const std::string& reasons = "0x24") {
        write_file(folder / "stand_in.c", stand_in);
        const std::string command = "cc -shared -fPIC -DN_PROCESSES=" + std::to_string(processes) +
                                    " -DOWN_PID=" + std::to_string(own_pid) + "u -DREASONS=" + reasons + " " + flags + " -o " + path + " " +
                                    (folder / "stand_in.c");
        REQUIRE(std::system(command.c_str()) == 0);
    }
    GpuTelemetry open(const std::string& device = "GPU-1234") const { return GpuTelemetry::open(device, path.c_str()); }
};

}  // namespace

TEST_SUITE("telemetry") {
    TEST_CASE("telemetry: every reading, in its unit") {
        const Library library;
        for (const char* device : {"GPU-1234", "0000:65:00.0"}) {
            GpuTelemetry telemetry = library.open(device);
            REQUIRE(telemetry.available());
            const GpuReading r = telemetry.read();
            CHECK(r.sm_clock_mhz == 1980);
            CHECK(r.memory_clock_mhz == 3201);
            CHECK(r.temperature_c == 61);
            CHECK(r.power_w == 300.0);
            CHECK(r.energy_j == doctest::Approx(5000000000.123).epsilon(1e-12));
            CHECK(r.throttled == "power cap, hot");
            CHECK(r.used_memory == int64_t{90} << 30);
            CHECK(r.other_processes == 19);  // more than fit in the first question
            CHECK(r.other_memory == int64_t{19} << 30);
        }
    }

    TEST_CASE("telemetry: an idle card is not throttled") {
        CHECK(Library("", 0, 1, "0x1").open().read().throttled == "");
        CHECK(Library("", 0, 1, "0x1ff").open().read().throttled ==
              "clocks set by someone, power cap, hardware slowdown, kept in step with other cards, hot, too hot, power brake, clocks set "
              "for a "
              "display");
    }

    TEST_CASE("telemetry: other processes, where the driver shows the host's numbers") {
        GpuTelemetry telemetry = Library("", 3, 1).open();  // the library may go: it is loaded
        CHECK(telemetry.read().other_processes == 2);
        CHECK_FALSE(telemetry.read().other_memory);
        GpuTelemetry alone = Library("", 0, 1).open();
        CHECK(alone.read().other_processes == 0);
        CHECK(alone.read().other_memory == 0);
    }

    TEST_CASE("telemetry: without a counter the power is integrated") {
        const Library library("-DNO_COUNTER");
        using Clock = std::chrono::steady_clock;
        const auto since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };
        const auto start = Clock::now();
        GpuTelemetry telemetry = library.open();  // reads 100 W
        std::this_thread::sleep_for(milliseconds(50));
        const double first = *telemetry.read().energy_j;  // 300 W: in between 200 W
        CHECK(first >= 0.05 * 200);
        CHECK(first <= since(start) * 200);
        std::this_thread::sleep_for(milliseconds(50));
        const double second = *telemetry.read().energy_j;
        CHECK(second - first >= 0.05 * 300);
        CHECK(second <= since(start) * 300);
    }

    TEST_CASE("telemetry: a reading is handed out again until it is too old") {
        const Library library("-DNO_COUNTER");
        GpuTelemetry telemetry = library.open();
        CHECK(telemetry.read(milliseconds(60000)).power_w == 100.0);  // that of open()
        CHECK(telemetry.read().power_w == 300.0);
    }

    TEST_CASE("telemetry: what is missing is absent") {
        const Library bare("-DBARE");
        GpuTelemetry telemetry = bare.open();
        REQUIRE(telemetry.available());
        GpuReading r = telemetry.read();
        CHECK(r.power_w == 300.0);
        CHECK(r.energy_j >= 0.0);
        CHECK_FALSE((r.sm_clock_mhz || r.memory_clock_mhz || r.temperature_c || r.throttled || r.used_memory || r.other_processes ||
                     r.other_memory));

        GpuTelemetry no_driver = GpuTelemetry::open("GPU-1234", "libthere-is-no-such-library.so.1");
        GpuTelemetry other_card = bare.open("GPU-5678"), other_library = GpuTelemetry::open("GPU-1234", "libm.so.6"), none;
        for (GpuTelemetry* t : {&no_driver, &other_card, &other_library, &none}) {
            CHECK_FALSE(t->available());
            r = t->read();
            CHECK_FALSE((r.power_w || r.energy_j || r.sm_clock_mhz || r.throttled || r.other_processes));
        }
    }
}

}  // namespace traincu::test
