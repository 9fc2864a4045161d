#include "tests/simt/memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "src/base/error.h"
#include "tests/simt/block.h"
#include "tests/simt/names.h"

namespace traincu::simt {

namespace {

constexpr int64_t page = 4096;

std::byte* reserve(int64_t bytes, int protection) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes), protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        std::fprintf(stderr, "SIMT runner: no %lld bytes of address space (ulimit -v?)\n", static_cast<long long>(bytes));
        std::abort();  // before main
    }
    madvise(memory, static_cast<size_t>(bytes), MADV_DONTDUMP);
    return static_cast<std::byte*>(memory);
}
constexpr int64_t cell_bytes = sizeof(Cell) / 2;  // for each byte of memory

}  // namespace

std::byte* const shared_memory = reserve(shared_room, PROT_READ | PROT_WRITE);  // page-aligned
Cell* const shared_cells = reinterpret_cast<Cell*>(reserve(shared_room * cell_bytes, PROT_READ | PROT_WRITE));
std::byte* const device_base = reserve(2 * device_memory, PROT_NONE);
static Cell* const device_cells = reinterpret_cast<Cell*>(reserve(2 * device_memory * cell_bytes, PROT_READ | PROT_WRITE));

namespace {

// A range of addresses from which allocations are cut, page by page. The owner of each page says where an address belongs; the page behind
// an allocation belongs to it too, but nothing of it may be touched.
struct Region {
    int64_t begin, end;  // pages
    int64_t cursor;      // where the search goes on
    int64_t top;         // behind the last page ever used
    std::byte* cut(int64_t bytes, int32_t allocation);
};
constexpr int64_t pages = device_memory / page;

std::vector<Allocation> allocations;
std::vector<int32_t> owners(static_cast<size_t>(2 * pages), -1);  // by page: index into `allocations`
Region device_region{0, pages, 0, 0}, visible_region{pages, 2 * pages, pages, pages};

std::byte* Region::cut(int64_t bytes, int32_t allocation) {
    // 256-byte aligned, as cudaMalloc promises, and no more
    const int64_t offset = 256 * (1 + 2 * below(7)), need = (offset + bytes + page - 1) / page + 1;
    if (need > end - begin) return nullptr;
    const auto free = [&](int64_t p) {
        const int32_t owner = owners[static_cast<size_t>(p)];
        return owner < 0 || !allocations[static_cast<size_t>(owner)].live;
    };
    int64_t first = cursor, found = 0;
    for (int64_t looked = 0; found < need && looked < 2 * (end - begin); looked++) {
        if (first + found >= end)
            first = begin, found = 0;
        else if (free(first + found))
            found++;
        else
            first += found + 1, found = 0;
    }
    if (found < need) return nullptr;
    for (int64_t p = first; p < first + need; p++) owners[static_cast<size_t>(p)] = allocation;
    cursor = first + need;
    top = cursor > top ? cursor : top;
    return device_base + first * page + offset;
}

}  // namespace

// ---- a sentence for what would be a bare "segmentation fault"

namespace {

struct sigaction before;

void say(const std::string& text) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    (void)written;
}
void on_fault(int signal, siginfo_t* info, void*) {
    if (of_the_runner(info->si_addr))
        say("SIMT runner: the host touches device memory: " + describe(info->si_addr) + ". Only kernels, copies and fills may\n");
    else if (self)
        say(format("SIMT runner: kernel %s touches address %p: no memory of the device, or the stack of a thread is full\n",
                   name_of_kernel(block.launch->kernel).c_str(), info->si_addr));
    sigaction(signal, &before, nullptr);  // whoever handled it before goes on: doctest names the test case
}
// Anew at every chance, since doctest takes the signal for itself in each test case.
void handle_faults() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    struct sigaction current;
    sigaction(SIGSEGV, nullptr, &current);
    if (current.sa_sigaction != on_fault) sigaction(SIGSEGV, &action, &before);
}

}  // namespace

const char* name_of(Kind kind) { return kind == Kind::device ? "device" : kind == Kind::managed ? "managed" : "pinned"; }

std::byte* allocate(int64_t bytes, Kind kind) {
    ENSURE(bytes >= 0);
    handle_faults();
    Region& region = kind == Kind::device ? device_region : visible_region;
    std::byte* memory = region.cut(bytes, static_cast<int32_t>(allocations.size()));
    if (!memory) return nullptr;
    allocations.push_back({memory, bytes, kind, static_cast<int>(allocations.size()) + 1, true});
    if (kind != Kind::device)
        mprotect(memory - reinterpret_cast<uintptr_t>(memory) % page, static_cast<size_t>(bytes) + page, PROT_READ | PROT_WRITE);
    return memory;
}

void release(void* memory) {
    const Allocation* found = find(memory);
    ENSURE(found && found->live && found->begin == memory);
    allocations[static_cast<size_t>(found->number - 1)].live = false;
    // Fresh zero pages when these addresses are given out again; cells of whole pages lie in whole pages.
    const int64_t first = (found->begin - device_base) / page * page;
    const int64_t size = (found->begin + found->bytes - device_base + page - 1) / page * page - first;
    madvise(device_base + first, static_cast<size_t>(size), MADV_DONTNEED);
    madvise(cells_of(device_base + first), static_cast<size_t>(size * cell_bytes), MADV_DONTNEED);
}

bool of_the_runner(const void* address) {
    return static_cast<uintptr_t>(static_cast<const std::byte*>(address) - device_base) < static_cast<uintptr_t>(2 * device_memory);
}

const Allocation* find(const void* address) {
    if (!of_the_runner(address)) return nullptr;
    const int32_t owner = owners[static_cast<size_t>((static_cast<const std::byte*>(address) - device_base) / page)];
    return owner < 0 ? nullptr : &allocations[static_cast<size_t>(owner)];
}

Cell* cells_of(const void* address) { return device_cells + (static_cast<const std::byte*>(address) - device_base) / 2; }
void for_all_cells(void (*each)(Cell&)) {
    for (const Allocation& allocation : allocations)
        for (int64_t i = 0; allocation.live && i < (allocation.bytes + 1) / 2; i++) each(cells_of(allocation.begin)[i]);
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

void protect(int protection) {
    if (device_region.top > 0) mprotect(device_base, static_cast<size_t>(device_region.top * page), protection);
    handle_faults();
}

}  // namespace

DeviceAccess::DeviceAccess() {
    if (accesses++ == 0) protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
    if (--accesses == 0) protect(PROT_NONE);
}

}  // namespace traincu::simt
