#include "tests/simt/access.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "src/base/error.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/order.h"
#include "tests/simt/report.h"

extern const char __executable_start, _end;  // where the linker laid this program

namespace traincu::simt {

namespace {

// A stamp: interval << 8 | many bits | atomic | lane. Many: as a last reader, it was not the only one: others of its warp, or of other
// warps, read since, or before in an order that nothing fixed.
using Stamp = uint32_t;
constexpr Stamp lane_bits = 31, atomic_bit = 32, many_lanes = 64, many_warps = 128;
constexpr uint32_t interval_of(Stamp stamp) { return stamp >> 8; }
constexpr Stamp stamp_of(uint32_t interval, int lane) { return interval << 8 | static_cast<Stamp>(lane); }
constexpr Stamp bare(Stamp stamp) { return stamp & ~(atomic_bit | many_lanes | many_warps); }

// Of the launch under way: where each block's intervals begin; of the block: whose interval is which.
struct BlockStart {
    uint32_t first;
    uint3 index;
};
std::vector<BlockStart> blocks;
std::vector<uint8_t> warp_of;  // by interval - block_first
uint32_t block_first = 0;
uint32_t barrier = 0;                                  // the block's intervals before it are ordered before now
std::vector<bool> seen;                                // blocks whose work is ordered before this block, by fence and atomic
std::map<const void*, std::vector<bool>> released_at;  // atomics: blocks that wrote, fenced and came here

Stamp mine() { return stamp_of(self->interval, self->lane); }

int block_of(uint32_t interval) {
    const auto after =
        std::upper_bound(blocks.begin(), blocks.end(), interval, [](uint32_t i, const BlockStart& b) { return i < b.first; });
    return static_cast<int>(after - blocks.begin()) - 1;
}

// TMA counts as one warp more.
int tma_warp() { return static_cast<int>(block.warps.size()); }
int thread_of(int warp, int lane) { return warp * lanes_of_warp + lane; }

bool ordered_slow(Stamp stamp) {
    const uint32_t interval = interval_of(stamp);
    const int lane = static_cast<int>(stamp & lane_bits);
    if (interval == async_interval) return false;
    if (interval < item_now.first) return ordered_before_item(interval);
    if (interval < block_first) {
        const auto other = static_cast<size_t>(block_of(interval));
        return other < seen.size() && seen[other];
    }
    const int warp = warp_of[interval - block_first];
    if (block.clocks && interval <= self->clock[static_cast<size_t>(thread_of(warp, lane))]) return true;
    if (warp != self->warp) return false;
    const Warp& own = block.warps[static_cast<size_t>(warp)];
    return lane == self->lane || interval < own.whole_interval ||
           (!own.known.empty() && interval <= own.known[static_cast<size_t>(self->lane)][static_cast<size_t>(lane)]);
}
// Of all threads of the block: work of before the launch, or before the last barrier.
bool ordered_for_all(uint32_t interval) {
    if (interval < item_now.floor) return interval != async_interval;
    if (interval < item_now.first) return ordered_before_item(interval);
    return interval >= block_first && interval < barrier;
}
// Whether what the stamp says happened before what this thread does now.
bool ordered(Stamp stamp) { return ordered_for_all(interval_of(stamp)) || bare(stamp) == mine() || ordered_slow(stamp); }
bool of_own_warp(Stamp stamp) { return interval_of(stamp) >= block_first && warp_of[interval_of(stamp) - block_first] == self->warp; }

// Of all lanes of this thread's warp: work of before they were last put in order.
bool of_a_whole_warp(Stamp stamp) { return interval_of(stamp) < block.warps[static_cast<size_t>(self->warp)].whole_interval; }

// The cell's last reader, now that this thread reads.
Stamp next_reader(Stamp last, Stamp me) {
    if (last == me || last == 0 || ordered_for_all(interval_of(last))) return me;
    if (last & many_warps) return last;  // until a barrier orders all of them, it does not matter who they were
    if (interval_of(last) == interval_of(me)) return me | many_lanes;
    if (!of_own_warp(last)) return ordered_slow(last) ? me : me | many_warps;
    return me | (ordered_slow(last) && !(last & many_lanes) ? 0 : of_a_whole_warp(last) ? 0 : many_lanes);
}
// Whether all that read last did so before this thread writes.
bool readers_past(Stamp last, Stamp me) {
    if (last == 0 || ordered_for_all(interval_of(last))) return true;
    // With clocks, threads may know of each other without a barrier of all; of many readers the last stands for all.
    if (block.clocks) return bare(last) == me ? !(last & (many_lanes | many_warps)) : ordered_slow(last);
    if (last & many_warps) return false;
    if (last & many_lanes) return of_own_warp(last) && of_a_whole_warp(last);
    return bare(last) == me || ordered_slow(last);
}

std::string who(Stamp stamp) {
    const uint32_t interval = interval_of(stamp);
    if (interval < item_now.first) return item_of(interval);
    if (interval < block_first) {
        const uint3 index = blocks[static_cast<size_t>(block_of(interval))].index;
        return format("block (%u,%u,%u)", index.x, index.y, index.z);
    }
    if (warp_of[interval - block_first] == tma_warp()) return "TMA";
    const uint3 index = block.threads[warp_of[interval - block_first] * size_t{lanes_of_warp} + (stamp & lane_bits)].index;
    return format("thread (%u,%u,%u)", index.x, index.y, index.z);
}
std::string place(const void* address) {
    const int64_t offset = static_cast<const std::byte*>(address) - shared_memory;
    return offset >= 0 && offset < shared_room ? format("byte %lld of shared memory", static_cast<long long>(offset)) : describe(address);
}

enum class Access { read, write, atomic };

// The rare end of check_cells().
[[noreturn]] void complain(Access access, const Cell& cell, const void* address, const void* pc) {
    const std::string does = std::string(access == Access::read    ? "reads "
                                         : access == Access::write ? "writes "
                                                                   : "updates ") +
                             place(address);
    if (cell.write == 0 && access != Access::write) fail(does + ", which nobody wrote", pc);
    if (interval_of(cell.write) == async_interval) fail(does + ", to which an asynchronous copy is under way: wait for it first", pc);
    const bool of_a_write = cell.write && !ordered(cell.write);
    fail(format("%s, which %s %s, and nothing orders the two: a barrier, fence or event is missing", does.c_str(),
                who(of_a_write ? cell.write : cell.read).c_str(), of_a_write ? "wrote" : "read"),
         pc);
}

template <Access access>
Cell next_cell(Cell cell, Stamp me, bool may_be_unwritten, bool bytewise, const void* address, const void* pc) {
    bool good = true;
    if (cell.write == 0)
        good = access == Access::write || may_be_unwritten;
    else if (cell.write != me)
        good = ordered(cell.write) || (access == Access::atomic && (cell.write & atomic_bit)) ||
               (bytewise && interval_of(cell.write) != async_interval);
    if (access != Access::read && cell.read != me) good = good && (readers_past(cell.read, me) || bytewise);
    if (!good) complain(access, cell, address, pc);
    if (access == Access::read) return {cell.write, next_reader(cell.read, me)};
    return {access == Access::atomic ? me | atomic_bit : me, 0};
}
template <Access access>
void check_cells(Cell* cells, int64_t count, const void* address, bool may_be_unwritten, bool bytewise, const void* pc) {
    const Stamp me = mine();
    Cell before = cells[0], after = next_cell<access>(before, me, may_be_unwritten, bytewise, address, pc);
    cells[0] = after;
    for (int64_t i = 1; i < count; i++) {
        if (std::bit_cast<uint64_t>(cells[i]) != std::bit_cast<uint64_t>(before)) {  // mostly the same, so is the answer
            before = cells[i];
            after = next_cell<access>(before, me, may_be_unwritten, bytewise, static_cast<const std::byte*>(address) + 2 * i, pc);
        }
        cells[i] = after;
    }
}

std::vector<std::shared_ptr<AsyncRead>> async_reads;  // of the block

void check_async_reads(int64_t begin, int64_t bytes, const void* pc) {
    for (const auto& read : async_reads) {
        if (begin >= read->end || begin + bytes <= read->begin) continue;
        for (size_t i = 0; i < read->ended.size(); i++) {
            if (read->ended[i] == 0)
                fail(
                    format("writes byte %lld of shared memory, which %s reads: it is under way", static_cast<long long>(begin), read->what),
                    pc);
            const int thread = read->first_thread + static_cast<int>(i);
            if (!ordered(stamp_of(read->ended[i], thread % lanes_of_warp)))
                fail(format(
                         "writes byte %lld of shared memory, which %s read for thread %s, and nothing orders the two: a barrier is missing",
                         static_cast<long long>(begin), read->what, coordinates(block.threads[static_cast<size_t>(thread)].index).c_str()),
                     pc);
        }
    }
}

// Neither shared nor device memory: the thread's own variables, the program's constants, the launch's arguments. Or a fault.
void check_other(const void* address, int64_t bytes, bool write, const void* pc) {
    const auto* byte = static_cast<const std::byte*>(address);
    if (static_cast<uint64_t>(byte - self->stack_low) < Stacks::bytes) return;
    const auto* text = static_cast<const char*>(address);
    if (text >= &__executable_start && text < &_end) return;
    const auto* call = static_cast<const std::byte*>(block.launch->call);
    if (byte >= call && byte + bytes <= call + block.launch->call_bytes && !write) return;
    const int owner = thread_of_stack(address);
    if (owner >= 0 && owner != self->number) fail(format("%s a local variable of another thread", write ? "writes" : "reads"), pc);
    fail(format("%s %lld bytes at %p: neither shared memory nor memory of the device", write ? "writes" : "reads",
                static_cast<long long>(bytes), address),
         pc);
}

bool within_shared(int64_t begin, int64_t end) {
    bool within = end <= block.launch->shared_bytes;
    for (size_t i = 0; !within && i < block.arrays.size(); i++)
        within = begin >= block.arrays[i].offset && end <= block.arrays[i].offset + block.arrays[i].bytes;
    return within;
}

template <Access access>
void check(const void* address, int64_t bytes, bool aligned, const void* pc) {
    constexpr bool write = access != Access::read;
    const auto* byte = static_cast<const std::byte*>(address);
    const auto offset = static_cast<uint64_t>(byte - shared_memory);
    const auto check_alignment = [&] {
        if (aligned && reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes))
            fail(format("accesses %lld bytes at %p, which is not aligned to them", static_cast<long long>(bytes), address), pc);
    };
    if (offset < static_cast<uint64_t>(shared_room)) {
        const int64_t begin = static_cast<int64_t>(offset), end = begin + bytes;
        if (!within_shared(begin, end))
            fail(format("%s %lld bytes at byte %lld of shared memory, beyond the %lld bytes of shared() and outside of any shared_array()",
                        write ? "writes" : "reads", static_cast<long long>(bytes), static_cast<long long>(begin),
                        static_cast<long long>(block.launch->shared_bytes)),
                 pc);
        check_alignment();
        if (write && !async_reads.empty()) check_async_reads(begin, bytes, pc);
        check_cells<access>(shared_cells + begin / 2, (end + 1) / 2 - begin / 2, address, false, bytes == 1, pc);
        if (report::wanted) report::shared_access(address, bytes, pc);
        return;
    }
    if (!of_the_runner(address)) {
        check_other(address, bytes, write, pc);
        return;
    }
    const Allocation* allocation = find(address);
    if (!allocation || !allocation->live || byte < allocation->begin || byte + bytes > allocation->begin + allocation->bytes)
        fail(
            format("%s %lld bytes out of bounds: %s", write ? "writes" : "reads", static_cast<long long>(bytes), describe(address).c_str()),
            pc);
    check_alignment();
    const uint64_t from = static_cast<uint64_t>(byte - device_base);
    check_cells<access>(cells_of(address), static_cast<int64_t>((from + static_cast<uint64_t>(bytes) + 1) / 2 - from / 2), address,
                        allocation->kind != Kind::device, bytes == 1, pc);
    if (report::wanted) report::global_access(address, bytes, write, pc);
}

}  // namespace

