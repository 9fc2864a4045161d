// How an operation runs. Each communicator has a stream of its own beside the caller's, so that communication and computation overlap:
//
//   begin   the side stream waits for an event on the caller's stream, where the inputs are ready and the output's old readers are through;
//           NCCL's work goes on the side stream; an event behind it
//   wait    the caller's stream waits for that event. The host waits nowhere
//
// A communicator's operations run one after another, those of several communicators at once.
//
// Sums. NCCL adds f32, f64 and integers in the order of its ring, which is fixed while the ring is: NCCL_ALGO=Ring, and no NVLS, whose
// sums may differ between calls. (With two ranks any order gives the same bits; with more they differ from the MPI engine's.) What NCCL
// does otherwise than comm.h promises is done here: its bf16 sums are rounded to bf16 at every rank, and its largest float drops NaN or not
// as the version likes. So for sums of bf16, and for the largest of floats, ranks send each other their parts as they are, and a kernel
// takes them in the order of ranks (kernels/reduce_ranks.h): the same bits as the MPI engine's. That sends as many bytes as a ring.
// The parts that came lie in scratch memory, so what is longer goes piece by piece.
#include "src/parallel/comm_nccl.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "kernels/reduce_ranks.h"
#include "src/parallel/nccl_watch.h"

namespace traincu {

namespace {

ncclDataType_t nccl_type(Dtype dtype) {
    switch (dtype) {
        case Dtype::f32:
            return ncclFloat32;
        case Dtype::f64:
            return ncclFloat64;
        case Dtype::i32:
            return ncclInt32;
        case Dtype::i64:
            return ncclInt64;
        default:
            ENSURE(!"a type that NCCL adds as comm.h promises");
            return ncclUint8;
    }
}

// Sends and receives that NCCL starts together: none waits for another.
class Group {
public:
    Group() { check_nccl(ncclGroupStart(), "ncclGroupStart"); }
    ~Group() {
        if (open_) ncclGroupEnd();  // an exception is under way
    }
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;
    void end() {
        open_ = false;
        check_nccl(ncclGroupEnd(), "ncclGroupEnd");
    }

private:
    bool open_ = true;
};

class NcclOperation final : public Pending::Operation {
public:
    NcclOperation(NcclWatch& watch, std::shared_ptr<NcclWatch::Flight> flight) : watch_(watch), flight_(std::move(flight)) {}
    void wait(Stream& stream) override {
        ENSURE(stream.on_gpu());
        watch_.check();
        gpu::wait(stream.handle(), flight_->ended);
    }

private:
    NcclWatch& watch_;
    std::shared_ptr<NcclWatch::Flight> flight_;
};

// What the communicators of one family share.
struct Engine {
    explicit Engine(const NcclSettings& s) : settings(s), watch(s.timeout_seconds) {}
    NcclSettings settings;
    NcclWatch watch;
};

std::vector<Communicator::Member> members_of(const Communicator& comm) {
    std::vector<Communicator::Member> members;
    for (int r = 0; r < comm.size(); r++) members.push_back({comm.world_rank_of(r), comm.node_of(r)});
    return members;
}

class NcclCommunicator final : public Communicator {
public:
    NcclCommunicator(ncclComm_t comm, std::shared_ptr<Communicator> host, std::string name, std::shared_ptr<Engine> engine)
        : Communicator(host->rank(), members_of(*host), std::shared_ptr<Traffic>(host, &host->traffic())),
          comm_(comm),
          host_(std::move(host)),
          name_(std::move(name)),
          engine_(std::move(engine)),
          side_(Device::cuda, 256),
          ready_(gpu::create_event()) {
        int nccl_rank = -1;
        check_nccl(ncclCommUserRank(comm_, &nccl_rank), "ncclCommUserRank");
        ENSURE(nccl_rank == rank());
        engine_->watch.add(comm_);
    }
    ~NcclCommunicator() override {
        bool failed = std::uncaught_exceptions() > 0 || engine_->watch.failed();
        if (!failed) {  // nothing may be under way
            try {
                side_.synchronize();
                failed = engine_->watch.failed();
            } catch (const Error&) {
                failed = true;
            }
        }
        if (engine_->watch.remove(comm_)) failed ? ncclCommAbort(comm_) : ncclCommDestroy(comm_);
        gpu::destroy_event(ready_);
        if (scratch_) gpu::release(scratch_);
    }

    void progress() override {
        host_->progress();
        engine_->watch.check();
    }

    void barrier(Stream& stream) override {
        if (!stream.on_gpu()) return host_->barrier(stream);
        const Tensor token(side_.workspace(4), Dtype::i32, {1});  // nobody looks at it
        const auto start = std::chrono::steady_clock::now();
        begin_all_reduce(token, Reduce::max, stream).wait(stream);
        stream.synchronize();
        traffic().waited_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        engine_->watch.check();
    }

