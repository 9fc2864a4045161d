// What a communicator promises about streams: an operation begins when the caller's stream has come to it, and what follows wait() on that
// stream sees its result. Nothing here waits for the host in between, so a forgotten event shows. Run as comm_test.cpp is.
#include <doctest/doctest.h>

#include <cstring>
#include <deque>

#include "src/base/arena.h"
#include "tests/support/device.h"
#include "tests/support/mesh.h"

namespace traincu::test {

namespace {

using Bytes = std::vector<std::byte>;

// Tensors of bytes on the test's device, whose contents come and go on the stream alone.
class Desk {
public:
    Tensor tensor(int64_t n) {
        arenas_.emplace_back("test");
        Tensor tensor;
        arenas_.back().add(tensor, "tensor", Dtype::u8, {std::max<int64_t>(n, 1)});
        arenas_.back().allocate(stream_.memory());
        return tensor.slice_rows(0, n);
    }
    // What a copy on the stream can read: there before the test begins.
    Tensor source(const Bytes& bytes) {
        const Tensor t = tensor(static_cast<int64_t>(bytes.size()));
        stream_.upload(t, bytes.data());
        return t;
    }
    void put(const Tensor& to, const Tensor& from) { copy_bytes(to.data, from.data, from.bytes(), stream_); }
    Bytes get(const Tensor& t) {
        Bytes bytes(static_cast<size_t>(t.bytes()));
        stream_.download(bytes.data(), t);
        return bytes;
    }
    Stream& stream() { return stream_; }

private:
    std::deque<Arena> arenas_;
    Stream& stream_ = test_stream();
};

// What `rank` sends as its `which`-th message.
Bytes message(int rank, int which, int64_t n) {
    Bytes bytes(static_cast<size_t>(n));
    uint32_t x = static_cast<uint32_t>(rank * 1000 + which) * 2654435761u + 1;
    for (std::byte& byte : bytes) x = x * 1664525u + 1013904223u, byte = static_cast<std::byte>(x >> 24);
    return bytes;
}

Bytes gathered(const Communicator& comm, int which, int64_t n) {
    Bytes all;
    for (int r = 0; r < comm.size(); r++) {
        const Bytes theirs = message(comm.world_rank_of(r), which, n);
        all.insert(all.end(), theirs.begin(), theirs.end());
    }
    return all;
}

int64_t length(int from, int to, int k) { return (from * 131 + to * 17 + k * 1009) % 3000 * (k != 1); }  // the second is empty

}  // namespace

TEST_SUITE("ranks") {
    TEST_CASE("ranks: an operation takes what was put in line before it, and wait() holds back what comes after it") {
        Mesh& mesh = test_mesh();
        Desk desk;
        const int64_t n = 4099;
        std::vector<Tensor> sources, seen;
        const Tensor in = desk.tensor(n), out = desk.tensor(mesh.size() * n),
                     old = desk.source(Bytes(static_cast<size_t>(mesh.size() * n)));
        for (int k = 0; k < 5; k++) {
            sources.push_back(desk.source(message(mesh.rank(), k, n)));
            seen.push_back(desk.tensor(mesh.size() * n));
        }
        // in and out are used again in every round: written while the round before is still in line
        for (size_t k = 0; k < 5; k++) {
            desk.put(in, sources[k]);
            Pending pending = mesh.world().all_gather(out, in, Cargo::weights, desk.stream());
            pending.wait(desk.stream());
            desk.put(seen[k], out);
            desk.put(out, old);
        }
        for (int k = 0; k < 5; k++) CHECK(desk.get(seen[static_cast<size_t>(k)]) == gathered(mesh.world(), k, n));
    }

    TEST_CASE("ranks: several operations of several communicators under way, waited for in another order") {
        Mesh& mesh = test_mesh();
        Desk desk;
        Communicator* comms[] = {&mesh.world(), &mesh.node(), &mesh.across()};
        const int64_t n = 2053;
        struct Round {
            Communicator* comm;
            Tensor gather_in, gathered, exchange_in, exchanged, sum;
            Pending pending[3];
        };
        std::vector<Round> rounds;
        for (int k = 0; k < 6; k++) {
            Communicator& comm = *comms[k % 3];
            Tensor sum = desk.tensor(8 * n);
            sum = Tensor(sum.data, Dtype::i64, {n});
            rounds.push_back(
                {&comm, desk.tensor(n), desk.tensor(comm.size() * n), desk.tensor(comm.size() * n), desk.tensor(comm.size() * n), sum, {}});
        }
        std::vector<Tensor> sources;
        for (int k = 0; k < 6; k++) {
            Round& round = rounds[static_cast<size_t>(k)];
            sources.push_back(desk.source(message(mesh.rank(), k, n)));
            sources.push_back(desk.source(message(mesh.rank(), 50 + k, round.comm->size() * n)));
            sources.push_back(desk.source(message(mesh.rank(), 100 + k, 8 * n)));
        }
        for (size_t k = 0; k < 6; k++) {
            Round& round = rounds[k];
            desk.put(round.gather_in, sources[3 * k]), desk.put(round.exchange_in, sources[3 * k + 1]),
                desk.put(round.sum, sources[3 * k + 2]);
            round.pending[0] = round.comm->all_gather(round.gathered, round.gather_in, Cargo::weights, desk.stream());
            round.pending[1] = round.comm->all_to_all(round.exchanged, round.exchange_in, Cargo::gradients, desk.stream());
            round.pending[2] = round.comm->all_reduce(round.sum, Reduce::sum, Cargo::other, desk.stream());
        }
        for (size_t k = 6; k-- > 0;)
            for (const size_t which : {1, 2, 0}) rounds[k].pending[which].wait(desk.stream());
        for (int k = 0; k < 6; k++) {
            const Round& round = rounds[static_cast<size_t>(k)];
            const Communicator& comm = *round.comm;
            CHECK(desk.get(round.gathered) == gathered(comm, k, n));
            Bytes exchanged;
            std::vector<uint64_t> sums(static_cast<size_t>(n));
            for (int r = 0; r < comm.size(); r++) {
                const Bytes theirs = message(comm.world_rank_of(r), 50 + k, comm.size() * n);
                exchanged.insert(exchanged.end(), theirs.begin() + comm.rank() * n, theirs.begin() + (comm.rank() + 1) * n);
                const Bytes terms = message(comm.world_rank_of(r), 100 + k, 8 * n);
                for (size_t i = 0; i < sums.size(); i++) {
                    uint64_t term;
                    std::memcpy(&term, terms.data() + 8 * i, 8);
                    sums[i] += term;
                }
            }
            CHECK(desk.get(round.exchanged) == exchanged);
            const Bytes sum = desk.get(round.sum);
            CHECK(std::memcmp(sum.data(), sums.data(), sum.size()) == 0);
        }
    }

    TEST_CASE("ranks: an exchange of three messages of odd sizes between every two ranks, and with oneself") {
        Mesh& mesh = test_mesh();
        Communicator& comm = mesh.world();
        Desk desk;
        const int P = comm.size(), me = comm.rank();
        std::vector<Communicator::Message> sends, receives;
        std::vector<Tensor> sources;
        for (int peer = 0; peer < P; peer++)
            for (int k = 0; k < 3; k++) {
                sources.push_back(desk.source(message(me, 10 * peer + k, length(me, peer, k))));
                sends.push_back({peer, desk.tensor(length(me, peer, k))});
                receives.push_back({peer, desk.tensor(length(peer, me, k))});
            }
        comm.traffic() = {};
        for (size_t i = 0; i < sends.size(); i++) desk.put(sends[i].tensor, sources[i]);
        comm.exchange(sends, receives, Cargo::other, desk.stream()).wait(desk.stream());
        int64_t sent = 0;
        for (int peer = 0; peer < P; peer++)
            for (int k = 0; k < 3; k++) {
                CHECK(desk.get(receives[static_cast<size_t>(3 * peer + k)].tensor) == message(peer, 10 * me + k, length(peer, me, k)));
                sent += peer == me ? 0 : length(me, peer, k);
            }
        CHECK(comm.traffic().bytes() == sent);
    }

    TEST_CASE("ranks: tensors of the host beside those of the device, each byte counted once; a barrier") {
        Mesh& mesh = test_mesh();
        Communicator& comm = mesh.world();
        Stream cpu;
        comm.traffic() = {};
        const Bytes mine = message(comm.rank(), 7, 333);
        Bytes all(static_cast<size_t>(comm.size()) * mine.size());
        comm.all_gather(Tensor(all.data(), Dtype::u8, {static_cast<int64_t>(all.size())}),
                        Tensor(const_cast<std::byte*>(mine.data()), Dtype::u8, {333}), Cargo::weights, cpu)
            .wait(cpu);
        CHECK(all == gathered(comm, 7, 333));
        CHECK(comm.traffic().bytes() == (comm.size() - 1) * 333);
        CHECK(&comm.traffic() == &mesh.node().traffic());
        comm.barrier(cpu);
        comm.barrier(test_stream());
        comm.progress();
    }
}

}  // namespace traincu::test
