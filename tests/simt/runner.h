// The SIMT runner's inside: what executes one kernel, block after block, with a fiber for each CUDA thread. See README.md.
//
// A thread runs until it must wait for others: at a barrier, or in a warp's collective. Then another goes on. Which one is drawn with
// SIMT_SEED, so two runs with one seed are the same run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <set>
#include <source_location>
#include <string>

namespace traincu::simt {

using Where = std::source_location;

constexpr int lanes_of_warp = 32;
// Shared memory that one block may have, at most and without asking for it, on a card of this compute capability.
constexpr int64_t shared_limit(int capability) {
    return (capability == 80 || capability == 87 ? 163 : capability / 10 == 8 || capability / 10 == 12 ? 99 : 227) * int64_t{1024};
}
constexpr int64_t shared_unasked = 48 * 1024;

// One launch, arguments included.
struct Launch {
    const void* kernel = nullptr;
    dim3 grid, block;
    int64_t shared_bytes = 0;
    const void* call = nullptr;  // kernel pointer and arguments, which all threads read
    int64_t call_bytes = 0;
    void (*invoke)(const void* call) = nullptr;
};

// Runs it to its end, or to its first failure: a sentence that names kernel, block, thread and source line. Empty: it went well.
std::string run(const Launch& launch);

std::set<std::string> launched();  // the names of all kernels that were run in this process

// While one lives, nothing is executed: of each launch it is checked whether a card of this compute capability would start it, copies and
// fills are dropped, events are past, and device memory, of any size, is addresses that nobody may touch. So operations can be called at
// sizes that no test could execute. What is in line must have been waited for.
class OnlyCheckLaunches {
public:
    explicit OnlyCheckLaunches(int capability);
    ~OnlyCheckLaunches();
    OnlyCheckLaunches(const OnlyCheckLaunches&) = delete;
    OnlyCheckLaunches& operator=(const OnlyCheckLaunches&) = delete;
    static std::set<std::string> checked();  // the names of the kernels, of all of them so far
};

// Random numbers of the runner: below(n) in [0, n).
uint32_t below(uint32_t n);
void reseed(uint64_t seed);  // SIMT_SEED at the start

// ---- for code that runs within a kernel

// Ends the launch with this sentence. `pc`: where in the code, if no source line is known.
[[noreturn]] void fail(const std::string& what, const Where& at);
[[noreturn]] void fail(const std::string& what, const void* pc);
bool in_kernel();

// Waits for the other lanes of `mask` to come to the same place; the last one calls complete(), which sees every lane's operand and finds
// the operands of the others behind it unchanged. Lanes not in `mask` have null there.
struct Meeting {
    unsigned mask;
    void* operand[lanes_of_warp];
};
void meet(unsigned mask, const char* what, void* operand, void (*complete)(Meeting& meeting, const Where& at), const Where& at);
int lane();

// block_barrier(), block_vote(), shuffle(), ... : include/cuda_runtime.h
// Lets others run: for a loop that waits for something that another thread does.
void yield();

void* dynamic_shared();
// The same memory for the same key throughout a block.
void* static_shared(const void* key, int64_t bytes, int64_t alignment);

}  // namespace traincu::simt
