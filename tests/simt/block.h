// The state of the block that is under way. Only one is at a time.
#pragma once

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
    Where at;
    std::vector<AsyncCopy> copies;  // in the order of their groups
    int groups_committed = 0;
};

struct Warp {
    uint32_t all = 0;      // lanes that exist
    uint32_t ready = 0;    // to go on
    uint32_t meeting = 0;  // that wait in a meeting
    uint32_t next_lane = 0;
};

struct StaticShared {
    const void* key;
    int64_t offset;
};

struct Block {
    const Launch* launch = nullptr;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    int warp = 0;  // whose turn it is
    int alive = 0, at_barrier = 0;
    int64_t idle_turns = 0;  // since a thread was last made ready by another
    int64_t shared_bytes = 0;
    std::vector<StaticShared> arrays;
    std::string failure;
};

extern Block block;
extern Thread* self;

std::string text_of(const Where& at);
std::string source_line(const void* pc);  // "kernels/norm.cu:12" where addr2line is installed, else the address (names.cpp)

}  // namespace traincu::simt