    std::unique_ptr<Communicator> split(int color, int key, const std::string& name) override {
        ENSURE(color >= 0);
        std::shared_ptr<Communicator> part = host_->split(color, key, name);
        side_.synchronize();  // nothing may be under way
        ncclComm_t comm = nullptr;
        {
            const NcclWatch::Call call(engine_->watch, "the split of the " + name_ + " communicator");
            check_nccl(ncclCommSplit(comm_, color, key, &comm, nullptr), "ncclCommSplit");
        }
        return std::make_unique<NcclCommunicator>(comm, std::move(part), name, engine_);
    }

private:
    // ---- a host's stream: the host's engine, which counts the bytes again
    template <class Begin>
    Pending on_host(Begin&& begin) {
        const auto sent = traffic().sent;
        Pending pending = begin(*host_);
        traffic().sent = sent;
        return pending;
    }

    // put(): NCCL's work on the side stream.
    template <class Put>
    Pending begin(const char* kind, Stream& stream, Put&& put) {
        auto flight = std::make_shared<NcclWatch::Flight>(comm_, kind, operations_++, name_);
        gpu::record(ready_, stream.handle());
        gpu::wait(side_.handle(), ready_);
        gpu::record(flight->begun, side_.handle());
        {
            const NcclWatch::Call call(engine_->watch, flight->title());
            put();
        }
        gpu::record(flight->ended, side_.handle());
        engine_->watch.follow(flight);
        return Pending(std::make_unique<NcclOperation>(engine_->watch, std::move(flight)));
    }

    void send(const void* data, int64_t bytes, int peer) {
        if (bytes > 0) check_nccl(ncclSend(data, static_cast<size_t>(bytes), ncclUint8, peer, comm_, side_.handle()), "ncclSend");
    }
    void receive(void* data, int64_t bytes, int peer) {
        if (bytes > 0) check_nccl(ncclRecv(data, static_cast<size_t>(bytes), ncclUint8, peer, comm_, side_.handle()), "ncclRecv");
    }
    // Each rank begins with itself and its successors, so that they do not all write to rank 0 first.
    template <class Work>
    void to_all(Work&& work) const {
        for (int i = 0; i < size(); i++) work((rank() + i) % size());
    }

    Pending begin_all_gather(const Tensor& out, const Tensor& in, Stream& stream) override {
        if (!stream.on_gpu()) return on_host([&](Communicator& host) { return host.all_gather(out, in, Cargo::other, stream); });
        return begin("all_gather", stream, [&] {
            check_nccl(ncclAllGather(in.data, out.data, static_cast<size_t>(in.bytes()), ncclUint8, comm_, side_.handle()),
                       "ncclAllGather");
        });
    }

    Pending begin_reduce_scatter(const Tensor& out, const Tensor& in, Stream& stream) override {
        if (!stream.on_gpu()) return on_host([&](Communicator& host) { return host.reduce_scatter(out, in, Cargo::other, stream); });
        return begin("reduce_scatter", stream, [&] {
            const int64_t n = out.numel();
            if (in.dtype == Dtype::bf16)
                return reduce_parts(
                    out, in,
                    [n](int peer) {
                        return std::array{peer * n, (peer + 1) * n};
                    },
                    RankReduction::sum);
            check_nccl(ncclReduceScatter(in.data, out.data, static_cast<size_t>(n), nccl_type(in.dtype), ncclSum, comm_, side_.handle()),
                       "ncclReduceScatter");
        });
    }

    Pending begin_all_to_all(const Tensor& out, const Tensor& in, Stream& stream) override {
        if (!stream.on_gpu()) return on_host([&](Communicator& host) { return host.all_to_all(out, in, Cargo::other, stream); });
        return begin("all_to_all", stream, [&] {
            Group group;
            to_all([&](int peer) {
                send(block_of(in, size(), peer), in.bytes() / size(), peer);
                receive(block_of(out, size(), peer), in.bytes() / size(), peer);
            });
            group.end();
        });
    }

    // An empty message is not sent: both of its ends know that it is empty.
    Pending begin_exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Stream& stream) override {
        if (!stream.on_gpu()) return on_host([&](Communicator& host) { return host.exchange(sends, receives, Cargo::other, stream); });
        return begin("exchange", stream, [&] {
            Group group;
            for (const Message& message : receives) receive(message.tensor.data, message.tensor.bytes(), message.peer);
            for (const Message& message : sends) send(message.tensor.data, message.tensor.bytes(), message.peer);
            group.end();
        });
    }

    Pending begin_broadcast(const Tensor& data, int root, Stream& stream) override {
        if (!stream.on_gpu()) return on_host([&](Communicator& host) { return host.broadcast(data, root, Cargo::other, stream); });
        return begin("broadcast", stream, [&] {
            check_nccl(ncclBroadcast(data.data, data.data, static_cast<size_t>(data.bytes()), ncclUint8, root, comm_, side_.handle()),
                       "ncclBroadcast");
        });
    }

