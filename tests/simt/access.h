// What is asked of every access of a kernel to memory, in the order of the questions: is it aligned, within an allocation, of something
// that was written, and ordered after what other threads did there.
#pragma once

#include <cstdint>
#include <source_location>

namespace traincu::simt {

void read_access(const void* address, int64_t bytes, const void* pc);
void write_access(const void* address, int64_t bytes, const void* pc);
void atomic_access(const void* address, int64_t bytes, const void* pc);

void check_aligned(const void* address, int64_t alignment, const std::source_location& at);
// Aligned, and in shared memory.
void check_shared(const void* address, int64_t bytes, const char* what, const std::source_location& at);

}  // namespace traincu::simt