void read_access(const void* address, int64_t bytes, bool aligned, const void* pc) {
    if (self) check<Access::read>(address, bytes, aligned, pc);
}
void write_access(const void* address, int64_t bytes, bool aligned, const void* pc) {
    if (self) check<Access::write>(address, bytes, aligned, pc);
}
void atomic_access(const void* address, int64_t bytes, const void* pc) {
    check<Access::atomic>(address, bytes, true, pc);
    const auto seen_there = released_at.find(address);
    if (seen_there != released_at.end()) {
        if (seen.size() < seen_there->second.size()) seen.resize(seen_there->second.size());
        for (size_t i = 0; i < seen_there->second.size(); i++)
            if (seen_there->second[i]) seen[i] = true;
    }
    if (self->fenced) {
        std::vector<bool>& released = released_at[address];
        if (released.size() < blocks.size()) released.resize(blocks.size());
        for (size_t i = 0; i < seen.size(); i++)
            if (seen[i]) released[i] = true;
        released[blocks.size() - 1] = true;
    }
    if (++self->atomics % 1024 == 0) yield();  // it may wait for another thread
}
void fence() { self->fenced = true; }

static Cell* shared_cells_of(const void* address) { return shared_cells + (static_cast<const std::byte*>(address) - shared_memory) / 2; }
static void set_cells(const void* address, int64_t bytes, Cell cell) { std::fill_n(shared_cells_of(address), bytes / 2, cell); }
void begin_async_write(const void* address, int64_t bytes, const void* pc) {
    check<Access::write>(address, bytes, false, pc);
    const int64_t begin = static_cast<const std::byte*>(address) - shared_memory;  // reads that are past need not be remembered any longer
    std::erase_if(async_reads, [&](const auto& read) { return read->begin >= begin && read->end <= begin + bytes; });
    set_cells(address, bytes, {stamp_of(async_interval, self->lane), 0});
}
void end_async_write(const void* address, int64_t bytes) { set_cells(address, bytes, {mine(), 0}); }

