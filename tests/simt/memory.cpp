#include "tests/simt/memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <vector>

#include "src/base/error.h"
#include "tests/simt/block.h"

namespace traincu::simt {

namespace {

constexpr int64_t page = 4096;

std::byte* reserve(int64_t bytes, int protection) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes), protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        throw Error(ExitCode::memory, format("the SIMT runner needs %lld bytes of address space", static_cast<long long>(bytes)));
    return static_cast<std::byte*>(memory);
}

// A range of addresses from which allocations are cut, page by page. The owner of each page says where an address belongs; the page behind
// an allocation belongs to it too, but nothing of it may be touched.
struct Region {
    std::byte* base = nullptr;
    int64_t cursor = 0, top = 0;  // page where the search goes on; first page never used
    std::vector<int32_t> owner;   // by page: index into `allocations`, -1
    std::byte* cut(int64_t bytes, int32_t allocation);
};
constexpr int64_t pages = device_memory / page;

std::deque<Allocation> allocations;
Region regions[2];  // device; managed and pinned

Region& region_of(Kind kind) {
    Region& region = regions[kind == Kind::device ? 0 : 1];
    if (!region.base) {
        region.base = reserve(device_memory, kind == Kind::device ? PROT_NONE : PROT_READ | PROT_WRITE);
        region.owner.assign(static_cast<size_t>(pages), -1);
    }
    return region;
}

std::byte* Region::cut(int64_t bytes, int32_t allocation) {
    // 256-byte aligned, as cudaMalloc promises, and no more
    const int64_t offset = 256 * (1 + below(15)), need = (offset + bytes + page - 1) / page + 1;
    if (need > pages) return nullptr;
    const auto free = [&](int64_t p) {
        return owner[static_cast<size_t>(p)] < 0 || !allocations[static_cast<size_t>(owner[static_cast<size_t>(p)])].live;
    };
    int64_t begin = cursor, found = 0;
    for (int64_t looked = 0; looked < 2 * pages; looked++) {
        const int64_t p = begin + found;
        if (p >= pages)
            begin = 0, found = 0;
        else if (!free(p))
            begin = p + 1, found = 0;
        else if (++found == need)
            break;
    }
    if (found < need) return nullptr;
    for (int64_t p = begin; p < begin + need; p++) owner[static_cast<size_t>(p)] = allocation;
    cursor = begin + need;
    top = cursor > top ? cursor : top;
    return base + begin * page + offset;
}

}  // namespace

const char* name_of(Kind kind) { return kind == Kind::device ? "device" : kind == Kind::managed ? "managed" : "pinned"; }

std::byte* allocate(int64_t bytes, Kind kind) {
    ENSURE(bytes >= 0);
    Region& region = region_of(kind);
    std::byte* memory = region.cut(bytes, static_cast<int32_t>(allocations.size()));
    if (!memory) return nullptr;
    allocations.push_back({memory, bytes, kind, static_cast<int>(allocations.size()) + 1, true});
    return memory;
}

void release(void* memory) {
    if (!memory) return;
    const Allocation* found = find(memory);
    ENSURE(found && found->live && found->begin == memory);
    allocations[static_cast<size_t>(found->number - 1)].live = false;
    // fresh zero pages when these addresses are given out again
    const uintptr_t begin = reinterpret_cast<uintptr_t>(memory) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(found->bytes) + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

bool of_the_runner(const void* address) {
    for (const Region& region : regions)
        if (region.base && static_cast<const std::byte*>(address) >= region.base &&
            static_cast<const std::byte*>(address) < region.base + device_memory)
            return true;
    return false;
}

const Allocation* find(const void* address) {
    for (const Region& region : regions) {
        if (!region.base) continue;
        const int64_t offset = static_cast<const std::byte*>(address) - region.base;
        if (offset < 0 || offset >= device_memory) continue;
        const int32_t owner = region.owner[static_cast<size_t>(offset / page)];
        return owner < 0 ? nullptr : &allocations[static_cast<size_t>(owner)];
    }
    return nullptr;
}

std::string describe(const void* address) {
    const Allocation* allocation = find(address);
    if (!allocation) return format("address %p, of no allocation", address);
    const int64_t offset = static_cast<const std::byte*>(address) - allocation->begin;
    return format("byte %lld of %s allocation %d (%lld bytes%s)", static_cast<long long>(offset), name_of(allocation->kind),
                  allocation->number, static_cast<long long>(allocation->bytes), allocation->live ? "" : ", released");
}

// ---- device memory is out of the host's reach

namespace {

int accesses = 0;
struct sigaction before;

void say(const std::string& text) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    (void)written;
}
// A sentence for what would be a bare "segmentation fault"; then whoever handled the signal before (doctest names the test case).
void on_fault(int signal, siginfo_t* info, void*) {
    if (find(info->si_addr) || of_the_runner(info->si_addr))
        say("SIMT runner: the host touches device memory: " + describe(info->si_addr) + ". Only kernels, copies and fills may\n");
    else if (self)
        say(format("SIMT runner: kernel %s touches address %p: no memory of the device, or the stack of a thread is full\n",
                   name_of_kernel(block.launch->kernel).c_str(), info->si_addr));
    sigaction(signal, &before, nullptr);
}

void protect(int protection) {
    Region& device = regions[0];
    if (device.base && device.top > 0) mprotect(device.base, static_cast<size_t>(device.top * page), protection);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    struct sigaction current;
    sigaction(SIGSEGV, nullptr, &current);
    if (current.sa_sigaction != on_fault) sigaction(SIGSEGV, &action, &before);
}

}  // namespace

DeviceAccess::DeviceAccess() {
    if (accesses++ == 0) protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
    if (--accesses == 0) protect(PROT_NONE);
}

// ---- shared memory

std::byte* shared_memory() {
    static std::byte* memory = reserve(256 * 1024, PROT_READ | PROT_WRITE);  // page-aligned
    return memory;
}
void begin_shared_memory() { std::memset(shared_memory(), 0xFF, static_cast<size_t>(shared_limit)); }

}  // namespace traincu::simt
