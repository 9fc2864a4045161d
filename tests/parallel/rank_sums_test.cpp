// Sums in the order of ranks, beside the plainest loop: the same bits, with any number of threads.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "src/parallel/rank_sums.h"

namespace traincu::test {

namespace {

// Numbers of very different sizes: another order would give other bits.
float number(size_t rank, int64_t i) {
    return std::ldexp(static_cast<float>((i * 7919 + static_cast<int64_t>(rank) * 104'729) % 2001 - 1000),
                      static_cast<int>(i + 5 * rank) % 23);
}

template <class T>
std::vector<T> reduced(Dtype dtype, const std::vector<std::vector<T>>& ranks, Reduce how, size_t in_place = SIZE_MAX) {
    std::vector<std::vector<T>> copies = ranks;
    std::vector<T> out(ranks[0].size());
    std::vector<const std::byte*> blocks;
    for (auto& copy : copies) blocks.push_back(reinterpret_cast<const std::byte*>(copy.data()));
    std::vector<T>& to = in_place < ranks.size() ? copies[in_place] : out;
    reduce_blocks(dtype, reinterpret_cast<std::byte*>(to.data()), blocks, static_cast<int64_t>(to.size() * sizeof(T)), how);
    return to;
}

}  // namespace

TEST_SUITE("rank sums") {
    TEST_CASE("rank sums: in the order of ranks, in place too, with any number of threads") {
        for (const int64_t n : {0, 1, 1023, 1025, 40'001})
            for (const size_t ranks : {1, 2, 5}) {
                CAPTURE(n);
                CAPTURE(ranks);
                std::vector<std::vector<float>> f32(ranks);
                std::vector<std::vector<uint16_t>> stored(ranks);  // bf16
                std::vector<float> sum, largest;
                std::vector<uint16_t> stored_sum;
                for (int64_t i = 0; i < n; i++) {
                    float total = 0, top = 0, wide = 0;
                    for (size_t r = 0; r < ranks; r++) {
                        const float x = number(r, i);
                        const uint16_t narrow = float_to_bf16(x);
                        f32[r].push_back(x), stored[r].push_back(narrow);
                        total = r == 0 ? x : total + x, top = r == 0 ? x : std::max(top, x);
                        wide = r == 0 ? bf16_to_float(narrow) : wide + bf16_to_float(narrow);
                    }
                    sum.push_back(total), largest.push_back(top), stored_sum.push_back(float_to_bf16(wide));
                }
                const int before = omp_get_max_threads();
                for (const int threads : {1, 3}) {
                    omp_set_num_threads(threads);
                    CHECK(reduced(Dtype::f32, f32, Reduce::sum) == sum);
                    CHECK(reduced(Dtype::f32, f32, Reduce::sum, ranks - 1) == sum);
                    CHECK(reduced(Dtype::f32, f32, Reduce::max) == largest);
                    CHECK(reduced(Dtype::bf16, stored, Reduce::sum) == stored_sum);
                }
                omp_set_num_threads(before);
            }
    }

    TEST_CASE("rank sums: integers of 64 bits keep all of them, the largest with a NaN is NaN, codes have no sum") {
        const int64_t big = (int64_t{1} << 53) + 1;
        CHECK(reduced<int64_t>(Dtype::i64, {{big}, {big}}, Reduce::sum) == std::vector<int64_t>{2 * big});
        CHECK(reduced<int32_t>(Dtype::i32, {{-5, 7}, {-3, -9}}, Reduce::max) == std::vector<int32_t>{-3, 7});
        for (const auto& ranks : {std::vector<std::vector<float>>{{NAN}, {1}, {2}}, {{1}, {NAN}, {2}}, {{1}, {2}, {NAN}}})
            CHECK(std::isnan(reduced(Dtype::f32, ranks, Reduce::max)[0]));
        CHECK_THROWS_AS(reduced<uint8_t>(Dtype::u8, {{1}, {2}}, Reduce::sum), std::logic_error);
    }
}

}  // namespace traincu::test
