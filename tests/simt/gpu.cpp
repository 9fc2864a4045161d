// src/device/gpu.h over the runner: memory of the host, and streams whose work is done when the host waits for it and not before. Of
// several streams that could go on, one is drawn: only stream order and events bind them, so a forgotten event is seen.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "kernels/launch.h"
#include "src/base/error.h"
#include "src/device/gpu.h"
#include "src/device/stream.h"
#include "tests/simt/access.h"
#include "tests/simt/host_work.h"
#include "tests/simt/memory.h"
#include "tests/simt/names.h"
#include "tests/simt/order.h"
#include "tests/simt/runner.h"

namespace traincu::simt {

using gpu::StreamHandle;

namespace {

struct Mark {     // one call of record()
    Clock clock;  // what came before it
    std::atomic<bool> past = false;
    double milliseconds = 0;
};
struct Work {
    std::function<std::string()> run;  // its failure, or nothing
    std::function<bool()> ready;       // may begin when this says so; empty: at once
    std::shared_ptr<Mark> after;       // may begin when this is past
    uint64_t index = 0;                // in its stream
    Clock clock;                       // what it comes after
    std::string name;                  // "kernel norm_kernel"; empty: touches no memory
};

std::recursive_mutex lock;  // any thread of the host may call
std::vector<CUstream_st*> streams;
int streams_created = 0;  // a number is never given twice: clocks outlive streams
Clock of_host;            // what the host has waited for

bool only_check = false;
std::set<std::string> checked_kernels;

gpu::DeviceInfo device_of(int capability) {
    gpu::DeviceInfo device;
    device.name = "SIMT runner";
    // Each process has a device of its own, unless a test says otherwise.
    const char* bus = std::getenv("SIMT_PCI_BUS_ID");
    device.pci_bus_id = bus ? bus : format("%08x:00:00.0", static_cast<unsigned>(getpid()));
    device.compute_capability = capability;
    device.multiprocessors = 3;  // few and odd: persistent grids stay small and do not divide evenly
    device.memory = device.free_memory = device_memory;
    device.l2_bytes = int64_t{1} << 20;
    device.shared_bytes = shared_limit(capability);
    device.driver = device.runtime = "none";
    return device;
}
gpu::DeviceInfo& device() {
    static gpu::DeviceInfo device = [] {
        const char* capability = std::getenv("SIMT_SM");  // 80: the kernels of before Hopper
        return device_of(capability ? std::atoi(capability) : 90);
    }();
    return device;
}
gpu::DeviceInfo device_before;

// Addresses that nobody may touch: what a card's memory would be, of any size.
constexpr uintptr_t made_up_begin = uintptr_t{3} << 43, made_up_end = uintptr_t{5} << 44;
uintptr_t made_up_next = made_up_begin;
void* made_up(int64_t bytes) {
    made_up_next += (static_cast<uintptr_t>(bytes) / 256 + 2) * 256;
    ENSURE(made_up_next < made_up_end);
    return reinterpret_cast<void*>(made_up_next - (static_cast<uintptr_t>(bytes) / 256 + 1) * 256);
}
bool is_made_up(const void* memory) {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    return address >= made_up_begin && address < made_up_end;
}

double skipped = 0;  // milliseconds, see let_time_pass()

double now() { return skipped + std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

}  // namespace traincu::simt

struct CUstream_st {
    int number = 0;
    uint64_t index = 0;          // of its last work
    traincu::simt::Clock clock;  // what its next work comes after
    std::deque<traincu::simt::Work> queue;
};
struct CUevent_st {
    std::shared_ptr<traincu::simt::Mark> mark;  // of the last record()
};

namespace traincu::simt {

namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ExitCode::hardware, "SIMT runner: " + what); }

void enqueue(StreamHandle stream, std::string name, std::function<std::string()> run, std::shared_ptr<Mark> after = nullptr,
             std::function<bool()> ready = nullptr) {
    ENSURE(std::find(streams.begin(), streams.end(), stream) != streams.end());
    if (only_check) return;
    const auto number = static_cast<size_t>(stream->number);
    join_clocks(stream->clock, of_host);
    if (after) join_clocks(stream->clock, after->clock);
    if (stream->clock.size() <= number) stream->clock.resize(number + 1);
    stream->clock[number] = ++stream->index;
    stream->queue.push_back({std::move(run), std::move(ready), std::move(after), stream->index, stream->clock, std::move(name)});
}

// Does work of streams drawn by chance until done(). A failure ends all of it, as it does on a card.
template <class Done>
void work_until(Done&& done) {
    while (!done()) {
        std::vector<CUstream_st*> able;
        bool others = false;  // a stream waits for what is outside of this process
        for (CUstream_st* stream : streams) {
            if (stream->queue.empty() || (stream->queue.front().after && !stream->queue.front().after->past)) continue;
            if (stream->queue.front().ready && !stream->queue.front().ready())
                others = true;
            else
                able.push_back(stream);
        }
        if (able.empty() && !others) refuse("streams wait for one another");
        if (able.empty()) {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            continue;
        }
        CUstream_st* stream = able[below(static_cast<uint32_t>(able.size()))];
        const Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (!work.name.empty()) begin_item(stream->number, work.index, work.clock, work.name);
        std::string failure;
        try {
            failure = work.run();
        } catch (const Error& error) {
            failure = error.what();
        }
        if (failure.empty()) continue;
        for (CUstream_st* other : streams) other->queue.clear();
        refuse(failure);
    }
}
// The host has waited for this.
void host_goes_on(const Clock& clock) {
    join_clocks(of_host, clock);
    bool all_past = true;
    for (const CUstream_st* stream : streams) {
        const auto number = static_cast<size_t>(stream->number);
        all_past =
            all_past && stream->queue.empty() && (stream->index == 0 || (number < of_host.size() && of_host[number] == stream->index));
    }
    if (all_past) forget_items();
}
bool idle() {
    return std::all_of(streams.begin(), streams.end(), [](const CUstream_st* stream) { return stream->queue.empty(); });
}
// What must not throw, since destructors call it: a failure found here comes out of the next synchronize().
std::string failure_to_report;
void work_until_idle() {
    try {
        work_until(idle);
        for (const CUstream_st* stream : streams) host_goes_on(stream->clock);
    } catch (const Error& error) {
        failure_to_report = error.what();
    }
}
void report_failure() {
    if (failure_to_report.empty()) return;
    const std::string failure = std::move(failure_to_report);
    failure_to_report.clear();
    throw Error(ExitCode::hardware, failure);
}

void check_range(const void* memory, int64_t bytes, const char* what) {
    if (!of_the_runner(memory)) return;  // the host's own
    const Allocation* allocation = find(memory);
    const auto* begin = static_cast<const std::byte*>(memory);
    if (!allocation || !allocation->live || begin < allocation->begin || begin + bytes > allocation->begin + allocation->bytes)
        refuse(format("%s of %lld bytes at %s", what, static_cast<long long>(bytes), describe(memory).c_str()));
}

}  // namespace

