// NCCL's functions over memory that processes share. A collective is two pieces of work on its stream: "arrive" takes the rank's input at
// the time when the stream comes to it; the rest waits for all ranks to have arrived, compares what they called, and writes the result. So
// a forgotten event is seen as it would be on a card, by wrong data, and by the runner's own check of accesses. A group's sends and
// receives are three: the sends are taken, then the receives wait for what they need, then the sends wait until they were received.
//
// Sums go round the ring, as NCCL's do: block b begins at rank b+1 and ends at rank b, and bf16 is rounded at each of them. So no test can
// mistake them for sums in the order of ranks.
#include "tests/nccl/standin.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "src/base/dtype.h"
#include "src/parallel/comm_nccl.h"
#include "tests/nccl/board.h"
#include "tests/simt/access.h"
#include "tests/simt/host_work.h"
#include "tests/simt/memory.h"

using namespace traincu;
using namespace traincu::nccl_standin;
using StandinClock = std::chrono::steady_clock;

struct ncclComm {
    ncclComm(std::string its_path, int its_rank, int its_size)
        : path(std::move(its_path)), rank(its_rank), size(its_size), shared(path, size) {}

    const std::string path;
    const int rank, size;
    Shared shared;
    cudaStream_t stream = nullptr;  // of its first operation

    // put in line so far
    int64_t collectives = 0, meetings = 0, splits = 0;
    std::array<int64_t, most_ranks> sent{}, received{};
    std::atomic<int64_t> under_way = 0;  // pieces of work

    std::atomic<int> error = ncclSuccess;  // the asynchronous one
    std::atomic<bool> aborted = false, destroyed = false;
};

