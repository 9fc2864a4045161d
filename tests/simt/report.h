// SIMT_REPORT=1: at the end of the process, for each kernel, how it used memory. Bank conflicts and unused sectors cost nothing here; on a
// card they do.
#pragma once

#include <cstdint>

namespace traincu::simt::report {

extern const bool wanted;

void begin_block(const void* kernel);
void end_block();
// of the thread under way
void shared_access(const void* address, int64_t bytes, const void* pc);
void global_access(const void* address, int64_t bytes, bool write, const void* pc);

}  // namespace traincu::simt::report
