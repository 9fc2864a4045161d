// What kernels/hopper.h offers, for the runner: mbarriers, TMA, wgmma, barriers of a part of the block.
//
// TMA goes on beside the threads: a copy is done at a time drawn by chance, and until somebody has waited for it nobody may touch its
// memory. A wgmma is computed when the last of its 128 threads has come, but its sums are handed out at wgmma_wait(); until then they are
// NaN.
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "kernels/hopper.h"
#include "src/base/error.h"
#include "tests/simt/access.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"

namespace traincu::simt {

namespace {

constexpr int group_threads = 128;  // of a warpgroup

struct Load {
    const std::byte* panel;
    int64_t bytes;
};
struct Mbarrier {
    int arrivals = 0;          // that end a phase
    bool fenced = false;       // TMA can see that it is initialised
    int by = 0;                // the thread that initialised it
    uint32_t phase = 0;        // how many are over
    int missing = 0;           // arrivals, of this phase
    int64_t bytes = 0;         // expected, less those that came
    Known given, known;        // by those who arrived; of phases that are over
    std::vector<Load> loads;   // that came
    std::vector<Load> landed;  // in phases that are over, and nobody waited yet
    std::vector<Thread*> waiting;
};
struct NamedBarrier {
    int threads = 0, arrived = 0;
    Known given, known;
    std::vector<Thread*> waiting;
};
struct Warpgroup {
    int arrived = 0;
    std::array<float*, group_threads> d{};
    std::array<Wgmma, group_threads> product{};
    std::vector<std::pair<std::shared_ptr<AsyncRead>, int>> reads;  // with their groups
};
struct Store {
    Thread* by;
    std::shared_ptr<AsyncRead> read;
    int group;
    bool done;
};
struct Map {  // what a TensorMap holds here
    const std::byte* memory;
    int64_t size[3], stride[3];  // innermost first; bytes
    int box[3], rank, element;
};
static_assert(sizeof(Map) <= sizeof(gpu::TensorMap));

// of the block
std::map<int64_t, Mbarrier> mbarriers;  // by byte of shared memory
std::array<NamedBarrier, 16> named_barriers;
std::array<Warpgroup, 8> warpgroups;
std::vector<std::shared_ptr<Store>> stores;

int64_t offset_of(const void* shared) { return static_cast<const std::byte*>(shared) - shared_memory; }

// Stands still until good().
template <class Good>
void wait_until(const char* what, const Where& at, std::vector<Thread*>& waiting, std::function<std::string()> why, Good&& good) {
    while (!good()) {
        self->waits_for = what, self->at = at, self->why = why;
        waiting.push_back(self);
        stand_still();
    }
    self->waits_for = "no other thread", self->why = nullptr;
}
void wake(std::vector<Thread*>& waiting) {
    for (Thread* thread : waiting) make_ready(*thread);
    waiting.clear();
}

// ---- mbarriers

Mbarrier& find_mbarrier(const uint64_t* barrier, const char* what, const Where& at) {
    check_shared(barrier, 8, what, at);
    read_access(barrier, 8, true, __builtin_return_address(0));  // in order after its initialisation
    const auto found = mbarriers.find(offset_of(barrier));
    if (found == mbarriers.end())
        fail(format("calls %s for byte %lld of shared memory, where no mbarrier is", what, static_cast<long long>(offset_of(barrier))), at);
    return found->second;
}

void end_phase_if_complete(Mbarrier& barrier) {
    if (barrier.missing > 0 || barrier.bytes != 0) return;
    barrier.phase++, barrier.missing = barrier.arrivals;
    join(barrier.known, barrier.given);
    barrier.given.clear();
    barrier.landed.insert(barrier.landed.end(), barrier.loads.begin(), barrier.loads.end());
    barrier.loads.clear();
    wake(barrier.waiting);
}

// ---- TMA

Map decode(const unsigned char (&bits)[128]) {
    Map map;
    std::memcpy(&map, bits, sizeof map);
    return map;
}

// Calls each(row of the panel, address in global memory or null, bytes of the row that exist) for the rows of a box.
template <class Each>
void for_rows(const Map& map, const std::vector<int>& at, Each&& each) {
    int row = 0;
    const int64_t row_elements = map.box[0];
    for (int z = 0; z < (map.rank == 3 ? map.box[2] : 1); z++)
        for (int y = 0; y < map.box[1]; y++, row++) {
            const int64_t py = at[1] + y, pz = map.rank == 3 ? at[2] + z : 0;
            const bool exists = py >= 0 && py < map.size[1] && (map.rank == 2 || (pz >= 0 && pz < map.size[2]));
            const int64_t first = std::max<int64_t>(at[0], 0), last = std::min<int64_t>(at[0] + row_elements, map.size[0]);
            const std::byte* memory = exists && first < last
                                          ? map.memory + first * map.element + py * map.stride[1] + (map.rank == 3 ? pz * map.stride[2] : 0)
                                          : nullptr;
            each(row, const_cast<std::byte*>(memory), static_cast<int>((first - at[0]) * map.element),
                 memory ? static_cast<int>((last - first) * map.element) : 0);
        }
}
int rows_of(const Map& map) { return map.box[1] * (map.rank == 3 ? map.box[2] : 1); }

void check_panel(const void* panel, const Map& map, size_t rank, const char* what, const Where& at) {
    if (static_cast<size_t>(map.rank) != rank)
        fail(format("calls %s with %d coordinates for a map of %d dimensions", what, static_cast<int>(rank), map.rank), at);
    check_shared(panel, gpu::panel_alignment, what, at);
}

}  // namespace

void begin_block_of_hopper() {
    mbarriers.clear(), stores.clear();
    named_barriers.fill({});
    warpgroups.fill({});
}
std::string end_block_of_hopper() {
    if (!block.async_work.empty()) return "the block ends while a copy of TMA is under way";
    for (const Thread& thread : block.threads)
        if (!thread.accumulators.empty()) return "the block ends while a wgmma is under way";
    if (const char* what = async_read_under_way()) return format("the block ends while a %s is under way", what);
    return "";
}

void mbarrier_init(uint64_t* barrier, int arrivals, const Where& at) {
    begin_clocks();
    check_shared(barrier, 8, "mbarrier_init", at);
    write_access(barrier, 8, true, __builtin_return_address(0));
    Mbarrier& made = mbarriers[offset_of(barrier)] = Mbarrier{};
    made.arrivals = made.missing = arrivals, made.by = self->number;
}
void mbarrier_fence() {
    for (auto& [offset, barrier] : mbarriers)
        if (barrier.by == self->number) barrier.fenced = true;
}
void mbarrier_arrive(uint64_t* at_barrier, int bytes, const Where& at) {
    Mbarrier& barrier = find_mbarrier(at_barrier, "mbarrier_arrive", at);
    if (barrier.missing == 0)
        fail(format("arrives at an mbarrier of %d arrivals, where all have come and bytes are missing", barrier.arrivals), at);
    release(barrier.given);
    barrier.missing--, barrier.bytes += bytes;
    end_phase_if_complete(barrier);
}
void mbarrier_wait(uint64_t* at_barrier, int parity, const Where& at) {
    Mbarrier& barrier = find_mbarrier(at_barrier, "mbarrier_wait", at);
    const auto why = [&barrier, parity, at_barrier] {
        return format(
            "the mbarrier at byte %lld of shared memory is in phase %u, parity %d was asked for; %d arrivals and %lld bytes are missing",
            static_cast<long long>(offset_of(at_barrier)), barrier.phase, parity, barrier.missing, static_cast<long long>(barrier.bytes));
    };
    wait_until("mbarrier_wait", at, barrier.waiting, why, [&] { return static_cast<int>(barrier.phase % 2) != parity; });
    for (const Load& load : barrier.landed) end_async_load(load.panel, load.bytes, barrier.known);
    barrier.landed.clear();
    acquire(barrier.known);
}

void encode_tensor_map(unsigned char (&bits)[128], const void* memory, Dtype dtype, std::initializer_list<int64_t> sizes,
                       std::initializer_list<int64_t> byte_strides, std::initializer_list<int> box) {
    ENSURE((dtype == Dtype::bf16 || dtype == Dtype::f32) && (sizes.size() == 2 || sizes.size() == 3));
    ENSURE(byte_strides.size() + 1 == sizes.size() && box.size() == sizes.size());
    Map map{};
    map.memory = static_cast<const std::byte*>(memory), map.rank = static_cast<int>(sizes.size()),
    map.element = static_cast<int>(size_of(dtype));
    ENSURE(*box.begin() * map.element == gpu::panel_row_bytes);
    bool good = reinterpret_cast<uintptr_t>(memory) % 16 == 0;
    for (size_t i = 0; i < sizes.size(); i++) {
        map.size[i] = sizes.begin()[i], map.box[i] = box.begin()[i], map.stride[i] = i ? byte_strides.begin()[i - 1] : map.element;
        good = good && map.size[i] > 0 && map.size[i] < int64_t{1} << 32 && map.box[i] > 0 && map.box[i] <= 256 &&
               (i == 0 || map.stride[i] % 16 == 0);
    }
    if (!good) throw Error(ExitCode::hardware, "the driver refuses a tensor map");
    std::memset(bits, 0, sizeof bits);
    std::memcpy(bits, &map, sizeof map);
}

void tma_load(void* panel, const unsigned char (&bits)[128], std::initializer_list<int> at_element, uint64_t* at_barrier, const Where& at) {
    const Map map = decode(bits);
    const std::vector<int> from(at_element);
    const void* pc = __builtin_return_address(0);
    check_panel(panel, map, from.size(), "tma_load", at);
    Mbarrier& barrier = find_mbarrier(at_barrier, "tma_load", at);
    if (!barrier.fenced) fail("calls tma_load with an mbarrier that TMA cannot see yet: fence_mbarrier_init() is missing", at);
    for_rows(map, from, [&](int, const std::byte* memory, int, int bytes) {
        if (memory) read_access(memory, bytes, false, pc);
    });
    const int64_t bytes = int64_t{rows_of(map)} * gpu::panel_row_bytes;
    begin_async_write(panel, bytes, pc);
    std::memset(panel, 0xFF, static_cast<size_t>(bytes));
    auto* to = static_cast<std::byte*>(panel);
    block.async_work.push_back([map, from, to, bytes, &barrier] {
        std::memset(to, 0, static_cast<size_t>(bytes));
        for_rows(map, from, [&](int row, const std::byte* memory, int column, int count) {
            for (int i = 0; i < count; i++) to[gpu::swizzled(row, column + i)] = memory[i];
        });
        barrier.loads.push_back({to, bytes});
        barrier.bytes -= bytes;
        end_phase_if_complete(barrier);
    });
}

void tma_store(const unsigned char (&bits)[128], std::initializer_list<int> at_element, const void* panel, const Where& at) {
    begin_clocks();
    const Map map = decode(bits);
    const std::vector<int> to(at_element);
    const void* pc = __builtin_return_address(0);
    check_panel(panel, map, to.size(), "tma_store", at);
    std::vector<int64_t> pieces;
    for (int64_t piece = 0; piece < int64_t{rows_of(map)} * gpu::panel_row_bytes; piece += 16) pieces.push_back(offset_of(panel) + piece);
    const auto store = std::make_shared<Store>(self, begin_async_read(pieces, self->number, 1, "tma_store", at), self->store_groups, false);
    stores.push_back(store);
    for_rows(map, to, [&](int, const std::byte* memory, int, int count) {
        if (memory) write_access(memory, count, false, pc);
    });
    block.async_work.push_back([map, to, panel, store] {
        const auto* from = static_cast<const std::byte*>(panel);
        for_rows(map, to, [&](int row, std::byte* memory, int column, int count) {
            for (int i = 0; i < count; i++) memory[i] = from[gpu::swizzled(row, column + i)];
        });
        store->done = true;
        if (store->by->why) make_ready(*store->by);
    });
}
void tma_store_commit() { self->store_groups++; }
void tma_store_wait(int groups, const Where& at) {
    std::vector<Thread*> nobody;
    for (const auto& store : stores) {
        if (store->by != self || self->store_groups - store->group <= groups) continue;
        wait_until(
            "tma_store_wait", at, nobody, [] { return std::string("a store is under way"); }, [&] { return store->done; });
        end_async_read(*store->read);
    }
    std::erase_if(stores, [&](const auto& store) { return store->read->past(); });
}

// ---- wgmma

namespace {

// The bytes of shared memory of element (i, k) of an operand: i = row of a, column of b.
int64_t element(uint64_t descriptor, bool transposed, int i, int k) {
    const int64_t start = static_cast<int64_t>(descriptor & 0x3FFF) << 4, panel = static_cast<int64_t>(descriptor >> 16 & 0x3FFF) << 4,
                  group = static_cast<int64_t>(descriptor >> 32 & 0x3FFF) << 4;
    const int64_t plain = transposed ? start + i / 64 * panel + i % 64 * 2 + k / 8 * group + k % 8 * gpu::panel_row_bytes
                                     : start + i / 8 * group + i % 8 * gpu::panel_row_bytes + k * 2;
    return plain ^ (plain >> 7 & 7) << 4;  // the swizzle works on the address
}
// Reads it as rows of 16; notes which pieces it touched.
void read_operand(uint64_t descriptor, bool transposed, int rows, float* values, std::vector<int64_t>& pieces) {
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < 16; k++) {
            const int64_t at = element(descriptor, transposed, i, k);
            if (at + 2 > shared_room) continue;  // the check that follows fails
            uint16_t bits;
            std::memcpy(&bits, shared_memory + at, 2);
            values[i * 16 + k] = bf16_to_float(bits);
            if ((transposed ? i : k) % 8 == 0) pieces.push_back(at & ~int64_t{15});
        }
}

void compute(Warpgroup& group, int first_thread, const Where& at) {
    const Wgmma product = group.product[0];
    const int n = product.columns;
    std::vector<float> a(64 * 16), b(static_cast<size_t>(n) * 16), b_rows(16 * static_cast<size_t>(n)), sums(64 * static_cast<size_t>(n));
    std::vector<int64_t> pieces;
    if (product.a_regs)
        for (int t = 0; t < group_threads; t++) {
            const int row = t / 32 * 16 + t % 32 / 4, column = 2 * (t % 4);
            for (int i = 0; i < 4; i++)
                for (int e = 0; e < 2; e++)
                    a[static_cast<size_t>((row + 8 * (i % 2)) * 16 + column + 8 * (i / 2) + e)] =
                        bf16_to_float(static_cast<uint16_t>(group.product[static_cast<size_t>(t)].a_regs[i] >> 16 * e));
        }
    else {
        read_operand(product.a, product.a_transposed, 64, a.data(), pieces);
        group.reads.push_back({begin_async_read(pieces, first_thread, group_threads, "wgmma", at), self->wgmma_groups});
    }
    pieces.clear();
    read_operand(product.b, product.b_transposed, n, b.data(), pieces);
    group.reads.push_back({begin_async_read(pieces, first_thread, group_threads, "wgmma", at), self->wgmma_groups});
    for (int j = 0; j < n; j++)
        for (int k = 0; k < 16; k++) b_rows[static_cast<size_t>(k * n + j)] = b[static_cast<size_t>(j * 16 + k)];
    for (int i = 0; i < 64; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < n; j++)
                sums[static_cast<size_t>(i * n + j)] += a[static_cast<size_t>(i * 16 + k)] * b_rows[static_cast<size_t>(k * n + j)];

    for (int t = 0; t < group_threads; t++) {
        Thread& thread = block.threads[static_cast<size_t>(first_thread + t)];
        float* d = group.d[static_cast<size_t>(t)];
        auto held = std::find_if(thread.accumulators.begin(), thread.accumulators.end(), [&](const Accumulators& x) { return x.d == d; });
        if (held == thread.accumulators.end()) held = thread.accumulators.insert(held, {d, std::vector<float>(d, d + n / 2), 0});
        const int row = t / 32 * 16 + t % 32 / 4, column = 2 * (t % 4);
        for (int e = 0; e < n / 2; e++) {
            const float sum = sums[static_cast<size_t>((row + e / 2 % 2 * 8) * n + 8 * (e / 4) + column + e % 2)];
            held->values[static_cast<size_t>(e)] = (product.accumulate ? held->values[static_cast<size_t>(e)] : 0.0f) + sum;
            d[e] = std::nanf("");
        }
        held->group = self->wgmma_groups;
    }
}

}  // namespace

