// The runner itself: that it computes what CUDA would, and that it catches what it says it catches.
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "src/base/error.h"
#include "src/device/stream.h"
#include "tests/simt/faults/faults.h"
#include "tests/simt/runner.h"

using namespace traincu;
namespace faults = traincu::simt_faults;

namespace {

template <class T>
struct Managed {
    T* data;
    int64_t n;
    explicit Managed(int64_t count, T value = T{}) : data(static_cast<T*>(gpu::allocate_managed(count * int64_t{sizeof(T)}))), n(count) {
        for (int64_t i = 0; i < n; i++) data[i] = value;
    }
    ~Managed() { gpu::release(data); }
    Managed(const Managed&) = delete;
    Managed& operator=(const Managed&) = delete;
    T& operator[](int64_t i) { return data[i]; }
};

// What synchronize() says; empty if it returns.
std::string failure(const Stream& stream) {
    try {
        stream.synchronize();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}
// A faulty kernel must end with a sentence that has these parts, its correct sibling with none.
void check_failure(const std::string& text, bool faulty, const std::vector<std::string>& parts) {
    CAPTURE(text);
    if (!faulty) CHECK(text == "");
    if (faulty)
        for (const std::string& part : parts) {
            CAPTURE(part);
            CHECK(text.find(part) != std::string::npos);
        }
}

Stream gpu_stream() { return Stream(Device::cuda, 1 << 20); }

}  // namespace

TEST_SUITE("simt") {
    TEST_CASE("simt: nothing runs before the host waits, everything after") {
        Stream stream = gpu_stream();
        Managed<float> a(1000, 2.0f), b(1000, 3.0f), out(1000, -1.0f);
        faults::add(out.data, a.data, b.data, 1000, 1000, stream);
        CHECK(out[999] == -1.0f);
        stream.synchronize();
        for (int64_t i = 0; i < 1000; i++) REQUIRE(out[i] == 5.0f);
    }

    TEST_CASE("simt: coordinates of threads and blocks in three dimensions") {
        Stream stream = gpu_stream();
        for (auto [x, y, z] : {std::array{8u, 4u, 2u}, std::array{1u, 1u, 1u}, std::array{33u, 3u, 1u}, std::array{1024u, 1u, 1u}}) {
            const int64_t n = int64_t{12} * x * y * z;
            Managed<int32_t> out(n, -1);
            faults::coordinates(out.data, x, y, z, stream);
            stream.synchronize();
            for (int64_t i = 0; i < n; i++) REQUIRE(out[i] == i);
        }
    }

    TEST_CASE("simt: shuffles, votes and barriers that vote") {
        Stream stream = gpu_stream();
        Managed<int32_t> out(64 * 12, -1);
        faults::collectives(out.data, stream);
        stream.synchronize();
        for (int t = 0; t < 64; t++) {
            const int lane = t % 32;
            CAPTURE(t);
            uint32_t thirds = 0;
            for (int l = 0; l < 32; l += 3) thirds |= 1u << l;
            const int32_t expected[12] = {5,
                                          lane >= 3 ? lane - 3 : lane,
                                          lane + 3 < 32 ? lane + 3 : lane,
                                          lane ^ 9,
                                          lane / 8 * 8 + 5,
                                          lane % 16 + 3 < 16 ? lane + 3 : lane,
                                          static_cast<int32_t>(thirds),
                                          1,
                                          3 * (lane ^ 1),
                                          lane < 16 ? lane ^ 1 : lane ^ 2,
                                          14 * 4 + 2 + 0,
                                          static_cast<int32_t>(15u << lane / 4 * 4)};
            for (int i = 0; i < 12; i++) {
                CAPTURE(i);
                REQUIRE(out[t * 12 + i] == expected[i]);
            }
        }
    }

    TEST_CASE("simt: sums of blocks") {
        Stream stream = gpu_stream();
        Managed<float> in(1000, 0.5f), out(4, -1.0f);
        faults::sum_blocks(out.data, in.data, 1000, 4, stream);
        stream.synchronize();
        CHECK(out[0] + out[1] + out[2] + out[3] == 500.0f);
    }

    TEST_CASE("simt: a product through cp.async, ldmatrix and mma, bf16 and fp16") {
        Stream stream = gpu_stream();
        for (bool is_bf16 : {true, false}) {
            Managed<uint16_t> a(256), b(128);
            Managed<float> out(128, -1.0f);
            const auto value = [&](int i, int j, int salt) {
                return static_cast<float>((i * 7 + j * 3 + salt) % 11 - 5);
            };  // exact in both
            const auto bits = [&](float x) -> uint16_t {
                if (is_bf16) return float_to_bf16(x);
                const _Float16 half = static_cast<_Float16>(x);
                uint16_t result;
                std::memcpy(&result, &half, 2);
                return result;
            };
            for (int i = 0; i < 16; i++)
                for (int k = 0; k < 16; k++) a[i * 16 + k] = bits(value(i, k, 1));
            for (int j = 0; j < 8; j++)
                for (int k = 0; k < 16; k++) b[j * 16 + k] = bits(value(j, k, 2));
            faults::product_m16n8k16(out.data, a.data, b.data, is_bf16, stream);
            stream.synchronize();
            for (int i = 0; i < 16; i++)
                for (int j = 0; j < 8; j++) {
                    float sum = 0;
                    for (int k = 0; k < 16; k++) sum += value(i, k, 1) * value(j, k, 2);
                    REQUIRE(out[i * 8 + j] == sum);
                }
        }
    }

    TEST_CASE("simt: atomics") {
        Stream stream = gpu_stream();
        Managed<int32_t> counters(3, 0);
        faults::count_atomically(counters.data, stream);
        stream.synchronize();
        CHECK(counters[0] == 480);
        CHECK(counters[1] == 479);
        CHECK(counters[2] == 7);
    }

    TEST_CASE("simt: copies take pageable memory at once, pinned memory when they are done") {
        Stream stream = gpu_stream();
        auto* device = static_cast<int32_t*>(gpu::allocate(8));
        auto* pinned = static_cast<int32_t*>(gpu::allocate_pinned(4));
        int32_t pageable = 1, result[2] = {0, 0};
        *pinned = 1;
        gpu::copy(device, &pageable, 4, stream.handle());
        gpu::copy(device + 1, pinned, 4, stream.handle());
        pageable = 2, *pinned = 2;
        gpu::copy(result, device, 8, stream.handle());
        CHECK(result[1] == 0);
        stream.synchronize();
        CHECK(result[0] == 1);
        CHECK(result[1] == 2);
        CHECK_THROWS_AS(gpu::copy(device + 1, &pageable, 8, stream.handle()), Error);
        gpu::release(device), gpu::release_pinned(pinned);
    }

    TEST_CASE("simt: events order streams") {
        for (uint64_t seed = 1; seed <= 20; seed++) {
            simt::reseed(seed);
            Stream first = gpu_stream(), second = gpu_stream();
            Managed<int32_t> memory(2, 0);
            gpu::EventHandle event = gpu::create_event();
            gpu::wait(second.handle(), event);  // never recorded: past
            int32_t one = 1;
            gpu::copy(memory.data, &one, 4, first.handle());
            gpu::record(event, first.handle());
            gpu::wait(second.handle(), event);
            gpu::copy(memory.data + 1, memory.data, 4, second.handle());
            second.synchronize();
            CHECK(memory[1] == 1);
            gpu::destroy_event(event);
        }
        simt::reseed(1);
    }

    TEST_CASE("simt: faults of control flow are named") {
        Stream stream = gpu_stream();
        Managed<int32_t> out(64, 0);
        for (bool faulty : {true, false}) {
            CAPTURE(faulty);
            faults::shuffle_missing_lane(out.data, faulty, stream);
            check_failure(failure(stream), faulty,
                          {"kernel shuffle_missing_lane_kernel", "__shfl_xor_sync", "thread (9,0,0), which has ended"});
            faults::divergent_barrier(out.data, faulty, stream);
            check_failure(failure(stream), faulty, {"is at another: __syncthreads at tests/simt/faults/basics.cu:"});
            faults::thread_leaves_before_barrier(out.data, faulty, stream);
            check_failure(failure(stream), faulty, {"waits in __syncthreads", "which has ended"});
        }
        faults::half_a_warp(out.data, stream);
        check_failure(failure(stream), true, {"its warp has the lanes 0x0000ffff"});
    }

    TEST_CASE("simt: launches that CUDA refuses") {
        Stream stream = gpu_stream();
        Managed<int32_t> out(64, 0);
        CHECK_THROWS_AS(faults::coordinates(out.data, 1025, 1, 1, stream), Error);
        CHECK_THROWS_AS(faults::coordinates(out.data, 0, 1, 1, stream), Error);
    }
}