namespace {

using Comm = std::shared_ptr<ncclComm>;

std::mutex lock;
std::map<ncclComm_t, Comm> comms;  // those that are gone too, so that their use is noticed
std::string last_error;
std::atomic<int> aborted_count = 0;

double deadline = [] {
    const char* text = std::getenv("NCCL_STANDIN_SECONDS");
    return text ? std::atof(text) : 20.0;
}();

ncclResult_t refuse(ncclResult_t result, const std::string& why) {
    const std::lock_guard guard(lock);
    last_error = why;
    return result;
}

// Null, and the error is kept, where it may not be used.
Comm usable(ncclComm_t handle, const char* function) {
    Comm comm;
    {
        const std::lock_guard guard(lock);
        if (const auto found = comms.find(handle); found != comms.end()) comm = found->second;
    }
    const char* why = !comm             ? "of what is no communicator"
                      : comm->aborted   ? "after ncclCommAbort"
                      : comm->destroyed ? "after ncclCommDestroy"
                                        : nullptr;
    if (!why) return comm;
    refuse(ncclInvalidArgument, format("%s %s", function, why));
    return nullptr;
}

int64_t size_of_type(ncclDataType_t type) {
    constexpr int sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return type >= ncclInt8 && type <= ncclBfloat16 ? sizes[type] : 0;
}

// ---- waiting for other processes

// Asked again and again until it says yes.
class Patience {
public:
    bool lost() {
        if (start_ == StandinClock::time_point()) start_ = StandinClock::now();
        return std::chrono::duration<double>(StandinClock::now() - start_).count() > deadline;
    }

private:
    StandinClock::time_point start_;
};

std::string who_waits(const ncclComm& comm) {
    std::string text = format("after %.3g s", deadline);
    for (int r = 0; r < comm.size; r++) {
        const Place& place = comm.shared->places[r];
        text += format("%s rank %d is in %s", r == 0 ? ":" : ",", r, name_of(static_cast<Kind>(place.waits_for.load())));
        if (place.waits_for != 0) text += format(" (number %lld)", static_cast<long long>(place.wait_number.load()));
    }
    return text;
}

// The hosts of all ranks meet; each learns the two words that the others bring.
std::string meet(ncclComm& comm, std::array<int64_t, 2> mine, std::vector<std::array<int64_t, 2>>& all) {
    const int64_t number = comm.meetings++;
    Place& place = comm.shared->places[comm.rank];
    std::memcpy(place.words[number % 2], mine.data(), sizeof mine);
    place.met = number + 1;
    Patience patience;
    all.resize(static_cast<size_t>(comm.size));
    for (int r = 0; r < comm.size; r++) {
        Place& other = comm.shared->places[r];
        while (other.met <= number) {
            if (patience.lost()) return format("rank %d did not come to a meeting of the communicator's ranks", r);
            std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
        std::memcpy(all[static_cast<size_t>(r)].data(), other.words[number % 2], sizeof mine);
    }
    return "";
}

ncclResult_t new_comm(ncclComm_t* result, const std::string& path, int rank, int size) {
    const auto comm = std::make_shared<ncclComm>(path, rank, size);
    std::vector<std::array<int64_t, 2>> all;
    if (const std::string why = meet(*comm, {size, rank}, all); !why.empty()) return refuse(ncclSystemError, why);
    comm->shared.attached(size);
    for (const auto& [their_size, their_rank] : all)
        if (their_size != size) return refuse(ncclInvalidArgument, "the ranks disagree about the communicator's size");
    const std::lock_guard guard(lock);
    comms[comm.get()] = comm;
    *result = comm.get();
    return ncclSuccess;
}

// ---- operations

struct Op {
    Call call;
    const void* in;
    void* out;
    int64_t in_bytes, out_bytes;
    int peer;
    Comm comm;
    cudaStream_t stream;
};

thread_local int group_depth = 0;
thread_local std::vector<Op> group_ops;
thread_local ncclResult_t group_error = ncclSuccess;

// One piece of work on the stream. ready: what must have happened in other processes. run: its failure, or nothing.
void put_in_line(const Op& op, int64_t number, std::function<bool()> ready, std::function<std::string()> run,
                 const std::vector<std::pair<void*, int64_t>>& outputs) {
    const Comm comm = op.comm;
    comm->under_way++;
    Place& place = comm->shared->places[comm->rank];
    const auto patience = std::make_shared<Patience>();
    const auto able = [=] { return comm->error == ncclSuccess && ready(); };
    const auto may_begin = [=, &place] {
        place.wait_number = number, place.waits_for = static_cast<int32_t>(op.call.kind);
        return comm->aborted || comm->shared->broken == 2 || able() || patience->lost();
    };
    const auto work = [=, &place]() -> std::string {
        comm->under_way--;
        std::string failure;
        if (comm->aborted) {
            for (const auto& [memory, bytes] : outputs) simt::host_fill(memory, 0xFF, bytes);  // nobody knows what is there
        } else {
            failure = comm->shared->broken == 2 ? comm->shared.broken()
                      : able()                  ? run()
                                                : "NCCL's stand-in: nothing moves " + who_waits(*comm);
            if (!failure.empty()) comm->shared.break_down(failure);
        }
        place.waits_for = 0;
        return failure;
    };
    simt::enqueue_host(op.stream, name_of(op.call.kind), work, may_begin);
}

// To the result of element i of the ring's block b: from rank b+1 on, and round to b.
template <class T, class Add>
void around_the_ring(std::byte* out, const std::vector<const std::byte*>& in, int64_t first, int64_t n, size_t block, Add add) {
    for (int64_t i = 0; i < n; i++) {
        T result{};
        for (size_t k = 1; k <= in.size(); k++) {
            T x;
            std::memcpy(&x, in[(block + k) % in.size()] + (first + i) * static_cast<int64_t>(sizeof x), sizeof x);
            result = k == 1 ? x : add(result, x);
        }
        std::memcpy(out + i * static_cast<int64_t>(sizeof result), &result, sizeof result);
    }
}
// Of floats NaN is dropped: NCCL promises nothing about it.
template <class T>
T largest(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        return std::fmax(a, b);
    else
        return std::max(a, b);
}
std::string reduce(std::byte* out, const std::vector<const std::byte*>& in, int64_t first, int64_t n, size_t block, const Call& call) {
    const auto with_type = [&]<class T>(T) -> std::string {
        if (call.op == ncclSum)
            around_the_ring<T>(out, in, first, n, block, [](T a, T b) { return static_cast<T>(a + b); });
        else if (call.op == ncclMax)
            around_the_ring<T>(out, in, first, n, block, [](T a, T b) { return largest(a, b); });
        else
            return "NCCL's stand-in has sums and maxima only";
        return "";
    };
    switch (call.dtype) {
        case ncclInt32:
            return with_type(int32_t{});
        case ncclInt64:
            return with_type(int64_t{});
        case ncclFloat32:
            return with_type(float{});
        case ncclFloat64:
            return with_type(double{});
        case ncclBfloat16:
            around_the_ring<uint16_t>(out, in, first, n, block, [&](uint16_t a, uint16_t b) {
                const float x = bf16_to_float(a), y = bf16_to_float(b);
                return float_to_bf16(call.op == ncclSum ? x + y : largest(x, y));
            });
            return "";
        default:
            return "NCCL's stand-in does not add " + call.text();
    }
}

std::string finish(const Op& op, int64_t number) {
    const ncclComm& comm = *op.comm;
    const auto size = static_cast<size_t>(comm.size);
    std::vector<const std::byte*> in(size);
    for (int r = 0; r < comm.size; r++) {
        const Call& theirs = comm.shared->places[r].calls[number % 2];
        if (theirs != op.call)
            return format("NCCL's stand-in: the ranks disagree about collective %lld: rank %d calls %s, rank %d calls %s",
                          static_cast<long long>(number), comm.rank, op.call.text().c_str(), r, theirs.text().c_str());
        in[static_cast<size_t>(r)] = comm.shared.data(r, number % 2);
    }
    const int64_t n = op.call.count, s = size_of_type(static_cast<ncclDataType_t>(op.call.dtype));
    std::vector<std::byte> out(static_cast<size_t>(op.out_bytes));
    std::string failure;
    switch (op.call.kind) {
        case Kind::all_gather:
            for (size_t r = 0; r < size && n > 0; r++)
                std::memcpy(out.data() + static_cast<int64_t>(r) * n * s, in[r], static_cast<size_t>(n * s));
            break;
        case Kind::broadcast:
            if (n > 0) std::memcpy(out.data(), in[static_cast<size_t>(op.call.root)], out.size());
            break;
        case Kind::reduce_scatter:
            failure = reduce(out.data(), in, comm.rank * n, n, static_cast<size_t>(comm.rank), op.call);
            break;
        default:
            for (size_t b = 0; b < size && failure.empty(); b++) {
                const int64_t begin = n * static_cast<int64_t>(b) / comm.size, end = n * static_cast<int64_t>(b + 1) / comm.size;
                failure = reduce(out.data() + begin * s, in, begin, end - begin, b, op.call);
            }
    }
    if (failure.empty() && op.out_bytes > 0) simt::host_copy(op.out, out.data(), op.out_bytes);
    return failure;
}

void launch_collective(const Op& op) {
    ncclComm& comm = *op.comm;
    const int64_t number = comm.collectives++;
    put_in_line(
        op, number, [] { return true; },
        [=]() -> std::string {
            Place& place = op.comm->shared->places[op.comm->rank];
            place.calls[number % 2] = op.call;
            if (op.in_bytes > 0 && (op.call.kind != Kind::broadcast || op.call.root == op.comm->rank))
                simt::host_copy(op.comm->shared.data(op.comm->rank, number % 2), op.in, op.in_bytes);
            place.arrived = number + 1;
            return "";
        },
        {});
    put_in_line(
        op, number,
        [=] {
            for (int r = 0; r < op.comm->size; r++)
                if (op.comm->shared->places[r].arrived <= number) return false;
            return true;
        },
        [=] { return finish(op, number); }, {{op.out, op.out_bytes}});
}

// All sends and receives of a group on one communicator.
void launch_messages(const Comm& comm, const std::vector<Op>& ops) {
    std::vector<Op> sends, receives;
    std::vector<std::pair<void*, int64_t>> outputs;
    for (const Op& op : ops) {
        (op.call.kind == Kind::send ? sends : receives).push_back(op);
        (op.call.kind == Kind::send ? comm->sent : comm->received)[static_cast<size_t>(op.peer)]++;
        if (op.call.kind == Kind::receive) outputs.push_back({op.out, op.out_bytes});
    }
    const auto to_be_sent = comm->sent, to_be_received = comm->received;
    const auto channel = [comm](int from, int to) -> Channel& { return comm->shared->channels[from][to]; };
    const int me = comm->rank;
    Op send = ops[0], receive = ops[0];
    send.call.kind = Kind::send, receive.call.kind = Kind::receive;
    put_in_line(
        send, 0, [] { return true; },
        [=]() -> std::string {
            int64_t offset = 0;
            for (const Op& op : sends) {
                Channel& to = channel(me, op.peer);
                simt::host_copy(comm->shared.data(me, 2) + offset, op.in, op.in_bytes);
                to.messages[to.sent % most_messages] = {op.in_bytes, offset, op.call.dtype};
                to.sent++;
                offset += (op.in_bytes + 63) / 64 * 64;
            }
            return "";
        },
        {});
    put_in_line(
        receive, 0,
        [=] {
            for (int r = 0; r < comm->size; r++)
                if (channel(r, me).sent < to_be_received[static_cast<size_t>(r)]) return false;
            return true;
        },
        [=]() -> std::string {
            for (const Op& op : receives) {
                Channel& from = channel(op.peer, me);
                const auto& message = from.messages[from.taken % most_messages];
                if (message.bytes != op.out_bytes || message.dtype != op.call.dtype) {
                    Call theirs = op.call;
                    theirs.kind = Kind::send, theirs.dtype = message.dtype;
                    theirs.count = message.bytes / size_of_type(static_cast<ncclDataType_t>(message.dtype));
                    return format("NCCL's stand-in: message %lld from rank %d to rank %d: the one calls %s, the other %s",
                                  static_cast<long long>(from.taken.load()), op.peer, me, theirs.text().c_str(), op.call.text().c_str());
                }
                simt::host_copy(op.out, comm->shared.data(op.peer, 2) + message.offset, message.bytes);
                from.taken++;
            }
            return "";
        },
        outputs);
    put_in_line(
        send, 0,
        [=] {
            for (int r = 0; r < comm->size; r++)
                if (channel(me, r).taken < to_be_sent[static_cast<size_t>(r)]) return false;
            return true;
        },
        [] { return std::string(); }, {});
}

bool on_device(const void* memory, int64_t bytes) {
    if (bytes == 0) return true;
    const simt::Allocation* allocation = simt::of_the_runner(memory) ? simt::find(memory) : nullptr;
    const auto* begin = static_cast<const std::byte*>(memory);
    return allocation && allocation->live && allocation->kind != simt::Kind::pinned && begin >= allocation->begin &&
           begin + bytes <= allocation->begin + allocation->bytes;
}
bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
    const auto *x = static_cast<const std::byte*>(a), *y = static_cast<const std::byte*>(b);
    return x < y + b_bytes && y < x + a_bytes;
}

// What is wrong with it; empty: nothing.
std::string fault_of(const Op& op) {
    const ncclComm& comm = *op.comm;
    const bool message = op.call.kind == Kind::send || op.call.kind == Kind::receive;
    if (size_of_type(static_cast<ncclDataType_t>(op.call.dtype)) == 0) return "an unknown type";
    if (op.peer < 0 || op.peer >= comm.size) return "a rank that the communicator does not have";
    if (!op.stream) return "no stream";
    if (comm.stream && comm.stream != op.stream) return "another stream than before: the stand-in wants one for each communicator";
    if (!on_device(op.in, op.in_bytes)) return "an input that is not all in the device's memory";
    if (!on_device(op.out, op.out_bytes)) return "an output that is not all in the device's memory";
    if (op.in_bytes > room) return "more than the stand-in can carry";
    if (message && group_depth == 0) return "outside of a group: two ranks that send first would wait for each other";
    const auto* in = static_cast<const std::byte*>(op.in);
    const auto* out = static_cast<const std::byte*>(op.out);
    if (!message && overlap(in, op.in_bytes, out, op.out_bytes)) {
        const bool in_place = op.call.kind == Kind::all_gather       ? in == out + comm.rank * op.in_bytes
                              : op.call.kind == Kind::reduce_scatter ? out == in + comm.rank * op.out_bytes
                                                                     : in == out;
        if (!in_place) return "input and output overlap, and not as the documentation allows it";
    }
    return "";
}

ncclResult_t submit(Kind kind, const void* in, void* out, size_t count, ncclDataType_t type, int op, int root, int peer, int64_t in_blocks,
                    int64_t out_blocks, ncclComm_t handle, cudaStream_t stream) {
    const auto refused = [](ncclResult_t result) { return group_depth > 0 ? group_error = result : result; };
    const Comm comm = usable(handle, name_of(kind));
    if (!comm) return refused(ncclInvalidArgument);
    const int64_t bytes = static_cast<int64_t>(count) * size_of_type(type);
    const auto blocks = [&](int64_t n) { return n < 0 ? comm->size * bytes : n * bytes; };  // -1: one for each rank
    const Op submitted{{kind, static_cast<int32_t>(type), op, root, static_cast<int64_t>(count)},
                       in,
                       out,
                       blocks(in_blocks),
                       blocks(out_blocks),
                       peer,
                       comm,
                       stream};
    if (const std::string why = fault_of(submitted); !why.empty())
        return refused(refuse(ncclInvalidArgument, format("%s: %s", name_of(kind), why.c_str())));
    comm->stream = stream;
    if (group_depth > 0)
        group_ops.push_back(submitted);
    else
        launch_collective(submitted);
    return ncclSuccess;
}

}  // namespace

