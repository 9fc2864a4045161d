// What is asked of every access of a kernel to memory: is it aligned, within an allocation, of something that was written, and ordered
// after what other threads did there?
//
// Order. A thread's work is cut into intervals by what orders it against others: __syncwarp, barriers, the end of its launch. An interval
// has a number, no two threads of different warps share one, and numbers grow with time. A stamp is an interval and a lane: who did
// something, and when. Each 2 bytes of memory have a cell with the stamps of their last writer and last reader. "Is that stamp ordered
// before what I do now?" is mostly one or two comparisons:
//   intervals before this launch     ordered, unless another stream did it and no event or host waits between (order.cpp)
//   other blocks of this launch      never, but through __threadfence and an atomic
//   other warps                      before the last barrier
//   other lanes                      before the last __syncwarp. A shuffle or a vote orders no memory: neither does CUDA say so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

namespace traincu::simt {

void read_access(const void* address, int64_t bytes, bool aligned, const void* pc);  // aligned: must be, to its size
void write_access(const void* address, int64_t bytes, bool aligned, const void* pc);
void atomic_access(const void* address, int64_t bytes, const void* pc);
// Between the two these bytes of shared memory may not be touched: a copy to them is under way.
void begin_async_write(const void* address, int64_t bytes, const void* pc);
void end_async_write(const void* address, int64_t bytes);

void check_aligned(const void* address, int64_t alignment, const std::source_location& at);
// Aligned, and in shared memory.
void check_shared(const void* address, int64_t bytes, const char* what, const std::source_location& at);

// ---- order between some threads of a block: mbarriers, named barriers

// By thread: up to which interval what it did is known. Behind the threads one entry more, of TMA.
using Known = std::vector<uint32_t>;
void begin_clocks();         // from now on threads of the block remember what they know of others
void release(Known& known);  // the thread under way gives what it did and knows
void acquire(const Known& known);
void join(Known& known, const Known& other);
// A copy of TMA has come and the thread under way has waited for it; whoever acquires `known` has, too.
void end_async_load(const void* address, int64_t bytes, Known& known);
void fence_async();  // the thread's stores are visible to TMA and wgmma

// TMA or wgmma reads pieces of 16 bytes of shared memory for some threads: written, ordered for all of them, fenced if threads stored them.
// It goes on until each of them has called end_async_read(); a write there before that, or not ordered after it, is a fault.
struct AsyncRead {
    int64_t begin = 0, end = 0;  // bytes of shared memory, gaps between pieces included
    const char* what = nullptr;
    int first_thread = 0;
    std::vector<uint32_t> ended;  // by thread: the interval in which it ended; 0: not yet
    bool past() const;
};
std::shared_ptr<AsyncRead> begin_async_read(const std::vector<int64_t>& pieces, int first_thread, int threads, const char* what,
                                            const std::source_location& at);
void end_async_read(AsyncRead& read);
const char* async_read_under_way();  // what; null: none

// ---- the copies and fills of streams
void host_copy(void* to, const void* from, int64_t bytes);  // unwritten memory comes out as NaN
void host_fill(void* to, int value, int64_t bytes);

void forget_stamps();  // all that was written was so long_ago

// ---- called by the runner, as time goes on
void begin_launch_order();
void begin_block_order();
void order_block();                                   // a barrier of all threads is complete
void order_warp(unsigned mask);                       // lanes of the warp under way are in order
void fence();                                         // __threadfence of the thread under way
void begin_shared(std::byte* memory, int64_t bytes);  // a block's new shared memory: NaN, unwritten

}  // namespace traincu::simt