void check_aligned(const void* address, int64_t alignment, const Where& at) {
    if (reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(alignment))
        fail(format("accesses %lld bytes at %p, which is not aligned to them", static_cast<long long>(alignment), address), at);
}
void check_shared(const void* address, int64_t bytes, const char* what, const Where& at) {
    const int64_t offset = static_cast<const std::byte*>(address) - shared_memory;
    if (offset < 0 || offset + bytes > shared_room) fail(format("calls %s for %p, which is not in its shared memory", what, address), at);
    check_aligned(address, bytes, at);
}

// ---- as time goes on

void begin_launch_order() { blocks.clear(), released_at.clear(); }
void begin_block_order() {
    block_first = new_interval();
    blocks.push_back({block_first, blockIdx});
    warp_of.assign(1, 0);
    seen.clear();
    async_reads.clear();
    order_block();
}
static uint32_t interval_for(int warp) {
    const uint32_t interval = new_interval();
    warp_of.push_back(static_cast<uint8_t>(warp));
    return interval;
}
void order_block() {
    std::erase_if(async_reads, [](const auto& read) { return read->past(); });
    for (size_t w = 0; w < block.warps.size(); w++) {
        Warp& warp = block.warps[w];
        warp.whole_interval = interval_for(static_cast<int>(w));
        if (w == 0) barrier = warp.whole_interval;
        for (uint32_t rest = warp.all; rest; rest &= rest - 1)
            block.threads[w * lanes_of_warp + static_cast<size_t>(std::countr_zero(rest))].interval = warp.whole_interval;
    }
}
static void join_all_of(Known& known, const Thread& thread);  // what it did and knows
void order_warp(unsigned mask) {
    Warp& warp = block.warps[static_cast<size_t>(self->warp)];
    Known learnt;
    for (uint32_t rest = block.clocks ? mask : 0; rest; rest &= rest - 1)
        join_all_of(learnt, block.threads[static_cast<size_t>(thread_of(self->warp, std::countr_zero(rest)))]);
    Thread* lanes = &block.threads[static_cast<size_t>(self->warp * lanes_of_warp)];
    if (mask == warp.all)
        warp.whole_interval = interval_for(self->warp);
    else {
        // each lane of the mask learns what any of them knows of every lane
        if (warp.known.empty()) warp.known.resize(lanes_of_warp);
        std::array<uint32_t, lanes_of_warp> known{};
        for (uint32_t rest = mask; rest; rest &= rest - 1) {
            const int l = std::countr_zero(rest);
            for (size_t other = 0; other < known.size(); other++)
                known[other] = std::max(known[other], warp.known[static_cast<size_t>(l)][other]);
            known[static_cast<size_t>(l)] = std::max(known[static_cast<size_t>(l)], lanes[l].interval);
        }
        for (uint32_t rest = mask; rest; rest &= rest - 1) warp.known[static_cast<size_t>(std::countr_zero(rest))] = known;
    }
    const uint32_t interval = mask == warp.all ? warp.whole_interval : interval_for(self->warp);
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        lanes[std::countr_zero(rest)].interval = interval;
        if (block.clocks) lanes[std::countr_zero(rest)].clock = learnt;
    }
}

