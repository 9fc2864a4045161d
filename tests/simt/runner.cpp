#include "tests/simt/runner.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/launch.h"
#include "src/base/error.h"
#include "tests/simt/access.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/names.h"
#include "tests/simt/report.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace traincu::simt {

Block block;  // under way
constinit thread_local Thread* self;
static Stacks stacks;
int thread_of_stack(const void* address) { return stacks.owner(address); }
static void* main_stack;  // of the loop in run_block()

// ---- random numbers: xorshift64*

static uint64_t random_state = [] {
    const char* text = std::getenv("SIMT_SEED");
    return (text ? std::strtoull(text, nullptr, 10) : 1) * 0x9E3779B97F4A7C15u | 1;
}();
void reseed(uint64_t seed) { random_state = seed * 0x9E3779B97F4A7C15u | 1; }
uint32_t below(uint32_t n) {
    random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
    return static_cast<uint32_t>((random_state * 0x2545F4914F6CDD1Du >> 32) * n >> 32);
}

// Of two names that are mostly the same literal.
static bool different(const char* a, const char* b) { return a != b && std::strcmp(a, b) != 0; }

// ---- whose turn it is

// A ready thread: the next lane of the same warp while there is one, since a warp mostly goes in step; else of a warp drawn by chance.
static Thread* choose() {
    while (!block.async_work.empty() &&
           (below(8) == 0 || std::all_of(block.warps.begin(), block.warps.end(), [](const Warp& w) { return !w.ready; }))) {
        const auto which = block.async_work.begin() + below(static_cast<uint32_t>(block.async_work.size()));
        const std::function<void()> work = std::move(*which);
        block.async_work.erase(which);
        work();
    }
    Warp* warp = &block.warps[static_cast<size_t>(block.warp)];
    if (!warp->ready || below(16) == 0) {
        uint32_t others = 0;
        for (size_t w = 0; w < block.warps.size(); w++) others |= (block.warps[w].ready ? 1u : 0u) << w;
        if (!others) return nullptr;
        for (uint32_t skip = below(static_cast<uint32_t>(std::popcount(others))); skip > 0; skip--) others &= others - 1;
        block.warp = std::countr_zero(others);
        warp = &block.warps[static_cast<size_t>(block.warp)];
        warp->next_lane = below(lanes_of_warp);
    }
    const int first = static_cast<int>(warp->next_lane);
    const uint32_t turned = std::rotr(warp->ready, first);
    const int lane = (first + std::countr_zero(turned)) % lanes_of_warp;
    warp->ready &= ~(1u << lane);
    warp->next_lane = static_cast<uint32_t>(lane + 1) % lanes_of_warp;
    return &block.threads[static_cast<size_t>(block.warp * lanes_of_warp + lane)];
}

static void go_on(Thread* thread) {
    self = thread;
    if (thread) threadIdx = thread->index;
}

// The calling thread stands still until someone makes it ready.
void stand_still() {
    Thread* from = self;
    Thread* to = choose();
    if (to == from) {
        go_on(to);
        return;
    }
    go_on(to);
    simt_switch_stack(&from->stack, to ? to->stack : main_stack);
}

void yield() {
    block.warps[static_cast<size_t>(self->warp)].ready |= 1u << self->lane;
    if (++block.idle_turns > 1'000'000) fail("waits in a loop, and no thread of the block does anything else", __builtin_return_address(0));
    stand_still();
}

static void make_ready(Warp& warp, uint32_t lanes) { warp.ready |= lanes, block.idle_turns = 0; }
void make_ready(Thread& thread) { make_ready(block.warps[static_cast<size_t>(thread.warp)], 1u << thread.lane); }

static void thread_main() {
    try {
        block.launch->invoke(block.launch->call);
    } catch (const std::exception& error) {
        fail(std::string("threw an exception: ") + error.what(), nullptr);
    }
    self->waits_for = "nothing", self->ended = true;
    block.alive--;
    Thread* to = choose();
    go_on(to);
    void* nowhere;
    simt_switch_stack(&nowhere, to ? to->stack : main_stack);
    __builtin_unreachable();
}

// ---- failures

bool in_kernel() { return self != nullptr; }

std::string coordinates(const uint3& index) { return format("(%u,%u,%u)", index.x, index.y, index.z); }

