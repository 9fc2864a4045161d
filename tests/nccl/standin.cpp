// NCCL's functions: communicators, groups, and what is refused at once. What streams do is operations.cpp.
#include "tests/nccl/standin.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "src/parallel/comm_nccl.h"
#include "tests/nccl/operations.h"
#include "tests/simt/memory.h"

using namespace traincu;
using namespace traincu::nccl_standin;

namespace {

std::mutex lock;
std::map<ncclComm_t, Comm> comms;  // those that are gone too, so that their use is noticed
std::string last_error;
std::atomic<int> aborted_count = 0;

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

thread_local int group_depth = 0;
thread_local std::vector<Op> group_ops;
thread_local ncclResult_t group_error = ncclSuccess;

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
                  static_cast<long long>(std::chrono::steady_clock::now().time_since_epoch().count()), count++);
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
