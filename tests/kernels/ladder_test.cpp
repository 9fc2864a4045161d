// The steps of kernels/ladder against plain loops: what is there to be read must be right.
#include "kernels/ladder/ladder.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/numeric.h"

using namespace traincu;
using test::Pool;
using test::relative_error;
using test::test_stream;

namespace {

bool absent(const void* function) { return !test::on_gpu() || function == nullptr; }

// out of naive f32 loops, rounded to bf16, and the exact one.
struct Expected {
    Tensor naive, exact;
};

template <class R>
Tensor layernorm(Pool& pool, const Tensor& inp, const Tensor& weight, const Tensor& bias, double eps) {
    Tensor out = pool.poison(Dtype::f64, {inp.rows(), inp.cols()});
    const int64_t C = inp.cols();
    for (int64_t n = 0; n < inp.rows(); n++) {
        R mean = 0, variance = 0;
        auto x = [&](int64_t c) { return static_cast<R>(Pool::get(inp, n * C + c)); };
        for (int64_t c = 0; c < C; c++) mean += x(c);
        mean /= static_cast<R>(C);
        for (int64_t c = 0; c < C; c++) variance += (x(c) - mean) * (x(c) - mean);
        const R rstd = 1 / std::sqrt(variance / static_cast<R>(C) + static_cast<R>(eps));
        for (int64_t c = 0; c < C; c++)
            Pool::set(out, n * C + c, (x(c) - mean) * rstd * static_cast<R>(Pool::get(weight, c)) + static_cast<R>(Pool::get(bias, c)));
    }
    return out;
}

template <class R>
Tensor product(Pool& pool, const Tensor& a, const Tensor& b) {
    const int64_t M = a.rows(), N = b.rows(), K = a.cols();
    Tensor c = pool.poison(Dtype::f64, {M, N});
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            R sum = 0;
            for (int64_t k = 0; k < K; k++) sum += static_cast<R>(Pool::get(a, m * K + k)) * static_cast<R>(Pool::get(b, n * K + k));
            Pool::set(c, m * N + n, sum);
        }
    return c;
}

// With rounded_products the weights of the values are rounded to bf16, as tensor cores need them.
template <class R>
Tensor attention(Pool& pool, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts, R scale, bool rounded_products) {
    const int64_t T = q.shape[0], NH = q.shape[1], NKV = k.shape[1], HS = q.shape[2];
    Tensor out = pool.poison(Dtype::f64, {T, NH, HS});
    for (int64_t i = 0; i < T; i++)
        for (int64_t h = 0; h < NH; h++) {
            const int64_t start = starts.as<int32_t>()[i];
            auto kv_at = [&](int64_t j) { return (j * NKV + h / (NH / NKV)) * HS; };
            std::vector<R> scores, sums(static_cast<size_t>(HS));
            R top = -INFINITY, total = 0;
            for (int64_t j = start; j <= i; j++) {
                R score = 0;
                for (int64_t d = 0; d < HS; d++)
                    score += static_cast<R>(Pool::get(q, (i * NH + h) * HS + d)) * static_cast<R>(Pool::get(k, kv_at(j) + d));
                scores.push_back(scale * score), top = std::max(top, scores.back());
            }
            for (int64_t j = start; j <= i; j++) {
                R p = std::exp(scores[static_cast<size_t>(j - start)] - top);
                total += p;
                if (rounded_products) p = bf16_to_float(float_to_bf16(static_cast<float>(p)));
                for (int64_t d = 0; d < HS; d++) sums[static_cast<size_t>(d)] += p * static_cast<R>(Pool::get(v, kv_at(j) + d));
            }
            for (int64_t d = 0; d < HS; d++) Pool::set(out, (i * NH + h) * HS + d, sums[static_cast<size_t>(d)] / total);
        }
    return out;
}

}  // namespace

