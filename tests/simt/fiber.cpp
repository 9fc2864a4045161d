#include "tests/simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "src/base/error.h"

#if !defined(__x86_64__)
#error "tests/simt/fiber.cpp knows how to switch stacks on x86-64 only: add simt_switch_stack() and Stacks::start() for this processor"
#endif

// The registers that a called function must preserve, and the stack: everything else the compiler expects to be lost in a call.
asm(R"(
    .text
    .globl simt_switch_stack
    .type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch_stack, . - simt_switch_stack
)");

namespace traincu::simt {

Stacks::~Stacks() {
    if (memory_) munmap(memory_, static_cast<size_t>(count_) * (bytes + guard));
}

void Stacks::need(int count) {
    if (count <= count_) return;
    if (memory_) munmap(memory_, static_cast<size_t>(count_) * (bytes + guard));
    memory_ = nullptr, count_ = 0;
    const size_t total = static_cast<size_t>(count) * (bytes + guard);
    void* memory = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error(ExitCode::memory, format("no address space for the stacks of %d threads", count));
    memory_ = static_cast<std::byte*>(memory), count_ = count;
    for (int i = 0; i < count; i++) mprotect(low(i) - guard, guard, PROT_NONE);
}

void* Stacks::start(int i, void (*entry)()) const {
    // Equal distances would put the busy lines of all stacks into the same few sets of the cache.
    std::byte* top = low(i) + bytes - 64 - static_cast<size_t>(i % 61) * 64;
    void** sp = reinterpret_cast<void**>(top);  // 16-byte aligned
    sp[1] = nullptr;                            // where entry() would return to: the end of a debugger's backtrace
    sp[0] = reinterpret_cast<void*>(entry);     // taken off by ret, which leaves the alignment of a call
    for (int k = 1; k <= 6; k++) sp[-k] = nullptr;
    return sp - 6;
}

int Stacks::owner(const void* address) const {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(memory_);
    const uintptr_t index = offset / (bytes + guard);
    return index < static_cast<uintptr_t>(count_) ? static_cast<int>(index) : -1;
}

}  // namespace traincu::simt
