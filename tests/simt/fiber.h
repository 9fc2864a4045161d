// Fibers: many stacks in one thread of the operating system, switched by hand. One fiber is one CUDA thread.
#pragma once

#include <cstddef>

namespace traincu::simt {

// Saves the callee-saved registers on this stack and its pointer in *from, goes on with the stack `to`.
extern "C" void simt_switch_stack(void** from, void* to);

// `count` stacks with a page below each that nothing may touch. They are kept for the next block: a stack costs no system call.
class Stacks {
public:
    static constexpr size_t bytes = size_t{128} << 10, guard = 4096;

    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks();
    void need(int count);  // memory is taken on the first touch

    std::byte* low(int i) const { return memory_ + static_cast<size_t>(i) * (bytes + guard) + guard; }
    // A stack pointer that, switched to, calls entry(), which must never return.
    void* start(int i, void (*entry)()) const;
    // Of an address within any of the stacks or guard pages: whose; -1 elsewhere.
    int owner(const void* address) const;

private:
    std::byte* memory_ = nullptr;
    int count_ = 0;
};

}  // namespace traincu::simt