// ---- order between some threads

void begin_clocks() {
    if (block.clocks) return;
    block.clocks = true;
    for (Thread& thread : block.threads) thread.clock.assign((block.warps.size() + 1) * lanes_of_warp, 0);
}
void join(Known& known, const Known& other) {
    if (known.size() < other.size()) known.resize(other.size());
    for (size_t i = 0; i < other.size(); i++) known[i] = std::max(known[i], other[i]);
}
static void join_all_of(Known& known, const Thread& thread) {
    join(known, thread.clock);
    const Warp& warp = block.warps[static_cast<size_t>(thread.warp)];
    const auto first = static_cast<size_t>(thread.warp * lanes_of_warp);
    for (uint32_t rest = warp.all; rest; rest &= rest - 1) {
        const auto l = static_cast<size_t>(std::countr_zero(rest));
        known[first + l] = std::max(known[first + l], warp.whole_interval - 1);
        if (!warp.known.empty()) known[first + l] = std::max(known[first + l], warp.known[static_cast<size_t>(thread.lane)][l]);
    }
    known[static_cast<size_t>(thread.number)] = thread.interval;
}
void release(Known& known) {
    join_all_of(known, *self);
    self->interval = interval_for(self->warp);  // what it does next is not part of it
}
void acquire(const Known& known) { join(self->clock, known); }
void end_async_load(const void* address, int64_t bytes, Known& known) {
    const uint32_t interval = interval_for(tma_warp());
    set_cells(address, bytes, {stamp_of(interval, 0), 0});
    known.resize(self->clock.size());
    known[static_cast<size_t>(thread_of(tma_warp(), 0))] = interval;
}
void fence_async() { self->async_visible = self->interval = interval_for(self->warp); }