namespace traincu::nccl_standin {

void inject_error(ncclResult_t error) {
    const std::lock_guard guard(lock);
    for (const auto& [handle, comm] : comms) comm->error = error;
}
void set_deadline(double seconds) { deadline = seconds; }
int aborted_communicators() { return aborted_count; }

}  // namespace traincu::nccl_standin

std::string traincu::nccl_library_missing() { return ""; }

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
    constexpr const char* texts[] = {"no error",
                                     "unhandled cuda error",
                                     "unhandled system error",
                                     "internal error",
                                     "invalid argument",
                                     "invalid usage",
                                     "remote process exited or there was a network error",
                                     "operation in progress"};
    return texts[result];
}
const char* ncclGetLastError(ncclComm_t) {
    static thread_local std::string copy;
    const std::lock_guard guard(lock);
    return (copy = last_error).c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    static int count = 0;
    const char* folder = std::getenv("TMPDIR");
    std::snprintf(id->internal, sizeof id->internal, "%s/traincu_nccl_%d_%lld_%d", folder ? folder : "/tmp", static_cast<int>(getpid()),
                  static_cast<long long>(StandinClock::now().time_since_epoch().count()), count++);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* result, int size, ncclUniqueId id, int rank) {
    if (size < 1 || size > most_ranks || rank < 0 || rank >= size)
        return refuse(ncclInvalidArgument, format("ncclCommInitRank: rank %d of %d", rank, size));
    if (group_depth > 0) return refuse(ncclInvalidUsage, "ncclCommInitRank inside of a group");
    return new_comm(result, id.internal, rank, size);
}

ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* result, ncclConfig_t*) {
    const Comm comm = usable(handle, "ncclCommSplit");
    if (!comm) return ncclInvalidArgument;
    if (group_depth > 0) return refuse(ncclInvalidUsage, "ncclCommSplit inside of a group");
    if (comm->under_way > 0) return refuse(ncclInvalidUsage, "ncclCommSplit while operations are under way");
    std::vector<std::array<int64_t, 2>> all;
    if (const std::string why = meet(*comm, {color, key}, all); !why.empty()) return refuse(ncclSystemError, why);
    int rank = 0, size = 0;
    for (int r = 0; r < comm->size; r++) {
        const auto& [their_color, their_key] = all[static_cast<size_t>(r)];
        if (their_color != color) continue;
        size++;
        if (their_key < key || (their_key == key && r < comm->rank)) rank++;
    }
    const std::string path = format("%s_%lld.%d", comm->path.c_str(), static_cast<long long>(comm->splits++), color);
    *result = nullptr;
    return color < 0 ? ncclSuccess : new_comm(result, path, rank, size);
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
    const Comm comm = usable(handle, "ncclCommDestroy");
    if (!comm) return ncclInvalidArgument;
    if (group_depth > 0) return refuse(ncclInvalidUsage, "ncclCommDestroy inside of a group");
    if (comm->under_way > 0) return refuse(ncclInvalidUsage, "ncclCommDestroy while operations are under way");
    comm->destroyed = true;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
    const Comm comm = usable(handle, "ncclCommAbort");
    if (!comm) return ncclInvalidArgument;
    comm->aborted = true;
    aborted_count++;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
    const Comm comm = usable(handle, "ncclCommGetAsyncError");
    if (!comm) return ncclInvalidArgument;
    *error = static_cast<ncclResult_t>(comm->error.load());
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t handle, int* rank) {
    const Comm comm = usable(handle, "ncclCommUserRank");
    if (!comm) return ncclInvalidArgument;
    return *rank = comm->rank, ncclSuccess;
}

