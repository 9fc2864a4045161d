// The state of the block that is under way. Only one is at a time.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "tests/simt/fiber.h"
#include "tests/simt/runner.h"

namespace traincu::simt {

// A cp_async16 that was not waited for.
struct AsyncCopy {
    std::byte* to;
    std::byte data[16];
    int group;
};

// Accumulators of a wgmma: what they will hold once it was waited for. Until then the thread sees NaN there.
struct Accumulators {
    float* d;
    std::vector<float> values;
    int group;
};

struct Thread {
    void* stack = nullptr;  // its pointer, while it stands still
    uint3 index{};
    int number = 0, warp = 0, lane = 0;
    bool ended = false;
    // what it waits for, or waited for last
    const char* waits_for = "no other thread";
    unsigned mask = 0;  // of a warp's meeting; 0: the whole block
    void* operand = nullptr;
    int vote = 0;
    int scope_first = 0, scope_count = 0;  // threads that it waits for, or some of them
    std::function<std::string()> why;      // of another way of waiting: what is missing
    Where at;
    std::vector<AsyncCopy> copies;  // in the order of their groups
    int groups_committed = 0;
    // for hopper.cpp
    std::vector<Accumulators> accumulators;
    int wgmma_groups = 0;                   // committed
    std::vector<const void*> wgmma_fenced;  // arrays, since the last wgmma_wait
    int store_groups = 0;                   // of tma_store
    // for access.cpp
    const std::byte* stack_low = nullptr;
    uint32_t async_visible = 0;   // what it stored in intervals before this one, TMA and wgmma can see
    std::vector<uint32_t> clock;  // up to which interval of each thread it knows; used once block.clocks
    uint32_t interval = 0;
    bool fenced = false;  // has executed a __threadfence
    int64_t atomics = 0;
};

struct Warp {
    uint32_t all = 0;      // lanes that exist
    uint32_t ready = 0;    // to go on
    uint32_t meeting = 0;  // that wait in a meeting
    uint32_t next_lane = 0;
    // for access.cpp
    uint32_t whole_interval = 0;                             // since all lanes were last in order
    std::vector<std::array<uint32_t, lanes_of_warp>> known;  // of a lane: up to which interval of each other; empty before a part of the
                                                             // warp was put in order
};

struct StaticShared {
    const void* key;
    int64_t offset, bytes;
};

struct Block {
    const Launch* launch = nullptr;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    int warp = 0;  // whose turn it is
    int alive = 0, at_barrier = 0;
    int64_t idle_turns = 0;    // since a thread was last made ready by another
    int64_t shared_bytes = 0;  // asked for
    int64_t shared_end = 0;    // with the gaps between arrays
    std::vector<StaticShared> arrays;
    std::vector<std::function<void()>> async_work;  // of TMA, under way: done at a time drawn by chance
    bool clocks = false;                            // threads are ordered by more than barriers of all: mbarriers, named barriers
    std::string failure;
};

// Of tests/simt/hopper.cpp
void begin_block_of_hopper();
std::string end_block_of_hopper();  // what is still under way; empty: nothing

// Waiting, from the inside: the thread under way stands still until another one makes it ready.
void stand_still();
void make_ready(Thread& thread);

extern Block block;
extern constinit thread_local Thread* self;  // under way; null outside of kernels, and in other threads of the host

int thread_of_stack(const void* address);  // whose stack holds it; -1
std::string text_of(const Where& at);
std::string coordinates(const uint3& index);  // "(3,0,0)"

}  // namespace traincu::simt
