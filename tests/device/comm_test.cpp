// The communicator on as many ranks as this executable was started with: one in `build/run_tests`, more in
// `mpirun -np 4 build/run_tests -ts=ranks`. Every rank can compute what all others send, so each checks its own results by brute force.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "src/base/arena.h"
#include "src/parallel/mesh.h"
#include "tests/support/device.h"

namespace traincu::test {

namespace {

int from_environment(const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}

// One for all tests; it ends MPI when the process exits.
Mesh& mesh() {
    static Mesh mesh;
    static const bool started = [] {
        MeshOptions options;
        options.ranks_per_node = from_environment("TEST_RANKS_PER_NODE", 0);
        options.largest_message = from_environment("TEST_LARGEST_MESSAGE", 1 << 30);
        options.timeout_seconds = 30;
        mesh.start(options);
        return true;
    }();
    (void)started;
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
        test_stream().download(bytes.data(), tensor_);
        return bytes;
    }
    void set(const std::vector<std::byte>& bytes) {
        REQUIRE(static_cast<int64_t>(bytes.size()) == tensor_.bytes());
        test_stream().upload(tensor_, bytes.data());
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
std::vector<std::byte> noise(int64_t n, int rank, int salt) {
    std::vector<std::byte> bytes(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; i++) bytes[static_cast<size_t>(i)] = static_cast<std::byte>(hash(rank, i, salt));
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

// Odd ones, and one that is too long to be sent before it is asked for.
std::vector<int64_t> lengths() { return {0, 1, 7, 1000, 40'003, 700'001}; }

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
                const std::vector<std::byte> theirs = part(noise(P * n, r, salt + 1), me * n, n);
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
        if (n > 100'000) continue;  // sums: the same path of messages
        for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::i32, Dtype::i64}) {
            CAPTURE(name_of(dtype));
            std::vector<std::vector<std::byte>> all;
            for (int r : ranks) all.push_back(numbers(dtype, P * n, r, salt));
            for (const Reduce how : {Reduce::sum, Reduce::max}) {
                Bytes data(dtype, P * n);
                data.set(all[static_cast<size_t>(me)]);
                comm.all_reduce(data.tensor(), how, Cargo::other, stream).wait(stream);
                CHECK(data.get() == reduced(dtype, all, 0, P * n, how));
                if (P * n == 0) continue;
                Bytes odd(dtype, P * n - 1);  // not divisible
                odd.set(part(all[static_cast<size_t>(me)], 0, odd.tensor().bytes()));
                comm.all_reduce(odd.tensor(), how, Cargo::other, stream).wait(stream);
                CHECK(odd.get() == reduced(dtype, all, 0, P * n - 1, how));
            }
            if (dtype == Dtype::i32 || dtype == Dtype::i64) continue;
            Bytes in(dtype, P * n), out(dtype, n);
            in.set(all[static_cast<size_t>(me)]);
            comm.reduce_scatter(out.tensor(), in.tensor(), Cargo::gradients, stream).wait(stream);
            CHECK(out.get() == reduced(dtype, all, me * n, n, Reduce::sum));
            comm.reduce_scatter(in.tensor().slice_rows(me * n, n), in.tensor(), Cargo::gradients, stream).wait(stream);
            CHECK(part(in.get(), me * n * size_of(dtype), n * size_of(dtype)) == out.get());
        }
    }
}

}  // namespace

TEST_SUITE("ranks") {
    TEST_CASE("ranks: every operation, on the world, a node, across nodes, and odd and even ranks") {
        Mesh& m = mesh();
        CHECK(m.size() == m.nodes() * m.ranks_per_node());
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
}

}  // namespace traincu::test