static std::string sentence(const std::string& where, const std::string& what) {
    return format("kernel %s, block %s, thread %s%s: %s", name_of_kernel(block.launch->kernel).c_str(), coordinates(blockIdx).c_str(),
                  coordinates(self->index).c_str(), where.c_str(), what.c_str());
}
[[noreturn]] static void abandon(std::string message) {
    block.failure = std::move(message);
    go_on(nullptr);
    void* nowhere;
    simt_switch_stack(&nowhere, main_stack);  // the other threads are never resumed: their stacks are used anew
    __builtin_unreachable();
}
std::string text_of(const Where& at) { return format("%s:%u", at.file_name(), at.line()); }
void fail(const std::string& what, const Where& at) { abandon(sentence(", " + text_of(at), what)); }
void fail(const std::string& what, const void* pc) { abandon(sentence(pc ? ", " + source_line(pc) : "", what)); }

// No thread is ready and not all have ended: says who waits for whom.
static std::string why_stuck() {
    for (Thread& thread : block.threads) {  // first what would be the cause of other waiting
        self = &thread;
        if (!thread.ended && thread.why)
            return sentence(", " + text_of(thread.at), format("waits in %s: %s", thread.waits_for, thread.why().c_str()));
    }
    for (Thread& thread : block.threads) {
        if (thread.ended) continue;
        self = &thread;
        for (int i = thread.scope_first; i < thread.scope_first + thread.scope_count; i++) {
            const Thread& other = block.threads[static_cast<size_t>(i)];
            if (&other == &thread || (thread.mask && !(thread.mask >> other.lane & 1))) continue;
            const bool there = !other.ended && other.mask == thread.mask && !different(other.waits_for, thread.waits_for);
            if (there) continue;
            return sentence(
                ", " + text_of(thread.at),
                format("waits in %s for thread %s, which %s", thread.waits_for, coordinates(other.index).c_str(),
                       other.ended ? "has ended" : format("waits in %s at %s", other.waits_for, text_of(other.at).c_str()).c_str()));
        }
    }
    return "a block stands still";  // not reached: someone would have been missing
}

// ---- meetings of a warp

int lane() { return self->lane; }

void meet(unsigned mask, const char* what, void* operand, void (*complete)(Meeting&, const Where&), const Where& at) {
    Thread* me = self;
    if (!(mask >> me->lane & 1)) fail(format("calls %s with mask 0x%08x, which leaves out its own lane %d", what, mask, me->lane), at);
    Warp& warp = block.warps[static_cast<size_t>(me->warp)];
    if (mask & ~warp.all) fail(format("calls %s with mask 0x%08x, but its warp has the lanes 0x%08x", what, mask, warp.all), at);
    me->waits_for = what, me->mask = mask, me->operand = operand, me->at = at;
    me->scope_first = me->warp * lanes_of_warp, me->scope_count = std::popcount(warp.all);
    warp.meeting |= 1u << me->lane;
    if ((warp.meeting & mask) != mask) {
        stand_still();
        return;
    }
    Meeting meeting{mask, {}};
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const int l = std::countr_zero(rest);
        Thread& other = block.threads[static_cast<size_t>(me->warp * lanes_of_warp + l)];
        if (other.mask != mask || different(other.waits_for, what))
            fail(format("meets in %s, mask 0x%08x, with lane %d, which is in %s, mask 0x%08x, at %s", what, mask, l, other.waits_for,
                        other.mask, text_of(other.at).c_str()),
                 at);
        meeting.operand[l] = other.operand;
    }
    warp.meeting &= ~mask;
    if (complete) complete(meeting, at);
    me->waits_for = "no other thread";
    make_ready(warp, mask & ~(1u << me->lane));
}

void warp_barrier(unsigned mask, const Where& at) {
    meet(
        mask, "__syncwarp", nullptr, [](Meeting& meeting, const Where&) { order_warp(meeting.mask); }, at);
}

