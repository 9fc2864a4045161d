// How an operation runs. begin: receives are posted, then sends; nothing blocks, so no order of calls can lock two ranks. MPI moves data
// only while somebody calls it: progress() does, for all operations that are under way, and so does every wait(). When all messages of a
// round are through, its rest is done on this rank: adding up what came, sending on (the second half of an all_reduce).
//
// Sums are made of copies alone: everybody sends everybody its block, and the receiver adds the blocks in the order of ranks. That is as
// many bytes as a ring would move, in one step instead of size-1, and the order of additions is nobody's luck. It costs memory: size-1
// blocks as they came, which the engine keeps for the next time.
//
// On a GPU's stream the tensors are copied to pinned memory at the beginning (the host waits for the stream then), and results are put in
// line on the stream in wait(). This is for ranks that share one GPU, and for tests.
//
// Waiting: other ranks may need this core. The first microseconds are spent looking, then the core is offered to others between looks,
// then the thread sleeps for 50 us at a time: but not while messages are likely to be moving, which MPI may do in pieces of 32 KiB, a few
// at each look (without CMA, two ranks of a host move 2 GB/s while looked at, 0.4 GB/s where the sleep begins at once).
#ifdef TRAIN_HAS_MPI

#include "src/parallel/comm_mpi.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <thread>

#include "src/device/transfer.h"
#include "src/parallel/peer_watch.h"

namespace traincu {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Pause {
public:
    explicit Pause(int64_t bytes) : awake_(500e-6 + static_cast<double>(bytes) / 1e9) {}  // as long as they take at 1 GB/s
    void operator()() const {
        const double waited = seconds_since(start_);
        if (waited > awake_)
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        else if (waited > 5e-6)
            sched_yield();
    }

private:
    const Clock::time_point start_ = Clock::now();
    const double awake_;
};

// ---- memory that comes again in every step

// A buffer of the host; for a GPU's stream pinned, and busy until the copies that were put in line are done.
struct Buffer {
    PinnedMemory memory;
    bool pinned = false;
    gpu::EventHandle used = nullptr;  // after the last copy from here to the device