TEST_SUITE("ladder") {
    TEST_CASE("ladder: every step of layernorm is right") {
        using namespace gpu::ladder;
        struct Step {
            const char* name;
            Layernorm* run;
            int64_t multiple;  // of C
        };
        for (const Step& step : {Step{"naive", layernorm_naive, 1}, {"warp", layernorm_warp, 1}, {"registers", layernorm_registers, 8}}) {
            if (absent(reinterpret_cast<const void*>(step.run))) continue;
            for (int64_t N : {1, 5, 130})
                for (int64_t C : {1, 17, 40, 264, 1000, 2048}) {
                    if (C % step.multiple != 0 || (N > 5 && C > 100)) continue;
                    INFO(std::string(step.name), " ", N, " ", C);
                    Pool pool;
                    Tensor inp = pool.normal(Dtype::bf16, {N, C}, 2, 1), weight = pool.normal(Dtype::bf16, {C}),
                           bias = pool.normal(Dtype::bf16, {C});
                    Tensor out = pool.poison(Dtype::bf16, {N, C});
                    step.run(out, inp, weight, bias, 1e-5f, test_stream());
                    test_stream().synchronize();
                    const Tensor exact = layernorm<double>(pool, inp, weight, bias, 1e-5);
                    const Tensor naive = pool.copy(layernorm<float>(pool, inp, weight, bias, 1e-5), Dtype::bf16);
                    CHECK(relative_error(out, exact) <= 2 * relative_error(naive, exact) + 1e-7);
                }
        }
    }

    TEST_CASE("ladder: every step of the matrix product is right") {
        using namespace gpu::ladder;
        struct Step {
            const char* name;
            Matmul* run;
            int64_t tile, depth;  // M and N are multiples of the one, K of the other
        };
        struct Shape {
            int64_t M, N, K;
        };
        for (const Step& step : {Step{"naive", matmul_naive, 1, 1},
                                 {"shared", matmul_shared, 1, 1},
                                 {"registers", matmul_registers, 1, 1},
                                 {"mma", matmul_mma, 64, 32},
                                 {"ring", matmul_ring, 64, 32}}) {
            if (absent(reinterpret_cast<const void*>(step.run))) continue;
            for (const Shape& s : {Shape{1, 1, 1}, {33, 31, 65}, {17, 130, 40}, {64, 64, 32}, {64, 128, 64}, {128, 64, 160}}) {
                if (s.M % step.tile != 0 || s.N % step.tile != 0 || s.K % step.depth != 0) continue;
                INFO(std::string(step.name), " ", s.M, " ", s.N, " ", s.K);
                Pool pool;
                Tensor a = pool.normal(Dtype::bf16, {s.M, s.K}), b = pool.normal(Dtype::bf16, {s.N, s.K});
                Tensor c = pool.poison(Dtype::bf16, {s.M, s.N});
                step.run(c, a, b, test_stream());
                test_stream().synchronize();
                const Tensor exact = product<double>(pool, a, b), naive = pool.copy(product<float>(pool, a, b), Dtype::bf16);
                CHECK(relative_error(c, exact) <= 2 * relative_error(naive, exact) + 1e-7);
            }
        }
    }

    TEST_CASE("ladder: every step of attention is right") {
        using namespace gpu::ladder;
        struct Step {
            const char* name;
            Attention* run;
            bool rounds_products;
        };
        struct Shape {
            int64_t NH, NKV, HS;
            std::vector<int32_t> documents;  // their lengths
            double spread;                   // of the queries: 5 makes softmaxes of a few keys, whose largest one moves from tile to tile
        };
        for (const Step& step : {Step{"naive", attention_naive, false},
                                 {"shared", attention_shared, false},
                                 {"mma", attention_mma, true},
                                 {"ring", attention_ring, true}}) {
            if (absent(reinterpret_cast<const void*>(step.run))) continue;
            for (const Shape& s : {Shape{1, 1, 64, {1}, 1},
                                   {3, 1, 64, {17}, 1},
                                   {1, 1, 64, {150}, 5},
                                   {2, 1, 64, {80, 1, 47}, 1},  // a document that begins after more than a tile of another's keys
                                   {4, 2, 64, {1, 34, 3, 1, 40, 5}, 5},
                                   {1, 1, 128, {20, 70}, 2}}) {
                Pool pool;
                int64_t T = 0;
                for (int32_t length : s.documents) T += length;
                INFO(std::string(step.name), " NH ", s.NH, " HS ", s.HS, " T ", T);
                Tensor starts = pool.zeros(Dtype::i32, {T});
                int32_t row = 0;
                for (int32_t length : s.documents)
                    for (const int32_t start = row; row < start + length; row++) starts.as<int32_t>()[row] = start;
                Tensor q = pool.normal(Dtype::bf16, {T, s.NH, s.HS}, s.spread), k = pool.normal(Dtype::bf16, {T, s.NKV, s.HS}),
                       v = pool.normal(Dtype::bf16, {T, s.NKV, s.HS}), out = pool.poison(Dtype::bf16, {T, s.NH, s.HS});
                const float scale = 1 / std::sqrt(static_cast<float>(s.HS));
                step.run(out, q, k, v, starts, scale, test_stream());
                test_stream().synchronize();
                const Tensor exact = attention<double>(pool, q, k, v, starts, scale, false),
                             naive = pool.copy(attention<float>(pool, q, k, v, starts, scale, step.rounds_products), Dtype::bf16);
                CHECK(relative_error(out, exact) <= 2 * relative_error(naive, exact) + 1e-7);
            }
        }
    }
}
