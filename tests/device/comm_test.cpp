// The communicator on as many ranks as this executable was started with: one in `build/run_tests`, more in
// `mpirun -np 4 build/run_tests -ts=ranks`. Every rank can compute what all others send, so each checks its own results by brute force.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <numeric>
#include <string>
#include <thread>

#include "src/base/arena.h"
#include "src/parallel/mesh.h"
#include "tests/support/device.h"
#include "tests/support/mesh.h"

#ifdef TRAIN_HAS_MPI
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#endif

namespace traincu::test {

// By receiver, of the messages that MPI was asked to send: what Traffic is compared with.
std::vector<int64_t>& bytes_sent() {
    static std::vector<int64_t> bytes(64);
    return bytes;
}

}  // namespace traincu::test

#ifdef TRAIN_HAS_MPI
// MPI's profiling interface: this definition takes the place of MPI's own.
extern "C" int MPI_Isend(const void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm mpi, MPI_Request* request) {
    traincu::test::bytes_sent()[static_cast<size_t>(peer)] += count;
    return PMPI_Isend(data, count, type, peer, tag, mpi, request);
}
#endif

namespace traincu::test {

namespace {

int from_environment(const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}

// One for all tests; it ends MPI when the process exits.
Mesh& mesh() {
    static Mesh mesh;
    static const std::string failure = [] {
        MeshOptions options;
        options.ranks_per_node = from_environment("TEST_RANKS_PER_NODE", 0);
        options.largest_message = from_environment("TEST_LARGEST_MESSAGE", 1 << 30);
        options.timeout_seconds = 30;
        options.nccl_scratch = 64 << 10;  // sums of bf16 in many pieces
        const std::string transport = std::getenv("TEST_TRANSPORT") ? std::getenv("TEST_TRANSPORT") : "mpi";
        options.transport = transport == "nccl" ? Transport::nccl : Transport::mpi;
        try {
            mesh.start(options);
            mesh.use_device(test_stream());
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string();
    }();
    REQUIRE_MESSAGE(failure.empty(), failure);
    return mesh;
}

// A contiguous tensor on the test's device, and its bytes here.
class Bytes {
public:
    Bytes(Dtype dtype, int64_t n) : arena_("test") {
        arena_.add(tensor_, "tensor", dtype, {std::max<int64_t>(n, 1)});
        arena_.allocate(test_stream().memory());
        tensor_ = tensor_.slice_rows(0, n);
    }
    const Tensor& tensor() const { return tensor_; }
    std::vector<std::byte> get() const {
        std::vector<std::byte> bytes(static_cast<size_t>(tensor_.bytes()));
        if (!bytes.empty()) test_stream().download(bytes.data(), tensor_);
        return bytes;
    }
    void set(const std::vector<std::byte>& bytes) {
        REQUIRE(static_cast<int64_t>(bytes.size()) == tensor_.bytes());
        if (!bytes.empty()) test_stream().upload(tensor_, bytes.data());
    }

private:
    Arena arena_;
    Tensor tensor_;
};

// Element i of what `rank` sends: any bits where they are only moved, else numbers of very different sizes, so that the order of a sum
// shows.
uint64_t hash(int rank, int64_t i, int salt) {
    uint64_t x =
        static_cast<uint64_t>(rank) * 0x9E3779B97F4A7C15 + static_cast<uint64_t>(i) * 0xD1B54A32D192ED03 + static_cast<uint64_t>(salt);
    x ^= x >> 31, x *= 0xBF58476D1CE4E5B9, x ^= x >> 29, x *= 0x94D049BB133111EB;
    return x ^ x >> 32;
}
double number(int rank, int64_t i, int salt) {
    const uint64_t x = hash(rank, i, salt);
    return std::ldexp(static_cast<double>(x >> 40) - (1 << 23), static_cast<int>(x % 20) - 30);
}

void put(std::vector<std::byte>& bytes, Dtype dtype, int64_t i, double value) {
    const auto store = [&](auto x) { std::memcpy(bytes.data() + i * size_of(dtype), &x, sizeof x); };
    if (dtype == Dtype::f32) store(static_cast<float>(value));
    if (dtype == Dtype::f64) store(value);
    if (dtype == Dtype::bf16) store(float_to_bf16(static_cast<float>(value)));
    if (dtype == Dtype::i32) store(static_cast<int32_t>(value * 1000));
    if (dtype == Dtype::i64) store(static_cast<int64_t>(value * 1e9));
}
std::vector<std::byte> numbers(Dtype dtype, int64_t n, int rank, int salt) {
    std::vector<std::byte> bytes(static_cast<size_t>(n * size_of(dtype)));
    for (int64_t i = 0; i < n; i++) put(bytes, dtype, i, number(rank, i, salt));
    return bytes;
}
// Bytes [begin, begin + n) of a rank's endless noise.
std::vector<std::byte> noise(int64_t n, int rank, int salt, int64_t begin = 0) {
    std::vector<std::byte> bytes(static_cast<size_t>(n));
    for (int64_t i = begin; i < begin + n;) {
        uint64_t eight = hash(rank, i / 8, salt) >> 8 * (i % 8);
        do bytes[static_cast<size_t>(i - begin)] = static_cast<std::byte>(eight), eight >>= 8, i++;
        while (i % 8 != 0 && i < begin + n);
    }
    return bytes;
}
std::vector<std::byte> part(const std::vector<std::byte>& bytes, int64_t begin, int64_t count) {
    return {bytes.begin() + begin, bytes.begin() + begin + count};
}

// The sum, or the largest, of elements [begin, begin + n) of all ranks' numbers, in the order of ranks.
template <class T, class Sum>
std::vector<std::byte> reduced(Dtype dtype, const std::vector<std::vector<std::byte>>& all, int64_t begin, int64_t n, Reduce how,
                               Sum (*widen)(T), T (*narrow)(Sum)) {
    std::vector<std::byte> bytes(static_cast<size_t>(n * size_of(dtype)));
    for (int64_t i = 0; i < n; i++) {
        Sum sum{};
        for (size_t r = 0; r < all.size(); r++) {
            T x;
            std::memcpy(&x, all[r].data() + (begin + i) * static_cast<int64_t>(sizeof x), sizeof x);
            sum = r == 0 ? widen(x) : how == Reduce::sum ? static_cast<Sum>(sum + widen(x)) : std::max(sum, widen(x));
        }
        const T result = narrow(sum);
        std::memcpy(bytes.data() + i * static_cast<int64_t>(sizeof result), &result, sizeof result);
    }
    return bytes;
}
template <class T>
T same(T x) {
    return x;
}
std::vector<std::byte> reduced(Dtype dtype, const std::vector<std::vector<std::byte>>& all, int64_t begin, int64_t n, Reduce how) {
    if (dtype == Dtype::f32) return reduced<float, float>(dtype, all, begin, n, how, same, same);
    if (dtype == Dtype::f64) return reduced<double, double>(dtype, all, begin, n, how, same, same);
    if (dtype == Dtype::i32) return reduced<int32_t, int32_t>(dtype, all, begin, n, how, same, same);
    if (dtype == Dtype::i64) return reduced<int64_t, int64_t>(dtype, all, begin, n, how, same, same);
    return reduced<bf16, float>(
        dtype, all, begin, n, how, [](bf16 x) { return bf16_to_float(x.bits); }, [](float x) { return bf16{float_to_bf16(x)}; });
}

int64_t nanoseconds() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
// A number of each rank: all are processes of one host, whose clock they share.
std::vector<int64_t> gathered(int64_t mine) {
    Bytes in(Dtype::i64, 1), out(Dtype::i64, mesh().size());
    test_stream().upload(in.tensor(), &mine);
    mesh().world().all_gather(out.tensor(), in.tensor(), Cargo::other, test_stream()).wait(test_stream());
    std::vector<int64_t> all(static_cast<size_t>(mesh().size()));
    test_stream().download(all.data(), out.tensor());
    return all;
}

// What came out is the sum, or the largest, of elements [begin, begin + n). NCCL adds f32 and f64 in an order of its own, where there is
// more than one: then each addition may have rounded once, whatever the order.
void check_reduced(const std::vector<std::byte>& got, Dtype dtype, const std::vector<std::vector<std::byte>>& all, int64_t begin, int64_t n,
                   Reduce how) {
    const bool own_order =
        std::string(mesh().transport()) == "nccl" && all.size() > 2 && how == Reduce::sum && (dtype == Dtype::f32 || dtype == Dtype::f64);
    if (!own_order) {
        CHECK(got == reduced(dtype, all, begin, n, how));
        return;
    }
    const auto element = [&](const std::vector<std::byte>& bytes, int64_t i) {
        float narrow;
        double wide;
        if (dtype == Dtype::f32) return std::memcpy(&narrow, bytes.data() + i * 4, 4), static_cast<double>(narrow);
        return std::memcpy(&wide, bytes.data() + i * 8, 8), wide;
    };
    REQUIRE(static_cast<int64_t>(got.size()) == n * size_of(dtype));
    const double last_place = dtype == Dtype::f32 ? std::ldexp(1.0, -24) : std::ldexp(1.0, -53);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        long double sum = 0, sizes = 0;
        for (const auto& theirs : all) sum += element(theirs, begin + i), sizes += std::abs(element(theirs, begin + i));
        const long double bound = static_cast<long double>(all.size() - 1) * last_place * sizes * 1.000001L;
        wrong += !(std::abs(element(got, i) - sum) <= bound);
    }
    CHECK(wrong == 0);
}

// Odd ones, and one that is too long to be sent before it is asked for.
std::vector<int64_t> lengths() { return {0, 1, 7, 1000, 40'003, 300'001}; }

// Every operation, once, on one communicator.
void check_all(Communicator& comm, int salt) {
    Stream& stream = test_stream();
    const int P = comm.size(), me = comm.rank();
    CAPTURE(P);
    CAPTURE(me);
    std::vector<int> ranks(static_cast<size_t>(P));  // in the world: what the inputs depend on
    for (int r = 0; r < P; r++) ranks[static_cast<size_t>(r)] = comm.world_rank_of(r);
    const int here = comm.world_rank_of(me);

    for (const int64_t n : lengths()) {
        CAPTURE(n);
        SUBCASE(""){} {  // all_gather, apart and in place
            std::vector<std::byte> expected;
            for (int r : ranks) {
                const std::vector<std::byte> theirs = noise(n, r, salt);
                expected.insert(expected.end(), theirs.begin(), theirs.end());
            }
            Bytes in(Dtype::u8, n), out(Dtype::u8, P * n), both(Dtype::u8, P * n);
            in.set(noise(n, here, salt));
            std::vector<std::byte> mine_alone(static_cast<size_t>(P * n));
            std::ranges::copy(noise(n, here, salt), mine_alone.begin() + me * n);
            both.set(mine_alone);
            comm.all_gather(out.tensor(), in.tensor(), Cargo::weights, stream).wait(stream);
            comm.all_gather(both.tensor(), both.tensor().slice_rows(me * n, n), Cargo::weights, stream).wait(stream);
            CHECK(out.get() == expected);
            CHECK(both.get() == expected);
        }
        {  // all_to_all
            std::vector<std::byte> expected;
            for (int r : ranks) {
                const std::vector<std::byte> theirs = noise(n, r, salt + 1, me * n);
                expected.insert(expected.end(), theirs.begin(), theirs.end());
            }
            Bytes in(Dtype::u8, P * n), out(Dtype::u8, P * n);
            in.set(noise(P * n, here, salt + 1));
            comm.all_to_all(out.tensor(), in.tensor(), Cargo::other, stream).wait(stream);
            CHECK(out.get() == expected);
        }
        for (int root = 0; root < P; root++) {  // broadcast
            Bytes data(Dtype::u8, n);
            data.set(noise(n, here, salt + 2 + root));
            comm.broadcast(data.tensor(), root, Cargo::weights, stream).wait(stream);
            CHECK(data.get() == noise(n, ranks[static_cast<size_t>(root)], salt + 2 + root));
        }
        if (P * n > 200'000) continue;  // brute force takes its time; of the messages, the long ones have been seen
        for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::i32, Dtype::i64}) {
            CAPTURE(name_of(dtype));
            std::vector<std::vector<std::byte>> all;
            for (int r : ranks) all.push_back(numbers(dtype, P * n, r, salt));
            for (const Reduce how : {Reduce::sum, Reduce::max}) {
                Bytes data(dtype, P * n);
                data.set(all[static_cast<size_t>(me)]);
                comm.all_reduce(data.tensor(), how, Cargo::other, stream).wait(stream);
                check_reduced(data.get(), dtype, all, 0, P * n, how);
                if (P * n == 0) continue;
                Bytes odd(dtype, P * n - 1);  // not divisible
                odd.set(part(all[static_cast<size_t>(me)], 0, odd.tensor().bytes()));
                comm.all_reduce(odd.tensor(), how, Cargo::other, stream).wait(stream);
                check_reduced(odd.get(), dtype, all, 0, P * n - 1, how);
            }
            if (dtype == Dtype::i32 || dtype == Dtype::i64) continue;
            Bytes in(dtype, P * n), out(dtype, n);
            in.set(all[static_cast<size_t>(me)]);
            comm.reduce_scatter(out.tensor(), in.tensor(), Cargo::gradients, stream).wait(stream);
            check_reduced(out.get(), dtype, all, me * n, n, Reduce::sum);
            comm.reduce_scatter(in.tensor().slice_rows(me * n, n), in.tensor(), Cargo::gradients, stream).wait(stream);
            CHECK(part(in.get(), me * n * size_of(dtype), n * size_of(dtype)) == out.get());
        }
    }
}

}  // namespace

