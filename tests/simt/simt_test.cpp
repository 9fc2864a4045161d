// The runner itself: that it computes what CUDA would, and that it catches what it says it catches.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "src/base/error.h"
#include "src/device/stream.h"
#include "tests/simt/access.h"
#include "tests/simt/faults/faults.h"
#include "tests/simt/runner.h"
#include "tests/simt/support.h"

using namespace traincu;
using namespace traincu::simt_test;
namespace faults = traincu::simt_faults;

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

    TEST_CASE("simt: arguments are passed by value") {
        Stream stream = gpu_stream();
        Managed<float> out(1, 0.0f);
        faults::sum_pack(out.data, stream);
        stream.synchronize();
        CHECK(out[0] == 10.0f);
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
            faults::shuffle_from_outside(out.data, faulty, stream);
            check_failure(failure(stream), faulty, {"reads in __shfl_sync lane 20, which mask 0x0000ffff leaves out"});
            faults::divergent_barrier(out.data, faulty, stream);
            check_failure(failure(stream), faulty, {"is at another: __syncthreads at tests/simt/faults/basics.cu:"});
            faults::thread_leaves_before_barrier(out.data, faulty, stream);
            check_failure(failure(stream), faulty, {"waits in __syncthreads", "which has ended"});
        }
        faults::half_a_warp(out.data, stream);
        check_failure(failure(stream), true, {"its warp has the lanes 0x0000ffff"});
    }

    TEST_CASE("simt: faults in global memory are named") {
        Stream stream = gpu_stream();
        Managed<float> in(64, 2.0f), out(128, 0.0f);
        const auto run = [&](bool faulty, const std::vector<std::string>& parts, const std::function<void()>& put_in_line) {
            CAPTURE(faulty);
            put_in_line();
            check_failure(failure(stream), faulty, parts);
        };
        run(false, {}, [&] { faults::read_shifted(out.data, in.data, 64, 0, stream); });
        run(true,
            {"kernel shift_kernel, block (0,0,0), thread (63,0,0), tests/simt/faults/memory.cu:", "out of bounds: byte 256 of managed"},
            [&] { faults::read_shifted(out.data, in.data, 64, 1, stream); });
        run(true, {"thread (0,0,0)", "reads 4 bytes out of bounds: byte -4 of managed"},
            [&] { faults::read_shifted(out.data, in.data, 1, -1, stream); });
        run(true, {"writes 4 bytes out of bounds"}, [&] { faults::read_shifted(out.data + 100, in.data, 64, 0, stream); });
        run(false, {}, [&] { faults::copy_pack(out.data, in.data + 4, stream); });
        run(true, {"memory.cu:", "reads 16 bytes out of bounds"}, [&] { faults::copy_pack(out.data, in.data + 64, stream); });
        run(true, {"memory.cu:", "not aligned"}, [&] { faults::copy_pack(out.data, in.data + 1, stream); });
        run(true, {"not aligned"}, [&] { faults::copy_pack(out.data + 2, in.data, stream); });
        Managed<double> real(1, 0.0);
        run(false, {}, [&] { faults::read_double(real.data, in.data + 2, stream); });
        run(true, {"accesses 8 bytes", "not aligned"}, [&] { faults::read_double(real.data, in.data + 1, stream); });
        float of_host = 1;
        run(true, {"neither shared memory nor memory of the device"}, [&] { faults::read_shifted(out.data, &of_host, 1, 0, stream); });
        run(true, {"a local variable of another thread"}, [&] { faults::read_local_of_other(out.data, stream); });
        auto* released = static_cast<float*>(gpu::allocate_managed(256));
        gpu::release(released);
        run(true, {"released"}, [&] { faults::read_shifted(out.data, released, 1, 0, stream); });
        for (bool faulty : {false, true}) {
            auto* device = static_cast<float*>(gpu::allocate(64 * 4));
            faults::produce(device, 64, faulty, stream);
            run(faulty, {"kernel shift_kernel", "thread (5,0,0)", "reads byte 20 of device allocation", "nobody wrote"},
                [&] { faults::consume(out.data, device, 64, stream); });
            gpu::release(device);
        }
    }

    TEST_CASE("simt: races in global memory are named") {
        for (uint64_t seed = 1; seed <= 5; seed++) {
            simt::reseed(seed);
            Stream stream = gpu_stream();
            Managed<float> out(128, 0.0f), scratch(64, 0.0f);
            for (bool faulty : {false, true}) {
                CAPTURE(faulty);
                faults::blocks_write(out.data, faulty, stream);
                check_failure(failure(stream), faulty, {"kernel blocks_write_kernel", "writes byte", "which block (", "wrote"});
                faults::read_of_neighbour(out.data, scratch.data, faulty, stream);
                check_failure(failure(stream), faulty, {"kernel neighbour_read_kernel", "which thread (", "nothing orders the two"});
                Managed<unsigned> counter(1, 0u);
                faults::last_block_sums(out.data, scratch.data, counter.data, faulty, stream);
                check_failure(failure(stream), faulty, {"kernel last_block_kernel", "reads byte", "which block ("});
                if (!faulty) CHECK(out[0] == 4.0f);
                faults::atomics_meet(scratch.data, faulty, stream);
                check_failure(failure(stream), faulty, {"kernel atomics_meet_kernel", "byte 0 of managed", "which"});
            }
            faults::write_neighbours(reinterpret_cast<bf16*>(out.data), stream);
            CHECK(failure(stream) == "");
        }
        simt::reseed(1);
    }

    TEST_CASE("simt: faults in shared memory are named") {
        for (uint64_t seed = 1; seed <= 5; seed++) {
            simt::reseed(seed);
            Stream stream = gpu_stream();
            Managed<float> in(3 * 64, 2.0f), out(64, 0.0f);
            Managed<uint32_t> words(128, 0u);
            faults::reverse(out.data, 0, stream);
            CHECK(failure(stream) == "");
            CHECK(out[3] == 120.0f);
            for (int fault : {1, 2}) {
                faults::reverse(out.data, fault, stream);
                check_failure(failure(stream), true, {"kernel reverse_kernel", "of shared memory, which"});
            }
            faults::warp_reverse(out.data, 0, stream);
            CHECK(failure(stream) == "");
            for (int fault : {1, 2, 3}) {  // 3: nothing at all
                faults::warp_reverse(out.data, fault, stream);
                check_failure(failure(stream), true, {"kernel warp_reverse_kernel", "of shared memory, which"});
            }
            for (bool faulty : {false, true}) {
                faults::uninitialised_shared(out.data, faulty, stream);
                check_failure(failure(stream), faulty, {"thread (7,0,0)", "reads byte 28 of shared memory, which nobody wrote"});
                faults::beyond_shared(out.data, faulty ? 4 : 3, false, stream);
                check_failure(failure(stream), faulty, {"writes 4 bytes at byte 16 of shared memory, beyond the 16 bytes"});
                faults::beyond_shared(out.data, faulty ? 8 : 7, true, stream);
                check_failure(failure(stream), faulty, {"outside of any shared_array()"});
                faults::static_beside_dynamic(out.data, faulty, stream);
                check_failure(failure(stream), faulty,
                              {"has 50720 bytes of shared memory with its static arrays, more than launch() asks for"});
                faults::ldmatrix_rows(words.data, faulty, stream);
                check_failure(failure(stream), faulty, {"kernel ldmatrix_kernel", "not aligned"});
            }
            faults::pipeline(out.data, in.data, 3, 0, stream);
            CHECK(failure(stream) == "");
            CHECK(out[0] == 6.0f);
            for (int fault : {1, 4}) {
                faults::pipeline(out.data, in.data, 3, fault, stream);
                check_failure(failure(stream), true, {"kernel pipeline_kernel", "to which an asynchronous copy is under way"});
            }
            for (int fault : {2, 3}) {
                faults::pipeline(out.data, in.data, 3, fault, stream);
                check_failure(failure(stream), true, {"kernel pipeline_kernel", "of shared memory"});
            }
        }
        simt::reseed(1);
    }

    TEST_CASE("simt: a forgotten event is a race, in whatever order the streams go on") {
        for (uint64_t seed = 1; seed <= 10; seed++) {
            simt::reseed(seed);
            Stream first = gpu_stream(), second = gpu_stream();
            Managed<float> data(64, 0.0f), out(64, 0.0f);
            const gpu::EventHandle event = gpu::create_event();
            for (bool faulty : {false, true}) {
                faults::produce(data.data, 64, false, first);
                gpu::record(event, first.handle());
                if (!faulty) gpu::wait(second.handle(), event);
                faults::consume(out.data, data.data, 64, second);
                std::string text = failure(second);
                if (text.empty()) text = failure(first);
                check_failure(text, faulty, {"kernel ", ", which kernel ", "event is missing"});
            }
            // the host's waiting is an order too
            faults::produce(data.data, 64, false, first);
            first.synchronize();
            faults::consume(out.data, data.data, 64, second);
            CHECK(failure(second) == "");
            gpu::destroy_event(event);
        }
        simt::reseed(1);
    }

    TEST_CASE("simt: the host touches device memory: it dies with a sentence") {
        auto* device = static_cast<volatile int*>(gpu::allocate(64));
        Stream stream = gpu_stream();
        gpu::fill_bytes(const_cast<int*>(device), 0, 64, stream.handle());
        stream.synchronize();  // the device's side had access
        int ends[2];
        REQUIRE(pipe(ends) == 0);
        const pid_t child = fork();
        if (child == 0) {
            dup2(ends[1], STDOUT_FILENO), dup2(ends[1], STDERR_FILENO);
            device[3] = 1;
            _exit(0);
        }
        close(ends[1]);
        std::string text;
        char buffer[256];
        for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
        close(ends[0]);
        int status = 0;
        waitpid(child, &status, 0);
        CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
        check_failure(text, true, {"the host touches device memory: byte 12 of device allocation"});
        gpu::release(const_cast<int*>(device));
    }

    TEST_CASE("simt: what was written stays known when stamps begin anew") {
        Stream stream = gpu_stream();
        auto* device = static_cast<float*>(gpu::allocate(64 * 4));
        Managed<float> out(64, 0.0f);
        faults::produce(device, 32, false, stream);
        stream.synchronize();
        simt::forget_stamps();
        faults::consume(out.data, device, 32, stream);
        CHECK(failure(stream) == "");
        faults::consume(out.data, device, 33, stream);
        check_failure(failure(stream), true, {"reads byte 128 of device allocation", "nobody wrote"});
        gpu::release(device);
    }

    TEST_CASE("simt: copies carry what nobody wrote, as NaN") {
        Stream stream = gpu_stream();
        auto* device = static_cast<float*>(gpu::allocate(64 * 4));
        auto* copied = static_cast<float*>(gpu::allocate(64 * 4));
        Managed<float> out(64, 0.0f);
        std::vector<float> host(64, 0.0f);
        faults::produce(device, 64, true, stream);  // all but element 5
        gpu::copy(copied, device, 64 * 4, stream.handle());
        gpu::copy(host.data(), copied, 64 * 4, stream.handle());
        faults::consume(out.data, copied, 5, stream);
        CHECK(failure(stream) == "");
        CHECK(host[4] == 1.0f);
        CHECK(std::isnan(host[5]));
        faults::consume(out.data, copied, 6, stream);
        check_failure(failure(stream), true, {"reads byte 20 of device allocation", "nobody wrote"});
        gpu::fill_bytes(copied, 0, 64 * 4, stream.handle());
        faults::consume(out.data, copied, 6, stream);
        CHECK(failure(stream) == "");
        CHECK(out[5] == 0.0f);
        gpu::release(device), gpu::release(copied);
    }

    TEST_CASE("simt: launches that CUDA refuses") {
        Stream stream = gpu_stream();
        Managed<int32_t> out(64, 0);
        CHECK_THROWS_AS(faults::coordinates(out.data, 1025, 1, 1, stream), Error);
        CHECK_THROWS_AS(faults::coordinates(out.data, 0, 1, 1, stream), Error);
    }
}
