// A collective is two pieces of work on its stream: "arrive" takes the rank's input at the time when the stream comes to it; the rest waits
// for all ranks to have arrived, compares what they called, and writes the result. So a forgotten event is seen as it would be on a card,
// by wrong data, and by the runner's own check of accesses. A group's sends and receives are three: the sends are taken, then the receives
// wait for what they need, then the sends wait until they were received.
//
// Sums go round the ring, as NCCL's do: block b begins at rank b+1 and ends at rank b, and bf16 is rounded at each of them. So no test can
// mistake them for sums in the order of ranks.
#include "tests/nccl/operations.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "src/base/dtype.h"
#include "tests/nccl/standin.h"
#include "tests/simt/access.h"
#include "tests/simt/host_work.h"

namespace traincu::nccl_standin {

namespace {

double deadline = [] {
    const char* text = std::getenv("NCCL_STANDIN_SECONDS");
    return text ? std::atof(text) : 20.0;
}();

std::string who_waits(const ncclComm& comm) {
    std::string text = format("after %.3g s", deadline);
    for (int r = 0; r < comm.size; r++) {
        const Place& place = comm.shared->places[r];
        text += format("%s rank %d is in %s", r == 0 ? ":" : ",", r, name_of(static_cast<Kind>(place.waits_for.load())));
        if (place.waits_for != 0) text += format(" (number %lld)", static_cast<long long>(place.wait_number.load()));
    }
    return text;
}

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

}  // namespace

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

int64_t size_of_type(ncclDataType_t type) {
    constexpr int sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return type >= ncclInt8 && type <= ncclBfloat16 ? sizes[type] : 0;
}

void set_deadline(double seconds) { deadline = seconds; }

bool Patience::lost() {
    const auto now = std::chrono::steady_clock::now();
    if (start_ == std::chrono::steady_clock::time_point()) start_ = now;
    return std::chrono::duration<double>(now - start_).count() > deadline;
}

}  // namespace traincu::nccl_standin
