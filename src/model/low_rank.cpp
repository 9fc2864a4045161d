#include "src/model/low_rank.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/gemm_cpu.h"
#include "src/base/philox.h"

namespace traincu {

namespace {

constexpr int64_t extra_columns = 8;  // they make the wanted ones converge faster
constexpr int most_rounds = 200;

// Columns of a (rows,K) matrix are kept as rows of its transpose: (K,rows).
using Basis = std::vector<float>;

// Gram-Schmidt, each column twice, with sums in double. A column that lies in the span of those before it becomes zero.
void make_orthonormal(Basis& basis, int64_t columns, int64_t length) {
    auto column = [&](int64_t k) { return basis.data() + k * length; };
    auto dot = [&](const float* x, const float* y) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < length; i++) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
        return sum;
    };
    for (int64_t k = 0; k < columns; k++) {
        float* x = column(k);
        const double before = std::sqrt(dot(x, x));
        for (int pass = 0; pass < 2; pass++)
            for (int64_t j = 0; j < k; j++) {
                const float* y = column(j);
                const double share = dot(x, y);
                for (int64_t i = 0; i < length; i++)
                    x[i] = static_cast<float>(static_cast<double>(x[i]) - share * static_cast<double>(y[i]));
            }
        const double size = std::sqrt(dot(x, x));
        const double factor = size > 1e-6 * before ? 1 / size : 0;
        for (int64_t i = 0; i < length; i++) x[i] = static_cast<float>(factor * static_cast<double>(x[i]));
    }
}

// Jacobi's rotations: s (K,K) symmetric becomes diagonal, w (K,K) collects the rotations: its columns are the eigenvectors.
void diagonalise(std::vector<double>& s, std::vector<double>& w, int64_t K) {
    auto at = [&](std::vector<double>& m, int64_t i, int64_t j) -> double& { return m[static_cast<size_t>(i * K + j)]; };
    w.assign(static_cast<size_t>(K * K), 0);
    for (int64_t i = 0; i < K; i++) at(w, i, i) = 1;
    for (int sweep = 0; sweep < 30; sweep++) {
        double off = 0, all = 0;
        for (int64_t i = 0; i < K; i++)
            for (int64_t j = 0; j < K; j++) all += at(s, i, j) * at(s, i, j), off += i == j ? 0 : at(s, i, j) * at(s, i, j);
        if (off <= 1e-30 * all) return;
        for (int64_t p = 0; p < K; p++)
            for (int64_t q = p + 1; q < K; q++) {
                if (at(s, p, q) == 0) continue;
                const double theta = (at(s, q, q) - at(s, p, p)) / (2 * at(s, p, q));
                const double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::hypot(theta, 1.0));
                const double c = 1 / std::hypot(t, 1.0), sine = t * c;
                auto rotate = [&](double& x, double& y) {
                    const double a = x, b = y;
                    x = c * a - sine * b, y = sine * a + c * b;
                };
                for (int64_t i = 0; i < K; i++) rotate(at(s, i, p), at(s, i, q));
                for (int64_t i = 0; i < K; i++) rotate(at(s, p, i), at(s, q, i));
                for (int64_t i = 0; i < K; i++) rotate(at(w, i, p), at(w, i, q));
            }
    }
}

}  // namespace

int64_t LowRank::rank_for(double share) const {
    const double wanted = std::min(share, 1 - 1e-6) * energy;  // f32 knows no better
    double kept = 0;
    for (int64_t r = 0; r < columns(); r++)
        if (kept += squares[static_cast<size_t>(r)]; kept >= wanted) return r + 1;
    return columns() + 1;
}

LowRank low_rank(const float* a, int64_t M, int64_t N, int64_t columns) {
    const int64_t K = std::min({columns + extra_columns, M, N});
    LowRank result;
    for (int64_t i = 0; i < M * N; i++) result.energy += static_cast<double>(a[i]) * static_cast<double>(a[i]);

    Basis v(static_cast<size_t>(K * N)), u(static_cast<size_t>(K * M));
    const Random random{1, RandomStream::init};
    for (size_t i = 0; i < v.size(); i++) v[i] = static_cast<float>(random.normal(0, i));
    make_orthonormal(v, K, N);
    auto forward = [&] { cpu::gemm(K, M, N, {v.data(), N, 1}, {a, 1, N}, u.data(), M); };   // u = v A^T
    auto backward = [&] { cpu::gemm(K, N, M, {u.data(), M, 1}, {a, N, 1}, v.data(), N); };  // v = u A
    double before = -1;
    for (int round = 0; round < most_rounds; round++) {
        forward();
        const double kept = std::inner_product(u.begin(), u.end(), u.begin(), 0.0, std::plus<>(),
                                               [](float x, float y) { return static_cast<double>(x) * static_cast<double>(y); });
        if (kept <= before * (1 + 1e-9)) break;
        before = kept;
        make_orthonormal(u, K, M);
        backward();
        make_orthonormal(v, K, N);
    }
    forward();

    // Within the span of v: (A V)^T (A V) = W diag(s^2) W^T, so that A ~ (A V W) (V W)^T.
    std::vector<double> gram(static_cast<size_t>(K * K)), w;
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t m = 0; m < M; m++)
                sum += static_cast<double>(u[static_cast<size_t>(i * M + m)]) * static_cast<double>(u[static_cast<size_t>(j * M + m)]);
            gram[static_cast<size_t>(i * K + j)] = gram[static_cast<size_t>(j * K + i)] = sum;
        }
    diagonalise(gram, w, K);
    std::vector<int64_t> order(static_cast<size_t>(K));
    std::iota(order.begin(), order.end(), 0);
    auto square = [&](int64_t k) { return std::max(0.0, gram[static_cast<size_t>(k * K + k)]); };
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return square(i) > square(j); });
    order.resize(static_cast<size_t>(std::min(columns, K)));

    // One column of basis W, times `factor`, to column k of (length, columns).
    auto rotated = [&](std::vector<float>& to, const Basis& basis, int64_t length, size_t k, double factor) {
        for (int64_t i = 0; i < length; i++) {
            double sum = 0;
            for (int64_t j = 0; j < K; j++)
                sum += static_cast<double>(basis[static_cast<size_t>(j * length + i)]) * w[static_cast<size_t>(j * K + order[k])];
            to[static_cast<size_t>(i) * order.size() + k] = static_cast<float>(factor * sum);
        }
    };
    result.left.resize(static_cast<size_t>(M) * order.size()), result.right.resize(static_cast<size_t>(N) * order.size());
    for (size_t k = 0; k < order.size(); k++) {
        result.squares.push_back(square(order[k]));
        const double root = std::sqrt(std::sqrt(result.squares[k]));  // of the singular value
        rotated(result.left, u, M, k, root > 0 ? 1 / root : 0);
        rotated(result.right, v, N, k, root);
    }
    return result;
}

}  // namespace traincu
