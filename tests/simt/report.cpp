#include "tests/simt/report.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <unordered_map>
#include <vector>

#include "tests/simt/block.h"
#include "tests/simt/names.h"

namespace traincu::simt::report {

namespace {

// What the lanes of a warp asked for by one execution of one instruction. Which execution: the how-manieth of each lane, so lanes that go
// through a loop a different number of times are taken together as far as they go.
struct Request {
    uint32_t lanes = 0;
    std::array<uint64_t, lanes_of_warp> address{};
};
struct Instruction {
    bool shared = false, write = false;
    int64_t bytes = 0;
    std::array<uint32_t, lanes_of_warp> executed{};
    std::vector<Request> requests;
    uint32_t first = 0;  // execution that requests[0] stands for
};
struct Use {
    int64_t blocks = 0, read = 0, written = 0;     // bytes of global memory
    int64_t sectors = 0, least_sectors = 0;        // of 32 bytes, and what they would be if all of each were used
    int64_t wavefronts = 0, least_wavefronts = 0;  // of shared memory: turns of 128 bytes
};
std::map<const void*, Use> uses;
Use* use = nullptr;
std::unordered_map<uint64_t, Instruction> instructions;  // of the block: by code address and warp

// Turns that shared memory needs: 32 banks of 4 bytes, one word of each bank a turn. 8-byte accesses go by half warps, 16-byte by quarters.
void count_shared(const Instruction& instruction, const Request& request) {
    const int group = instruction.bytes <= 4 ? 32 : instruction.bytes == 8 ? 16 : 8;
    for (int begin = 0; begin < lanes_of_warp; begin += group) {
        std::array<std::vector<uint64_t>, 32> words;
        for (int lane = begin; lane < begin + group; lane++) {
            if (!(request.lanes >> lane & 1)) continue;
            for (uint64_t word = request.address[static_cast<size_t>(lane)] / 4;
                 word * 4 < request.address[static_cast<size_t>(lane)] + static_cast<uint64_t>(instruction.bytes); word++) {
                auto& bank = words[word % 32];
                if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
            }
        }
        size_t turns = 0;
        for (const auto& bank : words) turns = std::max(turns, bank.size());
        use->wavefronts += static_cast<int64_t>(turns), use->least_wavefronts += turns > 0;
    }
}
void count_global(const Instruction& instruction, const Request& request) {
    std::vector<uint64_t> sectors, bytes;
    for (uint32_t rest = request.lanes; rest; rest &= rest - 1) {
        const uint64_t address = request.address[static_cast<size_t>(std::countr_zero(rest))],
                       end = address + static_cast<uint64_t>(instruction.bytes);
        for (uint64_t sector = address / 32; sector * 32 < end; sector++) sectors.push_back(sector);
        bytes.push_back(address);
    }
    for (auto* list : {&sectors, &bytes}) {
        std::sort(list->begin(), list->end());
        list->erase(std::unique(list->begin(), list->end()), list->end());
    }
    use->sectors += static_cast<int64_t>(sectors.size());
    use->least_sectors += (static_cast<int64_t>(bytes.size()) * instruction.bytes + 31) / 32;
}

void record(const void* address, int64_t bytes, bool shared, bool write, const void* pc) {
    Instruction& instruction = instructions[reinterpret_cast<uint64_t>(pc) << 5 | static_cast<uint64_t>(self->warp)];
    instruction.shared = shared, instruction.write = write, instruction.bytes = bytes;
    const auto lane = static_cast<size_t>(self->lane);
    const uint32_t execution = instruction.executed[lane]++ - instruction.first;
    if (execution >= instruction.requests.size()) instruction.requests.resize(execution + 1);
    instruction.requests[execution].lanes |= 1u << lane;
    instruction.requests[execution].address[lane] = reinterpret_cast<uint64_t>(address);
    if (instruction.requests[execution].lanes != 0xFFFFFFFFu || execution != 0) return;
    shared ? count_shared(instruction, instruction.requests[0]) : count_global(instruction, instruction.requests[0]);
    instruction.requests.erase(instruction.requests.begin());
    instruction.first++;
}

double ratio(int64_t a, int64_t b) { return b ? static_cast<double>(a) / static_cast<double>(b) : 0; }

void print() {
    std::fprintf(stderr,
                 "\nSIMT_REPORT  bytes of global memory as asked for by threads, sectors of 32 bytes per sector needed, turns of shared "
                 "memory per turn needed\n");
    std::fprintf(stderr, "%10s %14s %14s %9s %9s  kernel\n", "blocks", "bytes read", "bytes written", "sectors", "turns");
    for (const auto& [kernel, u] : uses)
        std::fprintf(stderr, "%10lld %14lld %14lld %9.2f %9.2f  %s\n", static_cast<long long>(u.blocks), static_cast<long long>(u.read),
                     static_cast<long long>(u.written), ratio(u.sectors, u.least_sectors), ratio(u.wavefronts, u.least_wavefronts),
                     name_of_kernel(kernel).c_str());
}

}  // namespace

const bool wanted = [] {
    const bool is = std::getenv("SIMT_REPORT") != nullptr;
    if (is) std::atexit(print);
    return is;
}();

void begin_block(const void* kernel) {
    use = &uses[kernel];
    use->blocks++;
    instructions.clear();
}
void end_block() {
    for (const auto& [key, instruction] : instructions)
        for (const Request& request : instruction.requests)
            if (request.lanes) instruction.shared ? count_shared(instruction, request) : count_global(instruction, request);
}

void shared_access(const void* address, int64_t bytes, const void* pc) { record(address, bytes, true, false, pc); }
void global_access(const void* address, int64_t bytes, bool write, const void* pc) {
    (write ? use->written : use->read) += bytes;
    record(address, bytes, false, write, pc);
}

}  // namespace traincu::simt::report
