#include "kernels/reduce_ranks.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

std::vector<Dtype> types() { return {Dtype::f32, Dtype::f64, Dtype::bf16}; }

// Block after block, in the type that sums are made in.
template <class Sum>
Sum expected(const Tensor& blocks, int64_t i, RankReduction how) {
    Sum result{};
    for (int64_t r = 0; r < blocks.rows(); r++) {
        const auto value = static_cast<Sum>(Pool::get(blocks, r * blocks.row_stride + i));
        if (r == 0)
            result = value;
        else if (how == RankReduction::sum)
            result += value;
        else if (!std::isnan(result) && !(value <= result))
            result = value;
    }
    return result;
}
double expected(const Tensor& blocks, int64_t i, RankReduction how) {
    if (blocks.dtype == Dtype::f64) return expected<double>(blocks, i, how);
    const float sum = expected<float>(blocks, i, how);
    return blocks.dtype == Dtype::bf16 ? bf16_to_float(float_to_bf16(sum)) : sum;
}

}  // namespace

TEST_SUITE("reduce_ranks") {
    TEST_CASE("reduce_ranks: the sum and the largest, in the order of ranks, of rows with and without gaps") {
        for (const Dtype dtype : types())
            for (const int64_t ranks : {1, 2, 3, 8})
                for (const int64_t n : {1, 7, 64, 1000, 2049})
                    for (const int64_t gap : {0, 3, 16})
                        for (const RankReduction how : {RankReduction::sum, RankReduction::largest}) {
                            CAPTURE(name_of(dtype));
                            CAPTURE(ranks);
                            CAPTURE(n);
                            CAPTURE(gap);
                            Pool pool;
                            const Tensor all = pool.normal(dtype, {ranks, n + gap}, 3.0);
                            const Tensor blocks = all.slice_cols(0, n), out = pool.zeros(dtype, {n});
                            reduce_ranks(out, blocks, how, test_stream());
                            test_stream().synchronize();
                            int64_t wrong = 0;
                            for (int64_t i = 0; i < n; i++) wrong += Pool::get(out, i) != expected(blocks, i, how);
                            CHECK(wrong == 0);
                        }
    }

    TEST_CASE("reduce_ranks: in place of a block, and nothing beside it is touched") {
        for (const Dtype dtype : types()) {
            Pool pool;
            const Tensor blocks = pool.normal(dtype, {4, 1001}), before = pool.copy(blocks, dtype);
            const Tensor out(static_cast<std::byte*>(blocks.data) + 2 * 1001 * size_of(dtype), dtype, {1001});
            reduce_ranks(out, blocks, RankReduction::sum, test_stream());
            test_stream().synchronize();
            int64_t wrong = 0;
            for (int64_t r = 0; r < 4; r++)
                for (int64_t i = 0; i < 1001; i++)
                    wrong += Pool::get(blocks, r * 1001 + i) !=
                             (r == 2 ? expected(before, i, RankReduction::sum) : Pool::get(before, r * 1001 + i));
            CHECK(wrong == 0);
        }
    }

    TEST_CASE("reduce_ranks: NaN counts as larger than all, whichever rank has it; a bf16 sum is rounded once") {
        const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
        for (const Dtype dtype : types())
            for (int64_t at = 0; at < 3; at++) {
                Pool pool;
                const Tensor blocks = pool.filled(dtype, {3, 20}, inf), out = pool.zeros(dtype, {20});
                Pool::set(blocks, at * 20 + 5, nan);
                reduce_ranks(out, blocks, RankReduction::largest, test_stream());
                test_stream().synchronize();
                CHECK(std::isnan(Pool::get(out, 5)));
                CHECK(Pool::get(out, 4) == inf);
            }
        // 1 + 1/256 + 1/256 is a bf16; rounded after each addition it would stay 1
        Pool pool;
        const Tensor blocks = pool.filled(Dtype::bf16, {3, 1}, 1.0 / 256), out = pool.zeros(Dtype::bf16, {1});
        Pool::set(blocks, 0, 1.0);
        reduce_ranks(out, blocks, RankReduction::sum, test_stream());
        test_stream().synchronize();
        CHECK(Pool::get(out, 0) == 1.0 + 1.0 / 128);
    }
}
