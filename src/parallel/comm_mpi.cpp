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
#ifdef TRAIN_HAS_MPI

#include "src/parallel/comm_mpi.h"

#include <cstring>

#include "src/parallel/mpi_operation.h"
#include "src/parallel/rank_sums.h"

namespace traincu {

namespace {

class MpiCommunicator final : public Communicator {
public:
    MpiCommunicator(MPI_Comm mpi, std::vector<Member> members, int rank, const std::string& name, std::shared_ptr<mpi::Engine> engine,
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
        auto operation = begin(mpi::Kind::barrier, stream);
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
    std::unique_ptr<mpi::Operation> begin(mpi::Kind kind, const Stream& stream) {
        return std::make_unique<mpi::Operation>(*engine_, group_, kind, stream);
    }
    // Each rank begins with its successor, so that they do not all write to rank 0 first.
    template <class Work>
    void to_others(Work&& work) const {
        for (int i = 1; i < size(); i++) work((rank() + i) % size());
    }

    Pending begin_all_gather(const Tensor& out, const Tensor& in, Stream& stream) override {
        auto operation = begin(mpi::Kind::all_gather, stream);
        const int64_t bytes = in.bytes();
        std::byte *all = operation->output(out, stream), *mine = operation->input(in, stream);
        to_others([&](int peer) { operation->receive(peer, all + peer * bytes, bytes); });
        stream.synchronize();
        if (bytes > 0 && all + rank() * bytes != mine) std::memcpy(all + rank() * bytes, mine, static_cast<size_t>(bytes));
        to_others([&](int peer) { operation->send(peer, mine, bytes); });
        return Pending(std::move(operation));
    }

    Pending begin_reduce_scatter(const Tensor& out, const Tensor& in, Stream& stream) override {
        auto operation = begin(mpi::Kind::reduce_scatter, stream);
        const int64_t bytes = out.bytes();
        std::byte *sum = operation->output(out, stream), *mine = operation->input(in, stream);
        const std::vector<const std::byte*> blocks = receive_blocks(*operation, mine + rank() * bytes, bytes, stream);
        stream.synchronize();
        to_others([&](int peer) { operation->send(peer, mine + peer * bytes, bytes); });
        operation->then([=, dtype = in.dtype] { reduce_blocks(dtype, sum, blocks, bytes, Reduce::sum); });
        return Pending(std::move(operation));
    }

    Pending begin_all_to_all(const Tensor& out, const Tensor& in, Stream& stream) override {
        auto operation = begin(mpi::Kind::all_to_all, stream);
        const int64_t bytes = in.bytes() / size();
        std::byte *theirs = operation->output(out, stream), *mine = operation->input(in, stream);
        to_others([&](int peer) { operation->receive(peer, theirs + peer * bytes, bytes); });
        stream.synchronize();
        if (bytes > 0) std::memcpy(theirs + rank() * bytes, mine + rank() * bytes, static_cast<size_t>(bytes));
        to_others([&](int peer) { operation->send(peer, mine + peer * bytes, bytes); });
        return Pending(std::move(operation));
    }

    Pending begin_exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Stream& stream) override {
        auto operation = begin(mpi::Kind::exchange, stream);
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
        auto operation = begin(mpi::Kind::broadcast, stream);
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
        auto operation = begin(mpi::Kind::all_reduce, stream);
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
    std::vector<const std::byte*> receive_blocks(mpi::Operation& operation, const std::byte* mine, int64_t bytes,
                                                 const Stream& stream) const {
        std::vector<const std::byte*> blocks(static_cast<size_t>(size()), mine);
        std::byte* next = operation.scratch(bytes * (size() - 1), stream);
        for (int peer = 0; peer < size(); peer++)
            if (peer != rank()) blocks[static_cast<size_t>(peer)] = next, next += bytes;
        to_others([&](int peer) { operation.receive(peer, const_cast<std::byte*>(blocks[static_cast<size_t>(peer)]), bytes); });
        return blocks;
    }

    std::shared_ptr<mpi::Engine> engine_;
    mpi::Group group_;
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
    return std::make_unique<MpiCommunicator>(mpi, std::move(members), rank, name, std::make_shared<mpi::Engine>(settings),
                                             std::make_shared<Traffic>());
}

}  // namespace traincu

#endif  // TRAIN_HAS_MPI
