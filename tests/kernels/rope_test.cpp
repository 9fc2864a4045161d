// QK-norm and rotary positions: known rotations, what they are for, inverse, gradients, and the promises about bits.
#include "kernels/rope.h"

#include <doctest/doctest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

namespace traincu::test {
namespace {

const RopeParams params{3, 1, 8, 1e-6};  // NH, NKV, HS, eps
const int64_t qk_width = 4 * 8, qkv_width = 5 * 8;

struct Rotation {
    double theta = 10000;  // 0: none
    RopeScaling scaling = {};
    int64_t positions = 5000;

    Tensor angles(Pool& pool, Dtype type, int64_t HS) const {
        if (theta == 0) return {};
        Tensor table = pool.poison(statistics_of(type), {positions, HS});
        rope_angles(table, theta, scaling);
        return table;
    }
};

// One call's tensors. With `normed`, the QK-norm's weights are near 1.
struct Problem {
    Tensor qkv, positions, angles, q_weight, k_weight, rstd, qk, dqk, dqkv, dq_weight, dk_weight;
    RopeParams p;
    Rotation rotation;

    Problem(Pool& pool, Dtype type, int64_t T, bool normed, RopeParams with = params, Rotation turn = {}) : p(with), rotation(turn) {
        const int64_t heads = p.n_head + p.n_kv_head, HS = p.head_size;
        qkv = pool.normal(type, {T, (heads + p.n_kv_head) * HS});
        dqk = pool.normal(type, {T, heads * HS});
        positions = pool.integers({T}, rotation.positions);
        angles = rotation.angles(pool, type, HS);
        qk = pool.poison(type, {T, heads * HS});
        dqkv = pool.poison(type, {T, (heads + p.n_kv_head) * HS});
        if (!normed) return;
        q_weight = pool.normal(type, {HS}, 0.3, 1.0), k_weight = pool.normal(type, {HS}, 0.3, 1.0);
        rstd = pool.poison(statistics_of(type), {T, heads});
        dq_weight = pool.zeros(statistics_of(type), {HS}), dk_weight = pool.zeros(statistics_of(type), {HS});
    }
    void forward() {
        qk_norm_rope_forward(qk, rstd, qkv, q_weight, k_weight, positions, angles, p, test_stream());
        test_stream().synchronize();
    }
    void backward(int64_t unit = 0) {
        qk_norm_rope_backward(dqkv, dq_weight, dk_weight, dqk, rstd, qkv, q_weight, k_weight, positions, angles, p, unit, test_stream());
        test_stream().synchronize();
    }
};

// The formulas of the contract in double, or in float as a naive kernel would do it.
template <class R>
std::vector<double> naive_forward(const Problem& x) {
    const int64_t HS = x.p.head_size, heads = x.p.n_head + x.p.n_kv_head;
    std::vector<double> out;
    for (int64_t t = 0; t < x.qkv.rows(); t++)
        for (int64_t h = 0; h < heads; h++) {
            std::vector<R> head;
            R squares = 0;
            for (int64_t i = 0; i < HS; i++) {
                head.push_back(static_cast<R>(Pool::get(x.qkv, t * x.qkv.cols() + h * HS + i)));
                squares += head.back() * head.back();
            }
            const R rstd = 1 / std::sqrt(squares / static_cast<R>(HS) + static_cast<R>(x.p.eps));
            const Tensor& weight = h < x.p.n_head ? x.q_weight : x.k_weight;
            for (int64_t i = 0; i < HS && weight; i++) head[static_cast<size_t>(i)] *= rstd * static_cast<R>(Pool::get(weight, i));
            for (int64_t i = 0; i < HS; i++) {
                const int64_t pair = i % (HS / 2);
                const double angle = Pool::get(x.positions, t) * std::pow(x.rotation.theta, -2.0 * double(pair) / double(HS));
                const R a = head[static_cast<size_t>(pair)], b = head[static_cast<size_t>(pair + HS / 2)];
                const R cosine = static_cast<R>(std::cos(angle)), sine = static_cast<R>(std::sin(angle));
                out.push_back(x.rotation.theta == 0 ? head[static_cast<size_t>(i)]
                              : i < HS / 2          ? a * cosine - b * sine
                                                    : b * cosine + a * sine);
            }
        }
    return out;
}

// The derivative of forward in plain loops of type R: of queries and keys (T,(NH+NKV)*HS), and of the weights.
template <class R>
struct NaiveBackward {
    std::vector<double> dinp, dq_weight, dk_weight;

