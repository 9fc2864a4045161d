// The truncated singular value decomposition of attention's biases.
#include <doctest/doctest.h>

#include <cmath>

#include "src/base/philox.h"
#include "src/model/low_rank.h"

namespace traincu::test {

namespace {

double squared_error(const std::vector<float>& a, int64_t M, int64_t N, const LowRank& f, int64_t rank) {
    double sum = 0;
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            double product = 0;
            for (int64_t r = 0; r < rank; r++)
                product += static_cast<double>(f.left[static_cast<size_t>(i * f.columns() + r)]) *
                           static_cast<double>(f.right[static_cast<size_t>(j * f.columns() + r)]);
            const double off = static_cast<double>(a[static_cast<size_t>(i * N + j)]) - product;
            sum += off * off;
        }
    return sum;
}

// u_k v_k^T summed with weights 2^-k, u and v random.
std::vector<float> fading_matrix(int64_t M, int64_t N, int terms) {
    const Random random{9, RandomStream::init};
    std::vector<float> a(static_cast<size_t>(M * N));
    for (int k = 0; k < terms; k++)
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++)
                a[static_cast<size_t>(i * N + j)] +=
                    static_cast<float>(std::exp2(-k) * random.normal(static_cast<uint32_t>(2 * k), static_cast<uint64_t>(i)) *
                                       random.normal(static_cast<uint32_t>(2 * k + 1), static_cast<uint64_t>(j)));
    return a;
}

}  // namespace

TEST_SUITE("model") {
    TEST_CASE("low rank: the energy left out is the error, at every rank") {
        for (auto [M, N] : {std::pair<int64_t, int64_t>{61, 61}, {93, 31}, {17, 40}}) {
            const std::vector<float> a = fading_matrix(M, N, 12);
            const LowRank f = low_rank(a.data(), M, N, 10);
            REQUIRE(f.columns() == 10);
            double kept = 0;
            for (int64_t rank = 1; rank <= 10; rank++) {
                kept += f.squares[static_cast<size_t>(rank - 1)];
                CHECK(std::fabs(squared_error(a, M, N, f, rank) - (f.energy - kept)) < 2e-7 * f.energy);  // what f32 can tell
                if (rank > 1) CHECK(f.squares[static_cast<size_t>(rank - 1)] <= f.squares[static_cast<size_t>(rank - 2)]);
                CHECK(f.rank_for((kept - 1e-6 * f.energy) / f.energy) == rank);
            }
        }
    }

    TEST_CASE("low rank: the singular values of a matrix whose own are known") {
        // a[i][j] = sum_k s_k sqrt(2/M) sqrt(2/N) cos((i+1/2)(k+1) pi/M) cos((j+1/2)(k+1) pi/N): columns of the DCT are orthonormal
        const int64_t M = 48, N = 32;
        const std::vector<double> s = {7, 5, 4.9, 1, 0.25};
        std::vector<float> a(static_cast<size_t>(M * N));
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) {
                double sum = 0;
                for (size_t k = 0; k < s.size(); k++) {
                    auto wave = [&](int64_t at, int64_t n) {
                        return std::sqrt(2.0 / static_cast<double>(n)) *
                               std::cos((static_cast<double>(at) + 0.5) * static_cast<double>(k + 1) * M_PI / static_cast<double>(n));
                    };
                    sum += s[k] * wave(i, M) * wave(j, N);
                }
                a[static_cast<size_t>(i * N + j)] = static_cast<float>(sum);
            }
        const LowRank f = low_rank(a.data(), M, N, 5);
        for (size_t k = 0; k < s.size(); k++) CHECK(std::sqrt(f.squares[k]) == doctest::Approx(s[k]).epsilon(1e-5));
        CHECK(squared_error(a, M, N, f, 5) < 1e-9 * f.energy);
        CHECK(f.rank_for(1) == 5);
        CHECK(f.rank_for(0.9) == 3);  // 49 + 25 + 24.01 of 99.07
    }

    TEST_CASE("low rank: ALiBi is of rank 2, a zero matrix of rank 1, and what does not fit says so") {
        std::vector<float> alibi(50 * 50), noise(50 * 50);
        const Random random{3, RandomStream::init};
        for (int64_t i = 0; i < 50; i++)
            for (int64_t j = 0; j < 50; j++) {
                alibi[static_cast<size_t>(i * 50 + j)] = -0.25f * static_cast<float>(i - j);
                noise[static_cast<size_t>(i * 50 + j)] = static_cast<float>(random.normal(0, static_cast<uint64_t>(i * 50 + j)));
            }
        CHECK(low_rank(alibi.data(), 50, 50, 8).rank_for(1) == 2);
        CHECK(low_rank(std::vector<float>(100).data(), 10, 10, 4).rank_for(0.99) == 1);
        CHECK(low_rank(noise.data(), 50, 50, 8).rank_for(0.99) == 9);
        CHECK(low_rank(noise.data(), 50, 50, 50).rank_for(1) == 50);
    }

}  // TEST_SUITE
}  // namespace traincu::test