void enqueue_kernel(const void* kernel, dim3 grid, dim3 block, int64_t shared_bytes, StreamHandle stream, std::shared_ptr<void> call,
                    int64_t call_bytes, void (*invoke)(const void*)) {
    const std::lock_guard guard(lock);
    const auto check = [&](bool good, const char* what) {
        if (!good)
            refuse(format("kernel %s: grid (%u,%u,%u), block (%u,%u,%u), %lld bytes of shared memory: %s", name_of_kernel(kernel).c_str(),
                          grid.x, grid.y, grid.z, block.x, block.y, block.z, static_cast<long long>(shared_bytes), what));
    };
    check(grid.x > 0 && grid.y > 0 && grid.z > 0 && block.x > 0 && block.y > 0 && block.z > 0, "nothing to run");
    check(grid.x <= 0x7FFFFFFF && grid.y <= 65535 && grid.z <= 65535, "the grid is too large");
    check(block.x <= 1024 && block.y <= 1024 && block.z <= 64 && uint64_t{block.x} * block.y * block.z <= 1024, "the block is too large");
    const int64_t shared_most = device().shared_bytes;
    check(shared_bytes >= 0 && shared_bytes <= shared_most, "a block cannot have so many bytes");
    if (only_check) {
        // Of what the kernel itself takes only the compiler knows.
        static std::map<const void*, Compiled> known;
        if (!known.contains(kernel)) known[kernel] = compiled(name_of_kernel(kernel)), checked_kernels.insert(name_of_kernel(kernel));
        const Compiled& nvcc = known[kernel];
        const int64_t shared_all = shared_bytes + nvcc.shared_bytes, warps = (int64_t{block.x} * block.y * block.z + 31) / 32;
        check(shared_all <= shared_most, "with its static arrays a block cannot have so many bytes");
        check(shared_all <= shared_unasked || shared_bytes > gpu::shared_asked_from, "more with its static arrays than launch() asks for");
        check((nvcc.registers + 7) / 8 * 8 * 32 * warps <= 65536, "a block cannot have so many registers");
        return;
    }
    const Launch launch{kernel, grid, block, shared_bytes, call.get(), call_bytes, invoke};
    enqueue(stream, "kernel " + name_of_kernel(kernel), [launch, call] {
        const DeviceAccess access;
        return run(launch);
    });
}

OnlyCheckLaunches::OnlyCheckLaunches(int capability) {
    const std::lock_guard guard(lock);
    ENSURE(!only_check && idle());
    made_up_next = made_up_begin;
    only_check = true, device_before = device(), device() = device_of(capability);
    device().multiprocessors = 132, device().memory = device().free_memory = int64_t{141} << 30;
}
OnlyCheckLaunches::~OnlyCheckLaunches() {
    const std::lock_guard guard(lock);
    only_check = false, device() = device_before;
}
std::set<std::string> OnlyCheckLaunches::checked() { return checked_kernels; }
void let_time_pass(double milliseconds) {
    const std::lock_guard guard(lock);
    skipped += milliseconds;
}