    explicit NaiveBackward(const Problem& x) {
        const int64_t HS = x.p.head_size, heads = x.p.n_head + x.p.n_kv_head;
        std::vector<R> dw[2] = {std::vector<R>(static_cast<size_t>(HS)), std::vector<R>(static_cast<size_t>(HS))};
        for (int64_t t = 0; t < x.qkv.rows(); t++)
            for (int64_t h = 0; h < heads; h++) {
                const Tensor& weight = h < x.p.n_head ? x.q_weight : x.k_weight;
                std::vector<R> dy, value;
                for (int64_t i = 0; i < HS; i++) {
                    const int64_t pair = i % (HS / 2), row = t * heads * HS + h * HS;
                    const double angle = Pool::get(x.positions, t) * std::pow(x.rotation.theta, -2.0 * double(pair) / double(HS));
                    const R a = static_cast<R>(Pool::get(x.dqk, row + pair)), b = static_cast<R>(Pool::get(x.dqk, row + pair + HS / 2));
                    const R cosine = static_cast<R>(std::cos(angle)), sine = static_cast<R>(-std::sin(angle));
                    const R turned = i < HS / 2 ? a * cosine - b * sine : b * cosine + a * sine;
                    dy.push_back(x.rotation.theta == 0 ? static_cast<R>(Pool::get(x.dqk, row + i)) : turned);
                    value.push_back(static_cast<R>(Pool::get(x.qkv, t * x.qkv.cols() + h * HS + i)));
                }
                if (weight) norm(dy, value, weight, dw[h < x.p.n_head ? 0 : 1], static_cast<R>(x.p.eps));
                dinp.insert(dinp.end(), dy.begin(), dy.end());
            }
        dq_weight.assign(dw[0].begin(), dw[0].end()), dk_weight.assign(dw[1].begin(), dw[1].end());
    }
    static void norm(std::vector<R>& dy, const std::vector<R>& x, const Tensor& weight, std::vector<R>& dw, R eps) {
        const R HS = static_cast<R>(x.size());
        R squares = 0, average = 0;
        for (R value : x) squares += value * value;
        const R rstd = 1 / std::sqrt(squares / HS + eps);
        auto w = [&](size_t i) { return static_cast<R>(Pool::get(weight, static_cast<int64_t>(i))); };
        for (size_t i = 0; i < x.size(); i++) average += dy[i] * w(i) * (x[i] * rstd) / HS;
        for (size_t i = 0; i < x.size(); i++) {
            dw[i] += dy[i] * (x[i] * rstd);
            dy[i] = rstd * (dy[i] * w(i) - x[i] * rstd * average);
        }
    }
};

std::vector<double> values_of(const Tensor& t, int64_t first_cols) {
    std::vector<double> values;
    for (int64_t n = 0; n < t.rows(); n++)
        for (int64_t c = 0; c < first_cols; c++) values.push_back(Pool::get(t.slice_rows(n, 1), c));
    return values;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < b.size(); i++) difference += (a.at(i) - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
    return std::sqrt(difference / size);
}
double distance(const Tensor& a, const std::vector<double>& b) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < a.numel(); i++) {
        const double x = Pool::get(a, i), y = b[static_cast<size_t>(i)];
        difference += (x - y) * (x - y), size += y * y;
    }
    return std::sqrt(difference / size);
}

}  // namespace