Mesh& test_mesh() { return mesh(); }

TEST_SUITE("ranks") {
    TEST_CASE("ranks: every operation on the world, a node, across nodes, and odd and even ranks") {
        Mesh& m = mesh();
        CHECK(m.size() == m.nodes() * m.ranks_per_node());
        if (const char* transport = std::getenv("TEST_TRANSPORT"); transport && m.size() > 1 && on_gpu())
            CHECK(m.transport() == std::string(transport));
        CHECK(m.rank() == m.world().node_of(m.rank()) * m.ranks_per_node() + m.node().rank());
        check_all(m.world(), 100);
        check_all(m.node(), 200);
        check_all(m.across(), 300);
        // backwards: the last rank is the first of its half
        const auto half = m.world().split(m.rank() % 2, -m.rank(), "half");
        CHECK(half->world_rank_of(half->rank()) == m.rank());
        CHECK(half->node_of(half->rank()) == m.world().node_of(m.rank()));
        check_all(*half, 400);
    }

    TEST_CASE("ranks: messages of any sizes between any pairs, several to one peer, some to oneself") {
        Communicator& comm = mesh().world();
        const int P = comm.size(), me = comm.rank();
        const auto size_of_message = [](int from, int to, int k) {
            return int64_t{(from * 7 + to * 3 + k * 5) % 11} * (k == 2 ? 30'011 : 1);
        };
        std::deque<Bytes> sent, received;
        std::vector<Communicator::Message> sends, receives;
        for (int k = 0; k < 3; k++)
            for (int peer = 0; peer < P; peer++) {
                if ((me + peer + k) % 3 == 0) continue;  // not everybody to everybody
                const int64_t mine = size_of_message(me, peer, k), theirs = size_of_message(peer, me, k);
                sent.emplace_back(Dtype::u8, mine).set(noise(mine, me, 1000 * peer + k));
                received.emplace_back(Dtype::u8, theirs);
                sends.push_back({peer, sent.back().tensor()}), receives.push_back({peer, received.back().tensor()});
            }
        comm.exchange(sends, receives, Cargo::other, test_stream()).wait(test_stream());
        size_t i = 0;
        for (int k = 0; k < 3; k++)
            for (int peer = 0; peer < P; peer++) {
                if ((me + peer + k) % 3 == 0) continue;
                CHECK(received[i++].get() == noise(size_of_message(peer, me, k), peer, 1000 * me + k));
            }
        comm.exchange({}, {}, Cargo::other, test_stream()).wait(test_stream());
    }

    TEST_CASE("ranks: several operations are pending on two communicators, and each rank waits for them in an order of its own") {
        Communicator &world = mesh().world(), &node = mesh().node();
        Stream& stream = test_stream();
        const int P = world.size(), M = node.size(), me = world.rank();
        const int64_t n = 3'000'001;  // bytes
        Bytes all(Dtype::u8, P * n), one(Dtype::u8, n), node_all(Dtype::u8, M * n), next(Dtype::u8, n), given(Dtype::u8, n);
        Bytes sum(Dtype::f32, 1001), scattered(Dtype::f32, 501), summands(Dtype::f32, 501 * P);
        one.set(noise(n, me, 1)), given.set(noise(n, me, 2));
        sum.set(numbers(Dtype::f32, 1001, me, 3)), summands.set(numbers(Dtype::f32, 501 * P, me, 4));

        std::vector<Pending> pending;
        pending.push_back(world.all_gather(all.tensor(), one.tensor(), Cargo::weights, stream));
        pending.push_back(node.all_gather(node_all.tensor(), one.tensor(), Cargo::weights, stream));
        pending.push_back(world.all_reduce(sum.tensor(), Reduce::sum, Cargo::gradients, stream));
        pending.push_back(world.reduce_scatter(scattered.tensor(), summands.tensor(), Cargo::gradients, stream));
        pending.push_back(world.exchange({{(me + 1) % P, one.tensor()}}, {{(me + P - 1) % P, next.tensor()}}, Cargo::other, stream));
        pending.push_back(world.broadcast(given.tensor(), P - 1, Cargo::weights, stream));
        for (size_t i = 0; i < pending.size(); i++) {
            if (i == 2) world.progress();
            pending[(i * (me % 2 ? 5 : 1) + static_cast<size_t>(me)) % pending.size()].wait(stream);
        }

        std::vector<std::vector<std::byte>> sums, scatters;
        for (int r = 0; r < P; r++) {
            CHECK(part(all.get(), r * n, n) == noise(n, r, 1));
            sums.push_back(numbers(Dtype::f32, 1001, r, 3)), scatters.push_back(numbers(Dtype::f32, 501 * P, r, 4));
        }
        for (int r = 0; r < M; r++) CHECK(part(node_all.get(), r * n, n) == noise(n, node.world_rank_of(r), 1));
        check_reduced(sum.get(), Dtype::f32, sums, 0, 1001, Reduce::sum);
        check_reduced(scattered.get(), Dtype::f32, scatters, me * 501, 501, Reduce::sum);
        CHECK(next.get() == noise(n, (me + P - 1) % P, 1));
        CHECK(given.get() == noise(n, P - 1, 2));
    }

    TEST_CASE("ranks: the largest of numbers with a NaN is NaN, on all ranks") {
        Bytes x(Dtype::f32, 3);
        const float values[3] = {mesh().rank() == 0 ? NAN : 1.0f, mesh().rank() == mesh().size() - 1 ? NAN : 2.0f, -INFINITY};
        test_stream().upload(x.tensor(), values);
        mesh().world().all_reduce(x.tensor(), Reduce::max, Cargo::other, test_stream()).wait(test_stream());
        float result[3];
        test_stream().download(result, x.tensor());
        CHECK(std::isnan(result[0]));
        CHECK(std::isnan(result[1]));
        CHECK(result[2] == -INFINITY);
    }

    TEST_CASE("ranks: a barrier lets nobody pass before the last has come, and the time is counted") {
        const int P = mesh().size(), me = mesh().rank();
        mesh().world().barrier(test_stream());
        mesh().world().traffic() = {};
        std::this_thread::sleep_for(std::chrono::milliseconds(20 * me));
        const int64_t came = nanoseconds();
        mesh().world().barrier(test_stream());
        const int64_t left = nanoseconds();
        const double waited = mesh().world().traffic().waited_seconds;
        CHECK(waited <= static_cast<double>(left - came) * 1e-9);
        const std::vector<int64_t> all_came = gathered(came), all_left = gathered(left);
        CHECK(std::ranges::max(all_came) <= std::ranges::min(all_left));
        CHECK(waited >= 0.5e-9 * static_cast<double>(std::ranges::max(all_came) - came));  // half: it may be kept from its core in between
        CHECK(mesh().world().traffic().bytes() == 2 * 8 * (P - 1));                        // of the two gathers: a barrier sends nothing
    }

    TEST_CASE("ranks: progress() alone carries an operation through for the others") {
        Stream& stream = test_stream();
        Bytes data(Dtype::f32, 200'003);
        data.set(numbers(Dtype::f32, 200'003, mesh().rank(), 5));
        Pending pending = mesh().world().all_reduce(data.tensor(), Reduce::sum, Cargo::other, stream);
        if (mesh().rank() == 0 && mesh().size() > 1)
            for (const int64_t start = nanoseconds(); nanoseconds() < start + 500'000'000;) {
                mesh().world().progress();
                std::this_thread::sleep_for(std::chrono::microseconds(100));
            }
        const int64_t before = nanoseconds();
        pending.wait(stream);
        const int64_t after = nanoseconds();
        const std::vector<int64_t> all_before = gathered(before), all_after = gathered(after);
        for (size_t r = 1; r < all_after.size(); r++) CHECK(all_after[r] < all_before[0]);
    }

    TEST_CASE("ranks: what is sent is counted to the byte, by cargo and by link") {
        Mesh& m = mesh();
        Stream& stream = test_stream();
        Communicator& world = m.world();
        const int P = m.size(), me = m.rank(), M = m.ranks_per_node();
        const int64_t inside = M - 1, between = P - M;  // peers
        Bytes small(Dtype::f32, 7), large(Dtype::f32, 7 * P), other(Dtype::f32, 7 * P), bytes(Dtype::u8, 5);
        world.barrier(stream);
        world.traffic() = {};
        std::fill(bytes_sent().begin(), bytes_sent().end(), 0);
        const auto check = [&](Cargo cargo, int64_t inside_bytes, int64_t between_bytes) {
            CHECK(world.traffic().of(cargo).inside_node == inside_bytes);
            CHECK(world.traffic().of(cargo).between_nodes == between_bytes);
            CHECK(world.traffic().bytes() == inside_bytes + between_bytes);
            if (m.transport() == std::string("mpi"))
                CHECK(std::accumulate(bytes_sent().begin(), bytes_sent().end(), int64_t{0}) == inside_bytes + between_bytes);
            world.traffic() = {};
            std::fill(bytes_sent().begin(), bytes_sent().end(), 0);
        };
        world.all_gather(large.tensor(), small.tensor(), Cargo::weights, stream).wait(stream);
        check(Cargo::weights, 28 * inside, 28 * between);
        world.reduce_scatter(small.tensor(), large.tensor(), Cargo::gradients, stream).wait(stream);
        check(Cargo::gradients, 28 * inside, 28 * between);
        world.all_to_all(other.tensor(), large.tensor(), Cargo::other, stream).wait(stream);
        check(Cargo::other, 28 * inside, 28 * between);
        world.all_reduce(large.tensor(), Reduce::max, Cargo::gradients, stream).wait(stream);
        check(Cargo::gradients, 56 * inside, 56 * between);
        world.broadcast(bytes.tensor(), P - 1, Cargo::weights, stream).wait(stream);
        check(Cargo::weights, me == P - 1 ? 5 * inside : 0, me == P - 1 ? 5 * between : 0);
        m.node().all_gather(large.tensor().slice_rows(0, 7 * M), small.tensor(), Cargo::other, stream).wait(stream);
        check(Cargo::other, 28 * inside, 0);
        m.across().all_gather(large.tensor().slice_rows(0, 7 * m.nodes()), small.tensor(), Cargo::other, stream).wait(stream);
        check(Cargo::other, 0, 28 * (m.nodes() - 1));
        world
            .exchange({{me, small.tensor()}, {(me + 1) % P, bytes.tensor()}},
                      {{me, other.tensor().slice_rows(0, 7)}, {(me + P - 1) % P, bytes.tensor()}}, Cargo::other, stream)
            .wait(stream);
        const bool same_node = world.node_of(me) == world.node_of((me + 1) % P);
        check(Cargo::other, P > 1 && same_node ? 5 : 0, same_node ? 0 : 5);
        // three elements among P ranks: some add up none of them
        int64_t to_inside = 0, to_between = 0;
        for (int peer = 0; peer < P; peer++) {
            if (peer == me) continue;
            int64_t elements = 0;
            for (int64_t i = 0; i < 3; i++)
                for (int owner : {peer, me}) elements += 3 * owner / P <= i && i < 3 * (owner + 1) / P;
            (world.node_of(peer) == world.node_of(me) ? to_inside : to_between) += 4 * elements;
        }
        world.all_reduce(small.tensor().slice_rows(0, 3), Reduce::sum, Cargo::gradients, stream).wait(stream);
        check(Cargo::gradients, to_inside, to_between);
        world.barrier(stream);
    }

    TEST_CASE("ranks: an operation that nobody waited for is a bug, unless an exception is under way") {
        Stream& stream = test_stream();
        Bytes x(Dtype::f32, 4);
        const auto begin = [&] { return mesh().world().all_reduce(x.tensor(), Reduce::sum, Cargo::other, stream); };
        CHECK_THROWS_AS({ Pending dropped = begin(); }, std::logic_error);
        CHECK_THROWS_AS(
            {
                Pending open = begin();
                throw Error(ExitCode::data, "of another kind");
            },
            Error);
        Pending twice = begin();
        twice.wait(stream);
        CHECK_THROWS_AS(twice.wait(stream), std::logic_error);
        Pending moved = begin(), to = std::move(moved);
        CHECK(!moved);
        CHECK_THROWS_AS(to = begin(), std::logic_error);
        to.wait(stream);
        mesh().world().barrier(stream);
    }

    TEST_CASE("ranks: tensors that do not fit together are refused before anything is sent") {
        Communicator& world = mesh().world();
        Stream& stream = test_stream();
        const int P = world.size();
        Bytes n(Dtype::f32, 6), all(Dtype::f32, 6 * P + 1), halves(Dtype::bf16, 6 * P), codes(Dtype::u8, 6 * P), codes_n(Dtype::u8, 6);
        const Tensor strided = Tensor(all.tensor().data, Dtype::f32, {2, 3}).slice_cols(0, 2);
        CHECK_THROWS_AS((void)world.all_gather(all.tensor(), n.tensor(), Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.all_gather(halves.tensor(), n.tensor(), Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.reduce_scatter(codes_n.tensor(), codes.tensor(), Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.all_reduce(codes.tensor(), Reduce::sum, Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.all_reduce(strided, Reduce::sum, Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.all_to_all(n.tensor(), n.tensor(), Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.broadcast(n.tensor(), P, Cargo::other, stream), std::logic_error);
        CHECK_THROWS_AS((void)world.exchange({{P, n.tensor()}}, {}, Cargo::other, stream), std::logic_error);
        world.barrier(stream);  // and the ranks still agree
    }
}

}  // namespace traincu::test
