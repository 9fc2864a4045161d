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
#include <source_location>
#include <string>

namespace traincu::simt {

void read_access(const void* address, int64_t bytes, bool aligned, const void* pc);  // aligned: must be, to its size
void write_access(const void* address, int64_t bytes, bool aligned, const void* pc);
void atomic_access(const void* address, int64_t bytes, const void* pc);
// Between the two the 16 bytes may not be touched: a copy to them is under way.
void begin_async_write(const void* address, const void* pc);
void end_async_write(const void* address);

void check_aligned(const void* address, int64_t alignment, const std::source_location& at);
// Aligned, and in shared memory.
void check_shared(const void* address, int64_t bytes, const char* what, const std::source_location& at);

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