uint64_t wgmma_operand(const void* panel, int panel_bytes, const Where& at) {
    const int64_t offset = offset_of(panel);
    check_shared(panel, 16, "wgmma_operand", at);
    if (offset >= 1 << 18) fail("calls wgmma_operand for a panel beyond what a descriptor can name", at);
    return static_cast<uint64_t>(offset >> 4) | static_cast<uint64_t>(panel_bytes >> 4) << 16 | uint64_t{1024 >> 4} << 32 |
           uint64_t{1} << 62;
}

void wgmma(float* d, const Wgmma& product, const Where& at) {
    begin_clocks();
    Thread* me = self;
    const auto which = static_cast<size_t>(me->number / group_threads);
    const int first = static_cast<int>(which) * group_threads;
    if (first + group_threads > static_cast<int>(block.threads.size())) fail("calls wgmma in a warpgroup of less than 128 threads", at);
    if (std::find(me->wgmma_fenced.begin(), me->wgmma_fenced.end(), d) == me->wgmma_fenced.end())
        fail("calls wgmma with an array that no wgmma_fence() since the last wgmma_wait() names", at);
    Warpgroup& group = warpgroups[which];
    const auto slot = static_cast<size_t>(me->number - first);
    group.d[slot] = d, group.product[slot] = product;
    me->waits_for = "wgmma", me->mask = 0, me->at = at, me->scope_first = first, me->scope_count = group_threads;
    if (++group.arrived < group_threads) {
        stand_still();
        return;
    }
    group.arrived = 0;
    for (int t = 0; t < group_threads; t++) {
        const Thread& other = block.threads[static_cast<size_t>(first + t)];
        const Wgmma& theirs = group.product[static_cast<size_t>(t)];
        if (other.at.line() != at.line() || theirs.columns != product.columns || theirs.a != product.a || theirs.b != product.b ||
            theirs.accumulate != product.accumulate || !theirs.a_regs != !product.a_regs || other.wgmma_groups != me->wgmma_groups)
            fail(format("calls a wgmma other than thread %s's at %s", coordinates(other.index).c_str(), text_of(other.at).c_str()), at);
    }
    if (product.b >> 62 != 1 || (!product.a_regs && product.a >> 62 != 1)) fail("calls wgmma with no descriptor of wgmma_operand()", at);
    compute(group, first, at);
    for (int t = 0; t < group_threads; t++) {
        Thread& other = block.threads[static_cast<size_t>(first + t)];
        other.waits_for = "no other thread";
        if (&other != me) make_ready(other);
    }
}
void wgmma_fence(std::initializer_list<const void*> arrays) {
    self->wgmma_fenced.insert(self->wgmma_fenced.end(), arrays.begin(), arrays.end());
}
void wgmma_commit() { self->wgmma_groups++; }
void wgmma_wait(int groups, std::initializer_list<const void*> arrays) {
    const void* pc = __builtin_return_address(0);
    Thread* me = self;
    const auto past = [&](int group) { return me->wgmma_groups - group > groups; };
    for (Accumulators& accumulators : me->accumulators) {
        const bool named = std::find(arrays.begin(), arrays.end(), accumulators.d) != arrays.end();
        if (past(accumulators.group) != named)
            fail(named ? "names an array in wgmma_wait() whose wgmma is still under way"
                       : "does not name an array in wgmma_wait() whose wgmma it ends: the compiler may use it too early",
                 pc);
        if (named) std::copy(accumulators.values.begin(), accumulators.values.end(), accumulators.d);
    }
    std::erase_if(me->accumulators, [&](const Accumulators& accumulators) { return past(accumulators.group); });
    Warpgroup& group = warpgroups[static_cast<size_t>(me->number / group_threads)];
    for (auto& [read, its_group] : group.reads)
        if (past(its_group)) end_async_read(*read);
    std::erase_if(group.reads, [](const auto& read) { return read.first->past(); });
    me->wgmma_fenced.clear();
}

// ---- barriers of a part of the block

void named_barrier(int id, int threads, bool wait, const Where& at) {
    begin_clocks();
    if (id < 1 || id > 15 || threads % lanes_of_warp || threads < lanes_of_warp)
        fail(format("calls a named barrier %d of %d threads: ids are 1 to 15, threads come in whole warps", id, threads), at);
    NamedBarrier& barrier = named_barriers[static_cast<size_t>(id)];
    if (barrier.arrived > 0 && barrier.threads != threads)
        fail(format("comes to named barrier %d with %d threads, others with %d", id, threads, barrier.threads), at);
    barrier.threads = threads;
    release(barrier.given);
    barrier.arrived++;
    if (barrier.arrived == threads) {
        barrier.arrived = 0;
        join(barrier.known, barrier.given);
        barrier.given.clear();
        wake(barrier.waiting);
        if (wait) acquire(barrier.known);
        return;
    }
    if (!wait) return;
    bool past = false;
    const auto why = [&barrier, id] { return format("named barrier %d has %d of %d threads", id, barrier.arrived, barrier.threads); };
    wait_until("named_barrier_sync", at, barrier.waiting, why, [&] { return std::exchange(past, true); });
    acquire(barrier.known);
}

}  // namespace traincu::simt
