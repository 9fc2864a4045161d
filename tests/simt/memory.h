// The memory that kernels see. Device memory lies in one range of addresses, managed and pinned memory, which the host sees too, in
// another, shared memory in a third: so an access tells by its address where it belongs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace traincu::simt {

enum class Kind { device, managed, pinned };
const char* name_of(Kind kind);

struct Allocation {
    std::byte* begin = nullptr;
    int64_t bytes = 0;
    Kind kind = Kind::device;
    int number = 0;  // the how-manieth of this process
    bool live = false;
};

constexpr int64_t device_memory = int64_t{4} << 30;

// The last writer and the last reader of 2 bytes, as stamps (access.h). 0: none.
struct Cell {
    uint32_t write, read;
};

std::byte* allocate(int64_t bytes, Kind kind);  // null where there is no room
void release(void* memory);                     // its addresses are given out again as late as possible
// The allocation that holds the address, or that held it last; null if it is of no allocation, nor in the gap behind one.
const Allocation* find(const void* address);
bool of_the_runner(const void* address);    // device, managed or pinned
Cell* cells_of(const void* address);        // of one that is of the runner
void for_all_cells(void (*each)(Cell&));    // of live allocations
std::string describe(const void* address);  // "byte 12 of device allocation 3 (4096 bytes)"

// The host may not touch device memory, as on a card: it can only while one of these lives.
class DeviceAccess {
public:
    DeviceAccess();
    ~DeviceAccess();
    DeviceAccess(const DeviceAccess&) = delete;
    DeviceAccess& operator=(const DeviceAccess&) = delete;
};

constexpr int64_t shared_room = 512 * 1024;  // with gaps between arrays
extern std::byte* const shared_memory;       // of the block under way
extern Cell* const shared_cells;
extern std::byte* const device_base;  // device memory, then managed and pinned memory

}  // namespace traincu::simt
