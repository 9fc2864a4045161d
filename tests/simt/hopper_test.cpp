// Hopper's instructions under the runner: that they compute what kernels/hopper.h says, and which faults are caught.
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "src/device/stream.h"
#include "tests/simt/faults/faults.h"
#include "tests/simt/runner.h"
#include "tests/simt/support.h"

using namespace traincu;
using namespace traincu::simt_test;
namespace faults = traincu::simt_faults;

namespace {

float value(int64_t i, int64_t j, int salt) { return static_cast<float>((i * 7 + j * 3 + i * j % 5 + salt) % 11 - 5); }  // exact in bf16

// (rows, columns) of value(), or its transpose
void fill(Managed<bf16>& matrix, int64_t rows, int64_t columns, int salt, bool transposed) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) matrix[transposed ? j * rows + i : i * columns + j] = {float_to_bf16(value(i, j, salt))};
}
void check_product(Managed<float>& out, int64_t n) {
    for (int64_t i = 0; i < 64; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            for (int64_t k = 0; k < 64; k++) sum += value(i, k, 1) * value(j, k, 2);
            REQUIRE(out[i * n + j] == sum);
        }
}

}  // namespace

TEST_SUITE("simt") {
    TEST_CASE("simt: a product through TMA and wgmma, and its faults") {
        using Fault = faults::HopperFault;
        Managed<bf16> a(64 * 64), b(64 * 64);
        fill(a, 64, 64, 1, false), fill(b, 64, 64, 2, false);
        for (uint64_t seed = 1; seed <= 5; seed++) {
            simt::reseed(seed);
            CAPTURE(seed);
            Stream stream = gpu_stream();
            Managed<float> out(64 * 64, -1.0f);
            const auto run = [&](Fault fault) {
                faults::tma_product(out.data, a.data, b.data, fault, stream);
                return failure(stream);
            };
            CHECK(run(Fault::none) == "");
            check_product(out, 64);
            check_failure(run(Fault::no_init_fence), true, {"kernel tma_product_kernel", "fence_mbarrier_init() is missing"});
            check_failure(run(Fault::no_barrier_after_init), true, {"kernel tma_product_kernel"});
            check_failure(run(Fault::too_many_bytes), true, {"waits in mbarrier_wait", "0 arrivals and 16 bytes are missing"});
            check_failure(run(Fault::no_wait), true, {"wgmma reads byte", "asynchronous copy is under way"});
            check_failure(run(Fault::only_one_waits), true, {"wgmma reads byte"});
            check_failure(run(Fault::wrong_parity), true, {"kernel tma_product_kernel"});
            check_failure(run(Fault::misplaced), true, {"wgmma reads byte"});
            check_failure(run(Fault::no_wgmma_fence), true, {"no wgmma_fence()"});
            check_failure(run(Fault::overwritten_under_way), true, {"writes byte", "which wgmma reads: it is under way"});
            CHECK(run(Fault::read_before_wgmma_wait) == "");  // no rule is broken, but the sums are not there yet
            CHECK(std::isnan(out[0]));
            check_failure(run(Fault::unnamed_in_wait), true, {"hopper.cu:", "does not name an array in wgmma_wait()"});
            check_failure(run(Fault::waits_for_too_few), true,
                          {"hopper.cu:", "names an array in wgmma_wait() whose wgmma is still under way"});
            check_failure(run(Fault::no_wgmma_wait), true, {"the block ends while a wgmma is under way"});
        }
        simt::reseed(1);
    }

    TEST_CASE("simt: wgmma in every layout, from shared memory and from registers") {
        Stream stream = gpu_stream();
        for (int n : {64, 128})
            for (bool a_transposed : {false, true})
                for (bool b_transposed : {false, true})
                    for (bool from_registers : {false, true}) {
                        if (from_registers && a_transposed) continue;
                        CAPTURE(n);
                        CAPTURE(a_transposed);
                        CAPTURE(b_transposed);
                        CAPTURE(from_registers);
                        Managed<bf16> a(64 * 64), b(n * 64);
                        Managed<float> out(64 * n, -1.0f);
                        fill(a, 64, 64, 1, a_transposed), fill(b, n, 64, 2, b_transposed);
                        faults::stored_product(out.data, a.data, b.data, n, a_transposed, b_transposed, from_registers, true, stream);
                        REQUIRE(failure(stream) == "");
                        check_product(out, n);
                        faults::stored_product(out.data, a.data, b.data, n, a_transposed, b_transposed, from_registers, false, stream);
                        check_failure(failure(stream), true, {"kernel stored_product_kernel", "without a fence_proxy_async()"});
                    }
    }

    TEST_CASE("simt: a ring of stages between a producer and consumers, and its faults") {
        using Fault = faults::RingFault;
        const int tiles = 7;
        const int64_t rows = 16 * tiles - 5;  // the last tile is ragged
        Managed<bf16> in(rows * 2 * 64);
        for (int64_t i = 0; i < in.n; i++) in[i] = {float_to_bf16(value(i / 128, i % 128, 3))};
        for (uint64_t seed = 1; seed <= 5; seed++) {
            simt::reseed(seed);
            CAPTURE(seed);
            Stream stream = gpu_stream();
            Managed<float> out(64, -1.0f);
            const auto run = [&](Fault fault) {
                faults::ring_sums(out.data, in.data, rows, tiles, fault, stream);
                return failure(stream);
            };
            CHECK(run(Fault::none) == "");
            for (int64_t c = 0; c < 64; c++) {
                float sum = 0;
                for (int64_t r = 0; r < rows; r++) sum += value(r, 64 + c, 3);
                REQUIRE(out[c] == sum);
            }
            check_failure(run(Fault::no_wait_for_empty), true, {"kernel ring_kernel", "thread (128,0,0)"});
            check_failure(run(Fault::too_few_arrivals), true, {"kernel ring_kernel"});
            check_failure(run(Fault::no_wait_for_full), true, {"kernel ring_kernel", "of shared memory"});
            check_failure(run(Fault::no_warp_barrier), true, {"kernel ring_kernel", "writes byte", "nothing orders the two"});
            check_failure(run(Fault::one_warp_never_arrives), true, {"waits in mbarrier_wait", "1 arrivals and 0 bytes are missing"});
            check_failure(run(Fault::no_named_barrier), true, {"kernel ring_kernel", "of shared memory"});
        }
        simt::reseed(1);
    }

    TEST_CASE("simt: stores through TMA, and their faults") {
        using Fault = faults::StoreFault;
        for (uint64_t seed = 1; seed <= 5; seed++) {
            simt::reseed(seed);
            CAPTURE(seed);
            Stream stream = gpu_stream();
            const int64_t rows = 21;
            Managed<float> in(rows * 64), out(rows * 64, 0.0f);
            for (int64_t i = 0; i < in.n; i++) in[i] = static_cast<float>(i);
            const auto run = [&](Fault fault) {
                faults::tma_negate(out.data, in.data, rows, fault, stream);
                return failure(stream);
            };
            CHECK(run(Fault::none) == "");
            for (int64_t i = 0; i < out.n; i++) REQUIRE(out[i] == -static_cast<float>(i));
            check_failure(run(Fault::no_proxy_fence), true, {"tma_store reads byte", "without a fence_proxy_async()"});
            check_failure(run(Fault::no_barrier), true, {"tma_store reads byte"});
            check_failure(run(Fault::no_commit), true, {"writes byte 0 of shared memory, which tma_store reads"});
            check_failure(run(Fault::no_wait), true, {"writes byte 0 of shared memory, which tma_store reads"});
        }
        simt::reseed(1);
    }
}