bool AsyncRead::past() const {
    return std::all_of(ended.begin(), ended.end(), [](uint32_t interval) { return interval > 0; });
}
std::shared_ptr<AsyncRead> begin_async_read(const std::vector<int64_t>& pieces, int first_thread, int threads, const char* what,
                                            const Where& at) {
    const auto read = std::make_shared<AsyncRead>();
    read->begin = *std::min_element(pieces.begin(), pieces.end()), read->end = *std::max_element(pieces.begin(), pieces.end()) + 16;
    read->what = what, read->first_thread = first_thread, read->ended.resize(static_cast<size_t>(threads));
    Thread* me = self;
    Stamp checked = 0;
    for (const int64_t piece : pieces) {
        if (!within_shared(piece, piece + 16))
            fail(format("%s reads byte %lld of shared memory, which the kernel did not ask for", what, static_cast<long long>(piece)), at);
        for (int64_t cell = piece / 2; cell < piece / 2 + 8; cell++) {
            const Stamp write = shared_cells[cell].write;
            if (write == checked && write) continue;
            checked = write;
            const std::string does = format("%s reads byte %lld of shared memory, ", what, static_cast<long long>(2 * cell));
            if (write == 0) fail(does + "which nobody wrote", at);
            if (interval_of(write) == async_interval) fail(does + "to which an asynchronous copy is under way: wait for it first", at);
            for (int t = first_thread; t < first_thread + threads; t++) {
                self = &block.threads[static_cast<size_t>(t)];
                if (!ordered(write))
                    fail(does + format("which %s wrote, and nothing orders the two: a barrier is missing", who(write).c_str()), at);
            }
            self = me;
            const int warp = warp_of[interval_of(write) - block_first];
            if (warp == tma_warp()) continue;
            const Thread& writer = block.threads[static_cast<size_t>(thread_of(warp, static_cast<int>(write & lane_bits)))];
            if (interval_of(write) >= writer.async_visible)
                fail(does + format("which thread %s stored without a fence_proxy_async() after it", coordinates(writer.index).c_str()), at);
        }
    }
    async_reads.push_back(read);
    return read;
}
void end_async_read(AsyncRead& read) {
    uint32_t& ended = read.ended[static_cast<size_t>(self->number - read.first_thread)];
    if (!ended) ended = self->interval;
}
const char* async_read_under_way() {
    for (const auto& read : async_reads)
        if (!read->past()) return read->what;
    return nullptr;
}