namespace {
struct ShuffleOperand {
    uint64_t value, result;
    int source;
};
struct VoteOperand {
    uint64_t value;
    unsigned result;
};
}  // namespace

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int operand, int width, const char* what, const Where& at) {
    if (width < 1 || width > lanes_of_warp || (width & (width - 1))) fail(format("calls %s with a width of %d", what, width), at);
    const int lane = self->lane, first = lane & ~(width - 1), in_segment = lane & (width - 1);
    int source = lane;
    switch (kind) {
        case Shuffle::index:
            source = first + (operand & (width - 1));
            break;
        case Shuffle::up:
            if (in_segment - operand >= 0) source = lane - operand;
            break;
        case Shuffle::down:
            if (in_segment + operand < width) source = lane + operand;
            break;
        case Shuffle::bits:
            if ((lane ^ operand) < first + width) source = lane ^ operand;
            break;
    }
    if (source < 0 || source >= lanes_of_warp) fail(format("calls %s for lane %d", what, source), at);
    if (!(mask >> source & 1)) fail(format("reads in %s lane %d, which mask 0x%08x leaves out", what, source, mask), at);
    ShuffleOperand mine{value, 0, source};
    meet(
        mask, what, &mine,
        [](Meeting& meeting, const Where&) {
            for (uint32_t rest = meeting.mask; rest; rest &= rest - 1) {
                auto& to = *static_cast<ShuffleOperand*>(meeting.operand[std::countr_zero(rest)]);
                to.result = static_cast<ShuffleOperand*>(meeting.operand[to.source])->value;
            }
        },
        at);
    return mine.result;
}

unsigned ballot(unsigned mask, bool predicate, const char* what, const Where& at) {
    VoteOperand mine{predicate, 0};
    meet(
        mask, what, &mine,
        [](Meeting& meeting, const Where&) {
            unsigned votes = 0;
            for (uint32_t rest = meeting.mask; rest; rest &= rest - 1) {
                const int l = std::countr_zero(rest);
                if (static_cast<VoteOperand*>(meeting.operand[l])->value) votes |= 1u << l;
            }
            for (uint32_t rest = meeting.mask; rest; rest &= rest - 1)
                static_cast<VoteOperand*>(meeting.operand[std::countr_zero(rest)])->result = votes;
        },
        at);
    return mine.result;
}

unsigned match_any(unsigned mask, uint64_t value, const Where& at) {
    VoteOperand mine{value, 0};
    meet(
        mask, "__match_any_sync", &mine,
        [](Meeting& meeting, const Where&) {
            for (uint32_t rest = meeting.mask; rest; rest &= rest - 1) {
                auto& to = *static_cast<VoteOperand*>(meeting.operand[std::countr_zero(rest)]);
                for (uint32_t others = meeting.mask; others; others &= others - 1) {
                    const int l = std::countr_zero(others);
                    if (static_cast<VoteOperand*>(meeting.operand[l])->value == to.value) to.result |= 1u << l;
                }
            }
        },
        at);
    return mine.result;
}

// ---- the block's barrier

int block_vote(Vote vote, int predicate, const char* what, const Where& at) {
    Thread* me = self;
    me->waits_for = what, me->mask = 0, me->at = at, me->vote = predicate;
    me->scope_first = 0, me->scope_count = static_cast<int>(block.threads.size());
    if (++block.at_barrier < static_cast<int>(block.threads.size())) {
        stand_still();
        return me->vote;
    }
    // Barriers at two places are two barriers: the threads took different ways here.
    int result = vote == Vote::all;
    for (const Thread& other : block.threads) {
        if (other.at.line() != at.line() || different(other.at.file_name(), at.file_name()) || different(other.waits_for, what))
            fail(format("is at this %s while thread %s is at another: %s at %s", what, coordinates(other.index).c_str(), other.waits_for,
                        text_of(other.at).c_str()),
                 at);
        if (vote == Vote::any) result |= other.vote != 0;
        if (vote == Vote::all) result &= other.vote != 0;
        if (vote == Vote::count) result += other.vote != 0;
    }
    block.at_barrier = 0;
    order_block();
    for (Thread& other : block.threads) other.vote = result, other.waits_for = "no other thread";
    for (Warp& warp : block.warps) make_ready(warp, warp.all);
    block.warps[static_cast<size_t>(me->warp)].ready &= ~(1u << me->lane);
    return result;
}
void block_barrier(const char* what, const Where& at) { block_vote(Vote::any, 0, what, at); }

// ---- shared memory

