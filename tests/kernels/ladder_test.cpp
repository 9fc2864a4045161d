// The steps of kernels/ladder against plain loops: what is there to be read must be right.
#include "kernels/ladder/ladder.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>

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
}