ncclResult_t ncclGroupStart() { return group_depth++, ncclSuccess; }

ncclResult_t ncclGroupEnd() {
    if (group_depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--group_depth > 0) return ncclSuccess;
    const std::vector<Op> ops = std::move(group_ops);
    const ncclResult_t error = std::exchange(group_error, ncclSuccess);
    group_ops.clear();
    if (error != ncclSuccess) return error;
    std::map<ncclComm_t, std::vector<Op>> messages;
    std::map<ncclComm_t, std::array<int, 2 * most_ranks>> counts;
    std::map<ncclComm_t, int64_t> bytes;
    for (const Op& op : ops) {
        if (op.call.kind != Kind::send && op.call.kind != Kind::receive) {
            launch_collective(op);
            continue;
        }
        messages[op.comm.get()].push_back(op);
        if (++counts[op.comm.get()][static_cast<size_t>(op.peer + (op.call.kind == Kind::send ? most_ranks : 0))] > most_messages ||
            (bytes[op.comm.get()] += op.in_bytes + 63) > room)
            return refuse(ncclInvalidUsage, "a group of more than the stand-in can carry");
    }
    for (const auto& [handle, its_messages] : messages) launch_messages(its_messages[0].comm, its_messages);
    return ncclSuccess;
}

ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    return submit(Kind::send, in, nullptr, count, type, -1, -1, peer, 1, 0, comm, stream);
}
ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    return submit(Kind::receive, nullptr, out, count, type, -1, -1, peer, 0, 1, comm, stream);
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
    return submit(Kind::all_gather, in, out, count, type, -1, -1, 0, 1, -1, comm, stream);
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream) {
    return submit(Kind::reduce_scatter, in, out, count, type, op, -1, 0, -1, 1, comm, stream);
}
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
    return submit(Kind::all_reduce, in, out, count, type, op, -1, 0, 1, 1, comm, stream);
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
    return submit(Kind::broadcast, in, out, count, type, -1, root, root, 1, 1, comm, stream);
}
}