TEST_SUITE("rope") {
    TEST_CASE("rope: known rotations, pairs half a head apart" * doctest::skip(on_gpu())) {
        Pool pool;
        const RopeParams p{1, 1, 4, 0};
        const Tensor angles = Rotation{100.0}.angles(pool, Dtype::f64, 4);  // wavelengths 2 pi and 20 pi
        Tensor qkv = pool.zeros(Dtype::f64, {3, 12}), qk = pool.poison(Dtype::f64, {3, 8}), positions = pool.integers({3}, 1);
        for (int64_t t = 0; t < 3; t++) {
            qkv.as<double>()[t * 12 + 0] = 1;  // the query: first of pair 0
            qkv.as<double>()[t * 12 + 7] = 2;  // the key: second of pair 1
        }
        positions.as<int32_t>()[1] = 1, positions.as<int32_t>()[2] = 10;
        qk_norm_rope_forward(qk, {}, qkv, {}, {}, positions, angles, p, test_stream());
        test_stream().synchronize();
        const double c1 = 0.5403023058681398, s1 = 0.8414709848078965, c10 = -0.8390715290764524, s10 = -0.5440211108893698;
        const double c01 = 0.9950041652780258, s01 = 0.09983341664682815;  // cos and sin of 1, 10, 0.1
        const double expected[3][8] = {
            {1, 0, 0, 0, 0, 0, 0, 2}, {c1, 0, s1, 0, 0, -2 * s01, 0, 2 * c01}, {c10, 0, s10, 0, 0, -2 * s1, 0, 2 * c1}};
        for (int64_t i = 0; i < 24; i++) CHECK(qk.as<double>()[i] == doctest::Approx(expected[i / 8][i % 8]).epsilon(1e-14));
    }

    TEST_CASE("rope: forward and backward agree with the formulas in double, within twice the error of a naive kernel") {
        for (Dtype dtype : test_dtypes())
            for (bool normed : {false, true})
                for (double theta : {0.0, 10000.0, 1e6})
                    for (int64_t HS : {2, 5, 6, 16, 48, 64, 100, 128, 256}) {
                        if (theta != 0 && HS % 2 != 0) continue;
                        Pool pool;
                        Problem x(pool, dtype, 17, normed, {7, 1, HS, 1e-6}, {theta, {}, 300});
                        x.forward(), x.backward(normed && HS == 64 ? 5 : 0);
                        const NaiveBackward<double> exact(x);
                        const NaiveBackward<float> naive(x);
                        INFO(name_of(dtype), " normed=", normed, " theta=", theta, " HS=", HS);
                        auto check = [&](const std::vector<double>& result, Dtype type, const std::vector<double>& truth,
                                         const std::vector<double>& in_float) {
                            const double error = distance(result, truth);
                            if (dtype == Dtype::f64)
                                CHECK(error < 1e-13);
                            else
                                CHECK(error <=
                                      allowed(distance(as_stored(in_float, type), truth), static_cast<int64_t>(truth.size()), type));
                        };
                        check(values_of(x.qk, 8 * HS), dtype, naive_forward<double>(x), naive_forward<float>(x));
                        check(values_of(x.dqkv, 8 * HS), dtype, exact.dinp, naive.dinp);
                        for (int64_t i = 8 * HS; i < 9 * HS; i++) CHECK(std::isnan(Pool::get(x.dqkv, i)));  // dv's place
                        if (!normed) continue;
                        check(values_of(x.dq_weight, 1), statistics_of(dtype), exact.dq_weight, naive.dq_weight);
                        check(values_of(x.dk_weight, 1), statistics_of(dtype), exact.dk_weight, naive.dk_weight);
                    }
    }

    TEST_CASE("rope: heads that do not lie on 16 bytes") {
        for (Dtype dtype : test_dtypes())
            for (bool normed : {false, true}) {
                Pool pool, again;
                Problem x(pool, dtype, 5, normed, {2, 1, 32, 1e-6}), y(again, dtype, 5, normed, {2, 1, 32, 1e-6});
                Tensor wide = again.poison(dtype, {5, 4 * 32 + 3}), narrow = wide.slice_cols(3, 4 * 32);
                for (int64_t t = 0; t < 5; t++)
                    for (int64_t i = 0; i < 4 * 32; i++) Pool::set(narrow.slice_rows(t, 1), i, Pool::get(x.qkv, t * 4 * 32 + i));
                y.qkv = narrow;
                x.forward(), y.forward();
                CHECK(relative_error(y.qk, x.qk) < (dtype == Dtype::bf16 ? 1e-2 : 1e-6));
                x.backward(), y.backward();
                CHECK(distance(values_of(y.dqkv, 3 * 32), values_of(x.dqkv, 3 * 32)) < (dtype == Dtype::bf16 ? 1e-2 : 1e-6));
            }
    }

    TEST_CASE("rope: angles are right at far positions") {
        Pool pool;
        const RopeParams p{1, 1, 32, 0};
        for (int32_t far : {3, 5, 100, 4095, 4096, 131071}) {
            Problem x(pool, Dtype::f32, 2, false, p, {500000.0, {}, far + 1});
            x.positions.as<int32_t>()[0] = far, x.positions.as<int32_t>()[1] = far / 2;
            x.forward();
            CHECK(distance(x.qk, naive_forward<double>(x)) < 1e-7);
        }
    }

    TEST_CASE("rope: Llama 3.2's frequencies are those that transformers computes (in f32)") {
        const RopeScaling scaling{32, 1, 4, 8192};
        // pair -> radians a position: kept to 14, between from 15 to 17, stretched from 18
        const std::vector<std::pair<int64_t, double>> expected = {{0, 1},
                                                                  {1, 0.66360128},
                                                                  {14, 0.0032114461},
                                                                  {15, 0.001290548},
                                                                  {16, 0.00042955671},
                                                                  {17, 9.7082862e-05},
                                                                  {18, 1.9461639e-05},
                                                                  {31, 9.4183065e-08}};
        for (auto [pair, frequency] : expected) {
            CAPTURE(pair);
            CHECK(rope_frequency(pair, 64, 500000, scaling) == doctest::Approx(frequency).epsilon(2e-6));
        }
        for (int64_t i = 0; i < 32; i++)
            CHECK(rope_frequency(i, 64, 500000, {}) == doctest::Approx(std::pow(500000.0, -double(i) / 32)).epsilon(1e-15));
    }

    TEST_CASE("rope: the rotation follows every number of the scaling" * doctest::skip(on_gpu())) {
        Pool pool;
        const RopeScaling sets[] = {{}, {4, 1, 4, 32}, {8, 1, 4, 32}, {4, 2, 4, 32}, {4, 1, 3, 32}, {4, 1, 4, 64}, {}};
        for (const RopeScaling& scaling : sets) {
            Problem x(pool, Dtype::f64, 5, false, {1, 1, 16, 0}, {100.0, scaling});
            x.forward();
            for (int64_t t = 0; t < 5; t++)
                for (int64_t i = 0; i < 8; i++) {
                    const double angle = Pool::get(x.positions, t) * rope_frequency(i, 16, 100.0, scaling);
                    const double a = Pool::get(x.qkv, t * 48 + i), b = Pool::get(x.qkv, t * 48 + i + 8);
                    CHECK(Pool::get(x.qk, t * 32 + i) == doctest::Approx(a * std::cos(angle) - b * std::sin(angle)).epsilon(1e-9));
                }
        }
    }

    TEST_CASE("rope: the product of a query and a key depends on the distance between them alone" * doctest::skip(on_gpu())) {
        Pool pool;
        const RopeParams p{1, 1, 16, 0};
        const Tensor angles = Rotation{}.angles(pool, Dtype::f64, 16);
        Tensor one = pool.normal(Dtype::f64, {1, 48}), qkv = pool.zeros(Dtype::f64, {4, 48}), qk = pool.poison(Dtype::f64, {4, 32});
        Tensor positions = pool.integers({4}, 1);
        for (int64_t t = 0; t < 4; t++) std::memcpy(qkv.slice_rows(t, 1).data, one.data, static_cast<size_t>(one.bytes()));
        const int32_t at[4] = {3, 8, 1003, 1008};
        std::copy(at, at + 4, positions.as<int32_t>());
        qk_norm_rope_forward(qk, {}, qkv, {}, {}, positions, angles, p, test_stream());
        test_stream().synchronize();
        auto product = [&](int64_t query, int64_t key) {
            double sum = 0;
            for (int64_t i = 0; i < 16; i++) sum += qk.as<double>()[query * 32 + i] * qk.as<double>()[key * 32 + 16 + i];
            return sum;
        };
        CHECK(product(1, 0) == doctest::Approx(product(3, 2)).epsilon(1e-11));
        CHECK(product(0, 0) == doctest::Approx(product(3, 3)).epsilon(1e-11));
        CHECK(std::abs(product(1, 0) - product(0, 1)) > 1e-3);
    }

    TEST_CASE("rope: without QK-norm, in place equals out of place, backward undoes forward, and values are untouched") {
        for (Dtype dtype : test_dtypes())
            for (int64_t HS : {8, 32}) {
                Pool pool, again;
                const int64_t width = 4 * HS;
                Problem x(pool, dtype, 9, false, {3, 1, HS, 0}), y(again, dtype, 9, false, {3, 1, HS, 0});
                x.forward();
                Tensor original = pool.copy(y.qkv, dtype);
                y.qk = y.dqk = y.qkv.slice_cols(0, width);
                y.dqkv = y.qkv;
                y.forward();
                for (int64_t t = 0; t < 9; t++) {
                    CHECK(values_of(y.qk.slice_rows(t, 1), width) == values_of(x.qk.slice_rows(t, 1), width));
                    CHECK(values_of(y.qkv.slice_cols(width, HS).slice_rows(t, 1), HS) ==
                          values_of(original.slice_cols(width, HS).slice_rows(t, 1), HS));
                }
                y.qkv = Tensor();  // not needed by backward
                y.backward();
                CHECK(relative_error(y.dqkv, original) < (dtype == Dtype::f64 ? 1e-15 : dtype == Dtype::f32 ? 2e-7 : 8e-3));
            }
    }

    TEST_CASE("rope: gradients are the derivatives, with and without QK-norm and rotation" * doctest::skip(on_gpu())) {
        for (bool normed : {false, true})
            for (double theta : {0.0, 10000.0}) {
                Pool pool;
                Problem x(pool, Dtype::f64, 5, normed, params, {theta});
                auto loss = [&] {
                    x.forward();
                    double sum = 0;
                    for (int64_t i = 0; i < x.qk.numel(); i++) sum += x.qk.as<double>()[i] * x.dqk.as<double>()[i];
                    return sum;
                };
                loss();
                x.backward();
                Tensor inp = pool.zeros(Dtype::f64, {5, qk_width}),
                       dinp = pool.zeros(Dtype::f64, {5, qk_width});  // without the value columns
                for (int64_t i = 0; i < inp.numel(); i++) {
                    const int64_t from = i / qk_width * qkv_width + i % qk_width;
                    inp.as<double>()[i] = x.qkv.as<double>()[from], dinp.as<double>()[i] = x.dqkv.as<double>()[from];
                }
                auto loss_of_inp = [&] {
                    for (int64_t i = 0; i < inp.numel(); i++)
                        x.qkv.as<double>()[i / qk_width * qkv_width + i % qk_width] = inp.as<double>()[i];
                    return loss();
                };
                CHECK(gradient_error(loss_of_inp, inp, dinp) < 1e-8);
                for (int64_t t = 0; t < 5; t++)
                    for (int64_t i = qk_width; i < qkv_width; i++) CHECK(std::isnan(x.dqkv.as<double>()[t * qkv_width + i]));  // dv's place
                if (!normed) continue;
                loss_of_inp();
                CHECK(gradient_error(loss, x.q_weight, x.dq_weight) < 1e-8);
                CHECK(gradient_error(loss, x.k_weight, x.dk_weight) < 1e-8);
            }
    }

    TEST_CASE("rope: backward in place equals out of place") {
        for (Dtype dtype : test_dtypes())
            for (int64_t HS : {8, 32}) {
                Pool pool, again;
                const int64_t width = 4 * HS;
                Problem x(pool, dtype, 40, true, {3, 1, HS, 1e-6}), y(again, dtype, 40, true, {3, 1, HS, 1e-6});
                x.forward(), y.forward();
                Tensor both = pool.zeros(dtype, {40, 5 * HS});
                for (int64_t t = 0; t < 40; t++)
                    std::memcpy(both.slice_rows(t, 1).data, y.dqk.slice_rows(t, 1).data, static_cast<size_t>(width * size_of(dtype)));
                y.dqkv = both, y.dqk = both.slice_cols(0, width);
                x.backward(16), y.backward(16);
                CHECK(values_of(x.dqkv, width) == values_of(both, width));
                CHECK(equal_bits(x.dq_weight, y.dq_weight));
                CHECK(equal_bits(x.dk_weight, y.dk_weight));
            }
    }

    TEST_CASE("rope: gradients of the weights have the same bits for any number of threads and any split at units") {
        const int before = omp_get_max_threads();
        const int64_t T = 150, unit = 20;
        Pool pool;
        Problem whole(pool, Dtype::f32, T, true);
        omp_set_num_threads(1);
        whole.forward(), whole.backward(unit);
        for (int threads : {2, 3}) {
            omp_set_num_threads(threads);
            Pool again;
            Problem other(again, Dtype::f32, T, true);
            other.forward(), other.backward(unit);
            CHECK(equal_bits(other.qk, whole.qk));
            CHECK(equal_bits(other.dq_weight, whole.dq_weight));
            CHECK(equal_bits(other.dk_weight, whole.dk_weight));
        }
        omp_set_num_threads(before);
        Pool again;
        Problem split(again, Dtype::f32, T, true);
        split.forward();
        for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 60}, {60, 140}, {140, T}}) {
            auto rows = [&, begin = begin, end = end](const Tensor& t) { return t.slice_rows(begin, end - begin); };
            qk_norm_rope_backward(rows(split.dqkv), split.dq_weight, split.dk_weight, rows(split.dqk), rows(split.rstd), rows(split.qkv),
                                  split.q_weight, split.k_weight, rows(split.positions), split.angles, params, unit, test_stream());
        }
        test_stream().synchronize();
        CHECK(equal_bits(split.dq_weight, whole.dq_weight));
        CHECK(equal_bits(split.dk_weight, whole.dk_weight));
        if (!on_gpu()) return;
        Pool third;
        Problem small(third, Dtype::f32, T, true);  // a workspace for the sums of 3 units at a time
        small.forward();
        Stream stream(Device::cuda, 3 * 2 * 8 * 4);
        qk_norm_rope_backward(small.dqkv, small.dq_weight, small.dk_weight, small.dqk, small.rstd, small.qkv, small.q_weight,
                              small.k_weight, small.positions, small.angles, params, unit, stream);
        stream.synchronize();
        CHECK(equal_bits(small.dq_weight, whole.dq_weight));
        CHECK(equal_bits(small.dk_weight, whole.dk_weight));
    }

    TEST_CASE("rope: wrong shapes, a missing weight and negative positions are refused") {
        Pool pool;
        Problem x(pool, Dtype::f32, 4, true);
        x.k_weight = Tensor();
        CHECK_THROWS_AS(x.forward(), std::logic_error);
        Problem y(pool, Dtype::f32, 4, false);
        if (!on_gpu()) {  // which does not look
            y.positions.as<int32_t>()[2] = -1;
            CHECK_THROWS_AS(y.forward(), std::logic_error);
            y.positions.as<int32_t>()[2] = 0;
        }
        y.qkv = y.qkv.slice_cols(0, qk_width);
        CHECK_THROWS_AS(y.forward(), std::logic_error);
    }

}  // TEST_SUITE

}  // namespace traincu::test
