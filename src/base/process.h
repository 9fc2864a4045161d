// The process: how many threads compute, how they wait for work, and what happens to freed memory.
#pragma once

namespace traincu {

// OpenMP threads that spin while they wait starve a busy machine: one busy neighbour makes a small matrix product hundreds of times slower.
// The wait policy is read once, before main(), so a program that finds it unset sets it and starts itself again. Call first in main().
void wait_passively(char** argv);

// Kernels take scratch memory at every call. By default the C library gives large blocks back to the system at once, which then clears
// their pages at the next call; this keeps them.
void keep_freed_memory();

// Cores that this process may use (affinity, container limits).
int allowed_cores();

// 0 = all allowed cores. Returns the number now in force.
int set_threads(int count);

// A line on stderr that tells what a user should know: "note: ...". Of several ranks only one speaks.
[[gnu::format(printf, 1, 2)]] void note(const char* fmt, ...);
void silence_notes();

}  // namespace traincu