void enqueue_host(StreamHandle stream, const std::string& name, std::function<std::string()> run, std::function<bool()> ready) {
    const std::lock_guard guard(lock);
    enqueue(
        stream, name,
        [run = std::move(run)] {
            const DeviceAccess access;
            return run();
        },
        nullptr, std::move(ready));
}

}  // namespace traincu::simt

namespace traincu::gpu {

using namespace simt;

std::string unusable() { return ""; }
void choose_device(int) {}  // a process has one, SIMT_PCI_BUS_ID
const DeviceInfo& device_info() { return simt::device(); }

void* allocate(int64_t bytes) {
    const std::lock_guard guard(lock);
    if (only_check) return made_up(bytes);
    return simt::allocate(bytes, Kind::device);
}
void* allocate_pinned(int64_t bytes) {
    const std::lock_guard guard(lock);
    return simt::allocate(bytes, Kind::pinned);
}
void* allocate_managed(int64_t bytes) {
    const std::lock_guard guard(lock);
    return simt::allocate(bytes, Kind::managed);
}
void release(void* memory) {
    const std::lock_guard guard(lock);
    if (!memory || is_made_up(memory)) return;
    work_until_idle();  // as cudaFree does
    const Allocation* allocation = find(memory);
    ENSURE(allocation && allocation->kind != Kind::pinned);
    simt::release(memory);
}
void release_pinned(void* memory) {
    const std::lock_guard guard(lock);
    if (!memory) return;
    work_until_idle();
    const Allocation* allocation = find(memory);
    ENSURE(allocation && allocation->kind == Kind::pinned);
    simt::release(memory);
}

StreamHandle create_stream() {
    const std::lock_guard guard(lock);
    streams.push_back(new CUstream_st);
    streams.back()->number = streams_created++;
    return streams.back();
}
void destroy_stream(StreamHandle stream) {
    const std::lock_guard guard(lock);
    work_until_idle();  // work in line is done all the same
    std::erase(streams, stream);
    delete stream;
}
void synchronize(StreamHandle stream) {
    const std::lock_guard guard(lock);
    report_failure();
    work_until([&] { return stream->queue.empty(); });
    host_goes_on(stream->clock);
}

void copy(void* to, const void* from, int64_t bytes, StreamHandle stream) {
    const std::lock_guard guard(lock);
    if (bytes == 0 || only_check) return;
    check_range(to, bytes, "a copy to"), check_range(from, bytes, "a copy from");
    // Memory of the host that is not pinned is read at once, as CUDA does with a small copy: no caller may rely on less, nor on more.
    std::shared_ptr<std::vector<std::byte>> taken;
    if (!of_the_runner(from)) {
        const auto* begin = static_cast<const std::byte*>(from);
        taken = std::make_shared<std::vector<std::byte>>(begin, begin + bytes);
    }
    enqueue(stream, "a copy", [=] {
        const DeviceAccess access;
        host_copy(to, taken ? taken->data() : from, bytes);
        return std::string();
    });
}
void fill_bytes(void* to, int value, int64_t bytes, StreamHandle stream) {
    const std::lock_guard guard(lock);
    if (bytes == 0 || only_check) return;
    if (!of_the_runner(to)) refuse("a fill of memory that the device does not see");
    check_range(to, bytes, "a fill");
    enqueue(stream, "a fill", [=] {
        const DeviceAccess access;
        host_fill(to, value, bytes);
        return std::string();
    });
}

EventHandle create_event() { return new CUevent_st; }
void destroy_event(EventHandle event) { delete event; }
void record(EventHandle event, StreamHandle stream) {
    const std::lock_guard guard(lock);
    const auto mark = std::make_shared<Mark>();
    event->mark = mark;
    if (only_check) {
        mark->past = true, mark->milliseconds = now();
        return;
    }
    enqueue(stream, "", [mark] {
        mark->past = true, mark->milliseconds = now();
        return std::string();
    });
    mark->clock = stream->clock;
}
void wait(StreamHandle stream, EventHandle event) {
    const std::lock_guard guard(lock);
    if (event->mark)
        enqueue(
            stream, "", [] { return std::string(); }, event->mark);
}
void synchronize(EventHandle event) {
    const std::lock_guard guard(lock);
    report_failure();
    const auto mark = event->mark;
    if (!mark) return;
    work_until([&] { return mark->past.load(); });
    host_goes_on(mark->clock);
}
bool is_past(EventHandle event) { return !event->mark || event->mark->past; }  // any thread, also while another waits in here
double milliseconds(EventHandle from, EventHandle to) {
    const std::lock_guard guard(lock);
    ENSURE(from->mark && to->mark && from->mark->past && to->mark->past);
    return to->mark->milliseconds - from->mark->milliseconds;
}

void adopt_device() {}

void push_range(const char*) {}
void pop_range() {}

}  // namespace traincu::gpu