void begin_shared(std::byte* memory, int64_t bytes) {
    std::memset(memory, 0xFF, static_cast<size_t>(bytes));
    std::memset(static_cast<void*>(shared_cells_of(memory)), 0, static_cast<size_t>((bytes + 1) / 2) * sizeof(Cell));
}

// ---- copies and fills: one interval for each, no lane

namespace {
// Another stream's unordered access is a race here too.
void check_host_cell(const Cell& cell, bool write, const void* address) {
    const auto unordered = [](Stamp stamp) {
        return stamp && interval_of(stamp) >= item_now.floor && !ordered_before_item(interval_of(stamp));
    };
    const Stamp other = unordered(cell.write) ? cell.write : write && unordered(cell.read) ? cell.read : 0;
    if (other)
        throw Error(ExitCode::hardware,
                    format("a copy or fill %s %s, which %s %s, and nothing orders the two: an event is missing", write ? "writes" : "reads",
                           describe(address).c_str(), item_of(interval_of(other)).c_str(), other == cell.write ? "wrote" : "read"));
}
void host_write_cells(void* to, int64_t bytes, Stamp stamp) {
    Cell* cells = cells_of(to);
    for (int64_t i = 0; i < (bytes + 1) / 2; i++) {
        check_host_cell(cells[i], true, static_cast<std::byte*>(to) + 2 * i);
        cells[i] = {stamp, 0};
    }
}
}  // namespace

void host_copy(void* to, const void* from, int64_t bytes) {
    const Stamp stamp = stamp_of(new_interval(), 0);
    const bool tracked = of_the_runner(from);
    std::vector<bool> unwritten;
    if (tracked) {
        const bool device = find(from)->kind == Kind::device;
        Cell* cells = cells_of(from);
        for (int64_t i = 0; i < (bytes + 1) / 2; i++) {
            check_host_cell(cells[i], false, static_cast<const std::byte*>(from) + 2 * i);
            if (device && cells[i].write == 0)
                unwritten.resize(static_cast<size_t>(bytes + 1) / 2), unwritten[static_cast<size_t>(i)] = true;
            cells[i].read = stamp;
        }
    }
    std::memmove(to, from, static_cast<size_t>(bytes));
    if (of_the_runner(to)) host_write_cells(to, bytes, stamp);
    for (size_t i = 0; i < unwritten.size(); i++) {
        if (!unwritten[i]) continue;
        std::memset(static_cast<std::byte*>(to) + 2 * i, 0xFF, std::min<size_t>(2, static_cast<size_t>(bytes) - 2 * i));
        if (of_the_runner(to)) cells_of(to)[i].write = 0;
    }
}
void host_fill(void* to, int value, int64_t bytes) {
    std::memset(to, value, static_cast<size_t>(bytes));
    host_write_cells(to, bytes, stamp_of(new_interval(), 0));
}

void forget_stamps() {
    for_all_cells([](Cell& cell) { cell = {cell.write ? stamp_of(long_ago, 0) : 0, 0}; });
}

}  // namespace traincu::simt

// ---- what -fsanitize=thread makes of every load and store

using traincu::simt::read_access;
using traincu::simt::write_access;

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define HOOK(bytes)                                                                                           \
    void __tsan_read##bytes(void* p) { read_access(p, bytes, true, __builtin_return_address(0)); }            \
    void __tsan_write##bytes(void* p) { write_access(p, bytes, true, __builtin_return_address(0)); }          \
    void __tsan_unaligned_read##bytes(void* p) { read_access(p, bytes, false, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##bytes(void* p) { write_access(p, bytes, false, __builtin_return_address(0)); }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
#undef HOOK
void __tsan_read_range(void* p, unsigned long bytes) { read_access(p, static_cast<int64_t>(bytes), false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, unsigned long bytes) { write_access(p, static_cast<int64_t>(bytes), false, __builtin_return_address(0)); }
void __tsan_vptr_update(void** p, void*) { write_access(p, 8, true, __builtin_return_address(0)); }
void __tsan_vptr_read(void** p) { read_access(p, 8, true, __builtin_return_address(0)); }
// Atomics of the host's code in these files (counts of std::shared_ptr, guards of static variables).
#define ATOMICS(bits, T)                                                                                    \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
#undef ATOMICS
}