    Pending begin_all_reduce(const Tensor& data, Reduce how, Stream& stream) override {
        if (!stream.on_gpu()) return on_host([&](Communicator& host) { return host.all_reduce(data, how, Cargo::other, stream); });
        return begin("all_reduce", stream, [&] {
            const int64_t n = data.numel();
            const bool whole_numbers = data.dtype == Dtype::i32 || data.dtype == Dtype::i64;
            if (whole_numbers || (how == Reduce::sum && data.dtype != Dtype::bf16)) {
                check_nccl(ncclAllReduce(data.data, data.data, static_cast<size_t>(n), nccl_type(data.dtype),
                                         how == Reduce::sum ? ncclSum : ncclMax, comm_, side_.handle()),
                           "ncclAllReduce");
                return;
            }
            const auto mine = share(n, rank());
            reduce_parts(
                Tensor(element(data, mine[0]), data.dtype, {mine[1] - mine[0]}), data, [&](int peer) { return share(n, peer); },
                how == Reduce::sum ? RankReduction::sum : RankReduction::largest);
            Group group;
            to_all([&](int peer) {
                if (peer == rank()) return;
                const auto theirs = share(n, peer);
                send(element(data, mine[0]), (mine[1] - mine[0]) * size_of(data.dtype), peer);
                receive(element(data, theirs[0]), (theirs[1] - theirs[0]) * size_of(data.dtype), peer);
            });
            group.end();
        });
    }

    static std::byte* element(const Tensor& tensor, int64_t index) {
        return static_cast<std::byte*>(tensor.data) + index * size_of(tensor.dtype);
    }

    // out = the sums, or the largest, over ranks of this rank's part of `in`. part_of(peer): the elements [begin, end) that `peer` adds up.
    // out may be this rank's part itself. All ranks agree about the pieces, since a piece's length depends on nothing of this rank's own.
    template <class PartOf>
    void reduce_parts(const Tensor& out, const Tensor& in, PartOf&& part_of, RankReduction how) {
        constexpr int64_t unit = 16;  // elements: rows of the scratch begin at multiples of 16 bytes
        const int64_t s = size_of(in.dtype), most = engine_->settings.scratch_bytes / (size() * s) / unit * unit;
        ENSURE(most > 0);
        int64_t longest = 0;
        for (int peer = 0; peer < size(); peer++) longest = std::max(longest, part_of(peer)[1] - part_of(peer)[0]);
        for (int64_t begin = 0; begin < longest; begin += most) {
            const auto count_of = [&](int peer) { return std::clamp<int64_t>(part_of(peer)[1] - part_of(peer)[0] - begin, 0, most); };
            const int64_t mine = count_of(rank()), stride = div_ceil(mine, unit) * unit;
            Group group;
            to_all([&](int peer) {
                send(element(in, part_of(peer)[0] + begin), count_of(peer) * s, peer);
                receive(scratch() + peer * stride * s, mine * s, peer);
            });
            group.end();
            if (mine == 0) continue;
            Tensor blocks(scratch(), in.dtype, {size(), mine});
            blocks.row_stride = stride;
            reduce_ranks(out.slice_rows(begin, mine), blocks, how, side_);
        }
    }

    // The side stream's operations use it in turns.
    std::byte* scratch() {
        if (scratch_) return scratch_;
        const int64_t bytes = engine_->settings.scratch_bytes;
        scratch_ = static_cast<std::byte*>(gpu::allocate(bytes));
        if (!scratch_)
            throw Error(ExitCode::memory,
                        format("the GPU has no room for the sums of the %s communicator (%s)", name_.c_str(), human_bytes(bytes).c_str()),
                        "use a smaller --batch-size");
        return scratch_;
    }

    ncclComm_t comm_;
    std::shared_ptr<Communicator> host_;
    const std::string name_;
    std::shared_ptr<Engine> engine_;
    Stream side_;
    gpu::EventHandle ready_;
    std::byte* scratch_ = nullptr;
    int64_t operations_ = 0;  // begun so far
};

}  // namespace

std::unique_ptr<Communicator> nccl_communicator(std::unique_ptr<Communicator> host, const NcclSettings& settings, const std::string& name) {
    if (settings.repeatable) {  // read by NCCL when the first communicator is made; what the user set stays
        setenv("NCCL_ALGO", "Ring", 0);
        setenv("NCCL_NVLS_ENABLE", "0", 0);
    }
    ncclUniqueId id = {};
    if (host->rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    Stream cpu;
    const auto sent = host->traffic().sent;
    host->broadcast(Tensor(&id, Dtype::u8, {sizeof id}), 0, Cargo::other, cpu).wait(cpu);
    host->traffic().sent = sent;  // no part of the training

    auto engine = std::make_shared<Engine>(settings);
    ncclComm_t comm = nullptr;
    {
        const NcclWatch::Call call(engine->watch, "the beginning of the " + name + " communicator");
        check_nccl(ncclCommInitRank(&comm, host->size(), id, host->rank()), "ncclCommInitRank");
    }
    return std::make_unique<NcclCommunicator>(comm, std::move(host), name, std::move(engine));
}

}  // namespace traincu