    Buffer(const Stream& stream, int64_t bytes) : memory(stream, bytes), pinned(stream.on_gpu()) {
        if (pinned) used = gpu::create_event();
    }
    ~Buffer() {
        if (used) gpu::destroy_event(used);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

class BufferPool {
public:
    // The smallest that is large enough, else a new one. A much larger one is left to whom it was made for.
    std::unique_ptr<Buffer> take(const Stream& stream, int64_t bytes) {
        auto best = free_.end();
        for (auto it = free_.begin(); it != free_.end(); ++it) {
            const int64_t size = (*it)->memory.bytes();
            if ((*it)->pinned != stream.on_gpu() || size < bytes || size > 2 * std::max(bytes, smallest)) continue;
            if (best == free_.end() || size < (*best)->memory.bytes()) best = it;
        }
        if (best == free_.end()) return std::make_unique<Buffer>(stream, std::max(bytes, smallest));
        std::unique_ptr<Buffer> buffer = std::move(*best);
        free_.erase(best);
        if (buffer->used) gpu::synchronize(buffer->used);
        return buffer;
    }
    void give_back(std::unique_ptr<Buffer> buffer) { free_.push_back(std::move(buffer)); }

private:
    static constexpr int64_t smallest = 4096;  // bytes
    std::vector<std::unique_ptr<Buffer>> free_;
};

// ---- sums in the order of ranks

template <class T>
struct Sums {
    using Sum = T;
    static Sum widen(T x) { return x; }
    static T narrow(Sum x) { return x; }
};
template <>
struct Sums<bf16> {
    using Sum = float;
    static Sum widen(bf16 x) { return bf16_to_float(x.bits); }
    static bf16 narrow(Sum x) { return {float_to_bf16(x)}; }
};

// out[i] = blocks[0][i] + blocks[1][i] + ..., or the largest of them, where NaN counts as larger than all. out may be one of the blocks.
template <class T>
void reduce_blocks(T* out, const std::vector<const std::byte*>& blocks, int64_t n, Reduce how) {
    using Sum = typename Sums<T>::Sum;
    constexpr int64_t piece = 1024;  // of sums, which stay in the first-level cache
#pragma omp parallel for schedule(static) if (n > 16 * piece)
    for (int64_t begin = 0; begin < n; begin += piece) {
        const int64_t count = std::min(piece, n - begin);
        Sum sum[piece];
        for (size_t rank = 0; rank < blocks.size(); rank++) {
            const T* x = reinterpret_cast<const T*>(blocks[rank]) + begin;
            if (rank == 0) {
#pragma omp simd
                for (int64_t i = 0; i < count; i++) sum[i] = Sums<T>::widen(x[i]);
            } else if (how == Reduce::sum) {
#pragma omp simd
                for (int64_t i = 0; i < count; i++) sum[i] += Sums<T>::widen(x[i]);
            } else {
                for (int64_t i = 0; i < count; i++) {
                    const Sum value = Sums<T>::widen(x[i]);
                    if (value > sum[i] || value != value) sum[i] = value;
                }
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < count; i++) out[begin + i] = Sums<T>::narrow(sum[i]);
    }
}

void reduce_blocks(Dtype dtype, std::byte* out, const std::vector<const std::byte*>& blocks, int64_t bytes, Reduce how) {
    const int64_t n = bytes / size_of(dtype);
    switch (dtype) {
        case Dtype::f32:
            return reduce_blocks(reinterpret_cast<float*>(out), blocks, n, how);
        case Dtype::f64:
            return reduce_blocks(reinterpret_cast<double*>(out), blocks, n, how);
        case Dtype::bf16:
            return reduce_blocks(reinterpret_cast<bf16*>(out), blocks, n, how);
        case Dtype::i32:
            return reduce_blocks(reinterpret_cast<int32_t*>(out), blocks, n, how);
        case Dtype::i64:
            return reduce_blocks(reinterpret_cast<int64_t*>(out), blocks, n, how);
        default:
            ENSURE(!"a type that has no sums");
    }
}

// ---- operations

enum Kind { all_gather, reduce_scatter, all_to_all, exchange, broadcast, all_reduce, barrier, kinds };
constexpr const char* kind_names[kinds] = {"all_gather", "reduce_scatter", "all_to_all", "exchange", "broadcast", "all_reduce", "barrier"};

class MpiOperation;

// What the communicators of one family share.
struct Engine {
    explicit Engine(const MpiSettings& s) : settings(s) {}

    void progress();
    void check_peers(double patience_seconds = 0) const {
        if (settings.watch) settings.watch->check(patience_seconds);
    }
    // Where MPI itself reports a failure, the watch may soon know why.
    void check(int result, const char* call) const {
        if (result != MPI_SUCCESS) check_peers(1);
        check_mpi(result, call);
    }

    MpiSettings settings;
    BufferPool buffers;
    std::list<MpiOperation*> under_way;
};

// A message's tag: the operation's number on its communicator, and its kind. So messages of different operations never meet, and that
// ranks disagree about an operation is seen. 2^15 - 1 is the largest tag that every MPI has.
int tag_of(int64_t number, int kind) { return static_cast<int>(number % 2048) * 16 + kind; }

// One communicator of MPI, as operations see it.
struct Group {
    MPI_Comm mpi;
    Communicator& members;
    std::string name;
    int64_t operations = 0;  // begun so far
};

class MpiOperation final : public Pending::Operation {
public:
    MpiOperation(Engine& engine, Group& group, Kind kind, const Stream& stream)
        : engine_(engine), group_(group), kind_(kind), on_gpu_(stream.on_gpu()), number_(group.operations++) {
        place_ = engine_.under_way.insert(engine_.under_way.end(), this);
    }
    // One that was not waited for, because of an exception: MPI must not write to its memory any more.
    ~MpiOperation() override {
        engine_.under_way.erase(place_);
        for (size_t i = 0; i < requests_.size(); i++) {
            if (requests_[i] == MPI_REQUEST_NULL) continue;
            if (messages_[i].receives) MPI_Cancel(&requests_[i]);
            MPI_Request_free(&requests_[i]);
        }
    }

    // ---- memory. A tensor's bytes on the host: on a GPU's stream a copy in pinned memory.
    std::byte* input(const Tensor& tensor, Stream& stream) {
        if (!on_gpu_) return static_cast<std::byte*>(tensor.data);
        std::byte* host = scratch(tensor.bytes(), stream);
        copy_bytes(host, tensor.data, tensor.bytes(), stream);
        return host;
    }
    std::byte* output(const Tensor& tensor, Stream& stream) {
        if (!on_gpu_) return static_cast<std::byte*>(tensor.data);
        std::byte* host = scratch(tensor.bytes(), stream);
        uploads_.push_back({tensor, host});
        return host;
    }
    std::byte* in_place(const Tensor& tensor, Stream& stream) {
        std::byte* host = input(tensor, stream);
        if (on_gpu_) uploads_.push_back({tensor, host});
        return host;
    }
    std::byte* scratch(int64_t bytes, const Stream& stream) {
        buffers_.push_back(engine_.buffers.take(stream, bytes));
        return buffers_.back()->memory.data();
    }

    // ---- messages of the round at hand
    void receive(int peer, std::byte* data, int64_t bytes) { post(peer, data, bytes, true); }
    void send(int peer, std::byte* data, int64_t bytes) { post(peer, data, bytes, false); }

    // What follows when all messages of this round are through; it may begin another round.
    void then(std::function<void()> work) { rest_.push_back(std::move(work)); }

    // True when all is done. Never waits.
    bool advance() {
        while (!done_) {
            if (open_ > 0 && !test()) return false;
            requests_.clear(), messages_.clear();
            if (rest_.empty()) return done_ = true;
            const std::function<void()> work = std::move(rest_.front());
            rest_.pop_front();
            work();
        }
        return true;
    }

    void wait(Stream& stream) override {
        ENSURE(stream.on_gpu() == on_gpu_);
        wait_for_messages();
        for (const Upload& upload : uploads_) copy_bytes(upload.tensor.data, upload.host, upload.tensor.bytes(), stream);
        for (std::unique_ptr<Buffer>& buffer : buffers_) {
            if (buffer->used) gpu::record(buffer->used, stream.handle());
            engine_.buffers.give_back(std::move(buffer));
        }
        buffers_.clear();
    }

private:
    struct Message {
        int peer;
        bool receives;
        int64_t offset, piece, bytes;  // this piece of a message of so many bytes
    };
    struct Upload {
        Tensor tensor;
        std::byte* host;
    };

    void post(int peer, std::byte* data, int64_t bytes, bool receives) {
        int64_t offset = 0;
        do {  // an empty message is sent as well: its absence would be one
            const int64_t piece = std::min(bytes - offset, engine_.settings.largest_message);
            requests_.push_back(MPI_REQUEST_NULL), messages_.push_back({peer, receives, offset, piece, bytes});
            if (receives)
                engine_.check(MPI_Irecv(data + offset, static_cast<int>(piece), MPI_BYTE, peer, tag(), group_.mpi, &requests_.back()),
                              "MPI_Irecv");
            else
                engine_.check(MPI_Isend(data + offset, static_cast<int>(piece), MPI_BYTE, peer, tag(), group_.mpi, &requests_.back()),
                              "MPI_Isend");
            open_++, offset += piece;
        } while (offset < bytes);
    }
    int tag() const { return tag_of(number_, kind_); }

    bool test() {
        const int count = static_cast<int>(requests_.size());
        finished_.resize(requests_.size()), statuses_.resize(requests_.size());
        int finished = 0;
        const int result = MPI_Testsome(count, requests_.data(), &finished, finished_.data(), statuses_.data());
        if (result != MPI_SUCCESS && result != MPI_ERR_IN_STATUS) engine_.check(result, "MPI_Testsome");
        for (int i = 0; i < finished; i++) {
            const Message& message = messages_[static_cast<size_t>(finished_[static_cast<size_t>(i)])];
            const MPI_Status& status = statuses_[static_cast<size_t>(i)];
            const int error = result == MPI_ERR_IN_STATUS ? status.MPI_ERROR : MPI_SUCCESS;
            if (message.receives) check_size(message, status, error);
            engine_.check(error, message.receives ? "MPI_Irecv" : "MPI_Isend");
        }
        open_ -= std::max(finished, 0);
        return open_ == 0;
    }

    std::string title() const {
        return format("%s (operation %lld of the %s communicator)", kind_names[kind_], static_cast<long long>(number_),
                      group_.name.c_str());
    }
    int rank_of(int peer) const { return group_.members.world_rank_of(peer); }

    void check_size(const Message& message, const MPI_Status& status, int error) const {
        int class_of_error = MPI_SUCCESS, received = 0;
        if (error != MPI_SUCCESS) MPI_Error_class(error, &class_of_error);
        if (error != MPI_SUCCESS && class_of_error != MPI_ERR_TRUNCATE) return;
        MPI_Get_count(&status, MPI_BYTE, &received);
        if (error == MPI_SUCCESS && received == message.piece) return;
        throw disagreement(format("rank %d sent %lld bytes where %lld were expected", rank_of(message.peer),
                                  static_cast<long long>(message.offset + received), static_cast<long long>(message.bytes)));
    }
    Error disagreement(const std::string& what) const {
        return Error(ExitCode::peer, format("the ranks disagree in %s: %s", title().c_str(), what.c_str()),
                     "start all ranks with the same ./train, the same options and the same files");
    }

    // Another operation's message under this one's number: that rank will never send what is waited for here.
    void check_kinds() const {
        for (size_t i = 0; i < requests_.size(); i++) {
            if (requests_[i] == MPI_REQUEST_NULL || !messages_[i].receives) continue;
            for (int kind = 0; kind < kinds; kind++) {
                int found = 0;
                if (kind != kind_)
                    engine_.check(MPI_Iprobe(messages_[i].peer, tag_of(number_, kind), group_.mpi, &found, MPI_STATUS_IGNORE),
                                  "MPI_Iprobe");
                if (found) throw disagreement(format("rank %d called %s", rank_of(messages_[i].peer), kind_names[kind]));
            }
        }
    }

    void wait_for_messages() {
        if (advance()) return;
        const Clock::time_point start = Clock::now();
        Clock::time_point last = start;
        double waited = 0, look_at = 0.25;  // seconds
        int64_t bytes = 0;
        for (const Message& message : messages_) bytes += message.piece;
        for (const Pause pause(bytes); engine_.progress(), !done_; pause()) {
            engine_.check_peers();
            // Time in which this process was stopped is not held against others.
            const Clock::time_point now = Clock::now();
            waited += std::min(1.0, std::chrono::duration<double>(now - last).count()), last = now;
            if (waited > engine_.settings.timeout_seconds) throw overdue(waited);
            if (waited > look_at) check_kinds(), look_at = waited + 1;
        }
        group_.members.traffic().waited_seconds += seconds_since(start);
    }

    Error overdue(double waited) const {
        std::string silent;
        std::vector<int> named;
        for (const bool receives : {true, false})  // who sends nothing, and who takes nothing
            for (size_t i = 0; i < requests_.size(); i++) {
                const int rank = rank_of(messages_[i].peer);
                if (requests_[i] == MPI_REQUEST_NULL || messages_[i].receives != receives || std::ranges::count(named, rank)) continue;
                named.push_back(rank);
                silent += (silent.empty() ? "" : ", ") + std::to_string(rank);
            }
        return Error(ExitCode::peer, format("no answer from rank %s after %.3g s in %s", silent.c_str(), waited, title().c_str()),
                     "look at what that rank was doing (its machine, its last lines); where it is only slow, raise --peer-timeout");
    }

    Engine& engine_;
    Group& group_;
    const Kind kind_;
    const bool on_gpu_;
    const int64_t number_;
    std::list<MpiOperation*>::iterator place_;

    std::vector<MPI_Request> requests_;
    std::vector<Message> messages_;  // of requests_
    int open_ = 0;                   // requests that are not through
    bool done_ = false;
    std::deque<std::function<void()>> rest_;
    std::vector<int> finished_;
    std::vector<MPI_Status> statuses_;

    std::vector<std::unique_ptr<Buffer>> buffers_;
    std::vector<Upload> uploads_;
};

void Engine::progress() {
    // What was sent and waited for may still lie in buffers of MPI's own, which any call empties.
    int found = 0;
    check(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &found, MPI_STATUS_IGNORE), "MPI_Iprobe");
    for (MpiOperation* operation : under_way) operation->advance();
}

// ---- the communicator

class MpiCommunicator final : public Communicator {
public:
    MpiCommunicator(MPI_Comm mpi, std::vector<Member> members, int rank, const std::string& name, std::shared_ptr<Engine> engine,
                    std::shared_ptr<Traffic> traffic)
        : Communicator(rank, std::move(members), std::move(traffic)), engine_(std::move(engine)), group_{mpi, *this, name} {}
    ~MpiCommunicator() override {
        int finalized = 0;
        MPI_Finalized(&finalized);
        if (!finalized && std::uncaught_exceptions() == 0) MPI_Comm_free(&group_.mpi);
    }

    void progress() override { engine_->progress(); }

    void barrier(Stream& stream) override {
        stream.synchronize();
        auto operation = begin(Kind::barrier, stream);
        to_others([&](int peer) { operation->receive(peer, nullptr, 0); });
        to_others([&](int peer) { operation->send(peer, nullptr, 0); });
        operation->wait(stream);
    }

    std::unique_ptr<Communicator> split(int color, int key, const std::string& name) override {
        MPI_Comm part = MPI_COMM_NULL;
        check_mpi(MPI_Comm_split(group_.mpi, color, key, &part), "MPI_Comm_split");
        int part_size = 0, part_rank = 0, here = rank();
        check_mpi(MPI_Comm_size(part, &part_size), "MPI_Comm_size");
        check_mpi(MPI_Comm_rank(part, &part_rank), "MPI_Comm_rank");
        std::vector<int> ranks(static_cast<size_t>(part_size));
        check_mpi(MPI_Allgather(&here, 1, MPI_INT, ranks.data(), 1, MPI_INT, part), "MPI_Allgather");
        std::vector<Member> part_members;
        for (int r : ranks) part_members.push_back(members()[static_cast<size_t>(r)]);
        return std::make_unique<MpiCommunicator>(part, std::move(part_members), part_rank, name, engine_, shared_traffic());
    }

private:
    std::unique_ptr<MpiOperation> begin(Kind kind, const Stream& stream) {
        return std::make_unique<MpiOperation>(*engine_, group_, kind, stream);
    }
    // Each rank begins with its successor, so that they do not all write to rank 0 first.
    template <class Work>
    void to_others(Work&& work) const {
        for (int i = 1; i < size(); i++) work((rank() + i) % size());
    }

    Pending begin_all_gather(const Tensor& out, const Tensor& in, Stream& stream) override {
        auto operation = begin(Kind::all_gather, stream);
        const int64_t bytes = in.bytes();
        std::byte *all = operation->output(out, stream), *mine = operation->input(in, stream);
        to_others([&](int peer) { operation->receive(peer, all + peer * bytes, bytes); });
        stream.synchronize();
        if (bytes > 0 && all + rank() * bytes != mine) std::memcpy(all + rank() * bytes, mine, static_cast<size_t>(bytes));
        to_others([&](int peer) { operation->send(peer, mine, bytes); });
        return Pending(std::move(operation));
    }

    Pending begin_reduce_scatter(const Tensor& out, const Tensor& in, Stream& stream) override {
        auto operation = begin(Kind::reduce_scatter, stream);
        const int64_t bytes = out.bytes();
        std::byte *sum = operation->output(out, stream), *mine = operation->input(in, stream);
        const std::vector<const std::byte*> blocks = receive_blocks(*operation, mine + rank() * bytes, bytes, stream);
        stream.synchronize();
        to_others([&](int peer) { operation->send(peer, mine + peer * bytes, bytes); });
        operation->then([=, dtype = in.dtype] { reduce_blocks(dtype, sum, blocks, bytes, Reduce::sum); });
        return Pending(std::move(operation));
    }

    Pending begin_all_to_all(const Tensor& out, const Tensor& in, Stream& stream) override {
        auto operation = begin(Kind::all_to_all, stream);
        const int64_t bytes = in.bytes() / size();
        std::byte *theirs = operation->output(out, stream), *mine = operation->input(in, stream);
        to_others([&](int peer) { operation->receive(peer, theirs + peer * bytes, bytes); });
        stream.synchronize();
        if (bytes > 0) std::memcpy(theirs + rank() * bytes, mine + rank() * bytes, static_cast<size_t>(bytes));
        to_others([&](int peer) { operation->send(peer, mine + peer * bytes, bytes); });
        return Pending(std::move(operation));
    }

    Pending begin_exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Stream& stream) override {
        auto operation = begin(Kind::exchange, stream);
        std::vector<std::byte*> from, to;
        for (const Message& message : receives) to.push_back(operation->output(message.tensor, stream));
        for (const Message& message : sends) from.push_back(operation->input(message.tensor, stream));
        for (size_t i = 0; i < receives.size(); i++)
            if (receives[i].peer != rank()) operation->receive(receives[i].peer, to[i], receives[i].tensor.bytes());
        stream.synchronize();
        size_t mine = 0;  // of the receives, the next one from this rank itself
        for (size_t i = 0; i < sends.size(); i++) {
            const int64_t bytes = sends[i].tensor.bytes();
            if (sends[i].peer != rank()) {
                operation->send(sends[i].peer, from[i], bytes);
                continue;
            }
            while (mine < receives.size() && receives[mine].peer != rank()) mine++;
            ENSURE(mine < receives.size() && receives[mine].tensor.bytes() == bytes);
            if (bytes > 0) std::memcpy(to[mine], from[i], static_cast<size_t>(bytes));
            mine++;
        }
        while (mine < receives.size()) ENSURE(receives[mine++].peer != rank());
        return Pending(std::move(operation));
    }

    Pending begin_broadcast(const Tensor& data, int root, Stream& stream) override {
        auto operation = begin(Kind::broadcast, stream);
        if (rank() != root) {
            operation->receive(root, operation->output(data, stream), data.bytes());
            return Pending(std::move(operation));
        }
        std::byte* mine = operation->input(data, stream);
        stream.synchronize();
        to_others([&](int peer) { operation->send(peer, mine, data.bytes()); });
        return Pending(std::move(operation));
    }

    // Everybody adds up its share, then sends it to all.
    Pending begin_all_reduce(const Tensor& data, Reduce how, Stream& stream) override {
        auto operation = begin(Kind::all_reduce, stream);
        std::byte* mine = operation->in_place(data, stream);
        const auto begin_of = [this, n = data.numel(), size = size_of(data.dtype)](int peer) { return share(n, peer)[0] * size; };
        const auto bytes_of = [this, n = data.numel(), size = size_of(data.dtype)](int peer) {
            return (share(n, peer)[1] - share(n, peer)[0]) * size;
        };
        const int64_t bytes = bytes_of(rank());
        std::byte* sum = mine + begin_of(rank());
        const std::vector<const std::byte*> blocks = receive_blocks(*operation, sum, bytes, stream);
        stream.synchronize();
        to_others([&](int peer) { operation->send(peer, mine + begin_of(peer), bytes_of(peer)); });
        operation->then([=, this, op = operation.get(), dtype = data.dtype] {
            reduce_blocks(dtype, sum, blocks, bytes, how);
            to_others([&](int peer) { op->receive(peer, mine + begin_of(peer), bytes_of(peer)); });
            to_others([&](int peer) { op->send(peer, sum, bytes); });
        });
        return Pending(std::move(operation));
    }

    // Posts the receives of every other rank's block; the blocks by rank, `mine` among them.
    std::vector<const std::byte*> receive_blocks(MpiOperation& operation, const std::byte* mine, int64_t bytes,
                                                 const Stream& stream) const {
        std::vector<const std::byte*> blocks(static_cast<size_t>(size()), mine);
        std::byte* next = operation.scratch(bytes * (size() - 1), stream);
        for (int peer = 0; peer < size(); peer++)
            if (peer != rank()) blocks[static_cast<size_t>(peer)] = next, next += bytes;
        to_others([&](int peer) { operation.receive(peer, const_cast<std::byte*>(blocks[static_cast<size_t>(peer)]), bytes); });
        return blocks;
    }

    std::shared_ptr<Engine> engine_;
    Group group_;
};

}  // namespace

void check_mpi(int result, const char* call) {
    if (result == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(result, text, &length);
    throw Error(ExitCode::peer, format("%s failed: %.*s", call, length, text), "look for the first rank that stopped, and at the network");
}

std::unique_ptr<Communicator> mpi_communicator(MPI_Comm mpi, std::vector<Communicator::Member> members, const MpiSettings& settings,
                                               const std::string& name) {
    int rank = 0;
    check_mpi(MPI_Comm_rank(mpi, &rank), "MPI_Comm_rank");
    return std::make_unique<MpiCommunicator>(mpi, std::move(members), rank, name, std::make_shared<Engine>(settings),
                                             std::make_shared<Traffic>());
}

}  // namespace traincu

#endif  // TRAIN_HAS_MPI