void* dynamic_shared() { return shared_memory; }
void* static_shared(const void* key, int64_t bytes, int64_t alignment) {
    for (const StaticShared& array : block.arrays)
        if (array.key == key) return shared_memory + array.offset;
    // Behind a gap that belongs to nobody: what runs out of one array is seen.
    constexpr int64_t gap = 256;
    const int64_t offset = (block.shared_end + gap + alignment - 1) / alignment * alignment;
    block.shared_bytes += bytes, block.shared_end = offset + bytes;
    if (block.shared_bytes > gpu::device_info().shared_bytes || block.shared_end > shared_room)
        fail(format("needs more shared memory than a block can have: %lld bytes", static_cast<long long>(block.shared_bytes)), nullptr);
    if (block.shared_bytes > shared_unasked && block.launch->shared_bytes <= gpu::shared_asked_from)
        fail(format("has %lld bytes of shared memory with its static arrays, more than launch() asks for",
                    static_cast<long long>(block.shared_bytes)),
             nullptr);
    block.arrays.push_back({key, offset, bytes});
    begin_shared(shared_memory + offset, bytes);
    return shared_memory + offset;
}

// ---- a block, a grid

static void run_block(const Launch& launch, uint3 index) {
    const int count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    block.launch = &launch;
    block.alive = count, block.at_barrier = 0, block.idle_turns = 0;
    block.arrays.clear();
    block.shared_bytes = block.shared_end = launch.shared_bytes;
    block.threads.resize(static_cast<size_t>(count));
    block.warps.assign(static_cast<size_t>((count + lanes_of_warp - 1) / lanes_of_warp), Warp{});
    stacks.need(count);
    blockIdx = index;
    for (int i = 0; i < count; i++) {
        Thread& thread = block.threads[static_cast<size_t>(i)];
        const unsigned u = static_cast<unsigned>(i), x = launch.block.x, y = launch.block.y;
        thread = Thread{};
        thread.number = i, thread.warp = i / lanes_of_warp, thread.lane = i % lanes_of_warp;
        thread.index = {u % x, u / x % y, u / x / y};
        thread.stack = stacks.start(i, thread_main);
        thread.stack_low = stacks.low(i);
        Warp& warp = block.warps[static_cast<size_t>(thread.warp)];
        warp.all |= 1u << thread.lane, warp.ready = warp.all;
    }
    block.warp = static_cast<int>(below(static_cast<uint32_t>(block.warps.size())));
    block.async_work.clear(), block.clocks = false;
    begin_block_of_hopper();
    begin_shared(shared_memory, launch.shared_bytes);
    begin_block_order();
    if (report::wanted) report::begin_block(launch.kernel);
    if (Thread* first = choose()) {
        go_on(first);
        simt_switch_stack(&main_stack, first->stack);
    }
    if (block.failure.empty() && block.alive > 0) block.failure = why_stuck();
    if (block.failure.empty()) {
        self = &block.threads[0];
        if (const std::string rest = end_block_of_hopper(); !rest.empty()) block.failure = sentence("", rest);
    }
    if (report::wanted) report::end_block();
    self = nullptr;
}

static std::set<const void*> launched_kernels;
std::set<std::string> launched() {
    std::set<std::string> names;
    for (const void* kernel : launched_kernels) names.insert(name_of_kernel(kernel));
    return names;
}

std::string run(const Launch& launch) {
    const uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    if (blocks > 1u << 24)
        return format("kernel %s: a grid of %llu blocks is more than the runner does in a day", name_of_kernel(launch.kernel).c_str(),
                      static_cast<unsigned long long>(blocks));
    std::vector<uint32_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = static_cast<uint32_t>(i);
    for (uint64_t i = blocks; i > 1; i--) std::swap(order[i - 1], order[below(static_cast<uint32_t>(i))]);
    block.failure.clear();
    launched_kernels.insert(launch.kernel);
    begin_launch_order();
    gridDim = launch.grid, blockDim = launch.block;
    for (uint32_t i : order) {
        run_block(launch, {i % launch.grid.x, i / launch.grid.x % launch.grid.y, i / launch.grid.x / launch.grid.y});
        if (!block.failure.empty()) break;
    }
    return std::move(block.failure);
}

}  // namespace traincu::simt
