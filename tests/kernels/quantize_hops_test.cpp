// Quantised messages in use: differences of weights that every rank adds to its replica, and gradients that are summed in two hops. The
// ranks are played one after another; what would go over the wire is copied.
#include "tests/kernels/quantize_fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

constexpr auto nearest = QuantFormat::nearest, stochastic = QuantFormat::stochastic;

// A step of weight differences: all replicas become closer to main.
void step_difference(Pool& pool, const Tensor& main, Tensor& model, const QuantFormat& f, const QuantNoise& noise = {}) {
    const Tensor empty = pool.filled(Dtype::u8, {message_bytes(main.numel(), f)}, 0xA5);
    const Tensor sent = on_both(pool, empty, [&](Tensor out, Stream& stream) { quantize_difference(out, main, model, f, noise, stream); });
    model = on_both(pool, model, [&](Tensor out, Stream& stream) { dequantize_add(out, sent, f, stream); });
}

// M nodes of m ranks, node by node, of which each has numbers (M,m,n); in the end rank r has the sum of all ranks' shard r.
struct TwoHops {
    int64_t M, m, n;
    QuantFormat first, second;
    std::vector<Tensor> sent, sent_on, result;  // of each rank: (m,M,bytes), (M,bytes), (n)

    TwoHops(Pool& pool, int64_t M_, int64_t m_, const std::vector<Tensor>& x, double factor, const QuantFormat& first_,
            const QuantFormat& second_)
        : M(M_), m(m_), n(x[0].shape[2]), first(first_), second(second_) {
        const int64_t bytes = message_bytes(n, first), bytes_on = message_bytes(n, second);
        auto empty = [&](std::initializer_list<int64_t> shape) { return pool.filled(Dtype::u8, shape, 0xA5); };
        auto take = [](const Tensor& to, int64_t at, const Tensor& from, int64_t begin, int64_t count) {
            std::memcpy(to.as<uint8_t>() + at, from.as<uint8_t>() + begin, static_cast<size_t>(count));
        };
        auto noise = [&](int hop, int64_t rank, int64_t begin, int64_t stride) {
            return QuantNoise{5, 6, hop, static_cast<int>(rank), begin, stride};
        };
        for (int64_t r = 0; r < M * m; r++)
            sent.push_back(on_both(pool, empty({m, M, bytes}), [&](Tensor out, Stream& stream) {
                quantize(out, x[static_cast<size_t>(r)], factor, first, noise(0, r, 0, n), stream);
            }));
        for (int64_t r = 0; r < M * m; r++) {
            const int64_t node = r / m, local = r % m;
            const Tensor got = empty({m, M, bytes});
            for (int64_t peer = 0; peer < m; peer++)
                take(got, peer * M * bytes, sent[static_cast<size_t>(node * m + peer)], local * M * bytes, M * bytes);
            sent_on.push_back(on_both(pool, empty({M, bytes_on}), [&](Tensor out, Stream& stream) {
                reduce_quantize(out, got, first, second, noise(1, r, local * n, m * n), stream);
            }));
        }
        for (int64_t r = 0; r < M * m; r++) {
            const int64_t node = r / m, local = r % m;
            const Tensor got = empty({M, bytes_on});
            for (int64_t peer = 0; peer < M; peer++)
                take(got, peer * bytes_on, sent_on[static_cast<size_t>(peer * m + local)], node * bytes_on, bytes_on);
            result.push_back(reduced(pool, got));
        }
    }
    Tensor reduced(Pool& pool, const Tensor& got) const {
        auto body = [&](Tensor out, Stream& stream) { reduce_dequantize(out, got, second, stream); };
        for (int64_t i = 0; i < got.rows(); i++)  // which NaN a NaN is may differ
            for (float scale : message(got, i, n, second).scales)
                if (std::isnan(scale)) {
                    Tensor out = pool.poison(Dtype::f32, {n});
                    body(out, test_stream());
                    test_stream().synchronize();
                    return out;
                }
        return on_both(pool, pool.poison(Dtype::f32, {n}), body);
    }
    // What rank `from` sent of shard r in the first hop; what the rank of node `from` that sums shard r sent in the second.
    Message first_of(int64_t from, int64_t r) const { return message(sent[static_cast<size_t>(from)], r % m * M + r / m, n, first); }
    Message second_of(int64_t from, int64_t r) const { return message(sent_on[static_cast<size_t>(from * m + r % m)], r / m, n, second); }
};

// Each shard's numbers, zeros behind them up to n.
Tensor shards(Pool& pool, int64_t M, int64_t m, int64_t n, const std::vector<double>& x, int64_t each) {
    Tensor t = pool.zeros(Dtype::f32, {M, m, n});
    for (size_t i = 0; i < x.size(); i++) Pool::set(t, static_cast<int64_t>(i) / each * n + static_cast<int64_t>(i) % each, x[i]);
    return t;
}

// Root of the mean square error of numbers sent once in 4 bits.
double rms_error(Pool& pool, const Tensor& x, bool hadamard) {
    const QuantFormat f{4, 128, stochastic, hadamard};
    const int64_t n = x.numel();
    const Tensor sent = pool.zeros(Dtype::u8, {1, message_bytes(n, f)}), out = pool.poison(Dtype::f32, {n});
    quantize(sent, Tensor(x.data, x.dtype, {1, n}), 1, f, {}, test_stream());
    reduce_dequantize(out, sent, f, test_stream());
    test_stream().synchronize();
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += std::pow(Pool::get(out, i) - Pool::get(x, i), 2);
    return std::sqrt(sum / static_cast<double>(n));
}

}  // namespace

TEST_SUITE("quantize") {
    TEST_CASE("quantize: differences: what was rounded away is sent again") {
        const QuantFormat f{4, 32, nearest};
        const double second[8] = {0, 0, 1, 1, 1, 1, 2, 2}, third[8] = {0, -1, -1, -1, -2, -2, -3, -3};
        for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
            Pool pool;
            Tensor main = pool.zeros(Dtype::f32, {32}), model = pool.zeros(dtype, {32});
            for (int64_t step = 0; step < 8; step++) {
                const double update[3] = {7, .25, -.375};
                for (int64_t i = 0; i < 3; i++) Pool::set(main, i, Pool::get(main, i) + update[i]);
                step_difference(pool, main, model, f);
                CHECK(Pool::get(model, 0) == 7.0 * static_cast<double>(step + 1));
                CHECK(Pool::get(model, 1) == second[step]);
                CHECK(Pool::get(model, 2) == third[step]);
                CHECK(Pool::get(model, 3) == 0);
            }
            for (int64_t i = 0; i < 3; i++) CHECK(Pool::get(model, i) == Pool::get(main, i));
        }
    }

    TEST_CASE("quantize: differences arrive where quantised weights never move") {
        // f = |w|^2, of which a step sees 4 w1 or 4 w2 in turns, from (1,-1). A step moves w1 by less than half a level of 1/7.
        const QuantFormat f{4, 32, nearest};
        const double lr = 0.015;
        Pool pool;
        Tensor stuck = pool.zeros(Dtype::f32, {1, 32}), sent = pool.zeros(Dtype::u8, {1, message_bytes(32, f)});
        Pool::set(stuck, 0, 1), Pool::set(stuck, 1, -1);
        for (int64_t step = 0; step < 50; step++) {
            Pool::set(stuck, step % 2, (1 - 4 * lr) * Pool::get(stuck, step % 2));
            quantize(sent, stuck, 1, f, {}, test_stream());
            dequantize(stuck, sent, f, test_stream());
            test_stream().synchronize();
            CHECK(Pool::get(stuck, 0) == doctest::Approx(1));
            CHECK(Pool::get(stuck, 1) == doctest::Approx(-1));
        }
        Tensor main = pool.zeros(Dtype::f32, {32}), model = pool.zeros(Dtype::f32, {32}),
               difference = pool.zeros(Dtype::u8, {sent.numel()});
        Pool::set(main, 0, 1), Pool::set(main, 1, -1), Pool::set(model, 0, 1), Pool::set(model, 1, -1);
        for (int64_t step = 0; step < 600; step++) {
            Pool::set(main, step % 2, Pool::get(main, step % 2) - 4 * lr * Pool::get(model, step % 2));
            quantize_difference(difference, main, model, f, {}, test_stream());
            dequantize_add(model, difference, f, test_stream());
            test_stream().synchronize();
        }
        CHECK(std::hypot(Pool::get(main, 0), Pool::get(main, 1)) < 1e-6);
        CHECK(std::hypot(Pool::get(model, 0), Pool::get(model, 1)) < 1e-6);
    }

    TEST_CASE("quantize: differences: replicas stay within a step of main, bit for bit as plain loops make them") {
        for (QuantFormat f : {QuantFormat{4, 2048, nearest}, {4, 2048, stochastic}, {8, 128, nearest}})
            for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
                Pool pool;
                const int64_t n = 3 * f.group, P = 2;
                Tensor main = pool.normal(Dtype::f32, {P, n}, 0.02), model = pool.copy(main, dtype);
                for (int64_t step = 0; step < 3; step++) {
                    const Tensor update = pool.normal(Dtype::f32, {P, n}, 1e-3), all = pool.zeros(Dtype::u8, {P, message_bytes(n, f)});
                    for (int64_t i = 0; i < P * n; i++) main.as<float>()[i] += update.as<float>()[i];
                    for (int64_t r = 0; r < P; r++) {
                        auto own = [&](const Tensor& t) { return Tensor(t.slice_rows(r, 1).data, t.dtype, {n}); };
                        const QuantNoise noise{3, static_cast<uint32_t>(step), 2, static_cast<int>(r), r * n};
                        const Tensor sent =
                            on_both(pool, pool.filled(Dtype::u8, {message_bytes(n, f)}, 0xA5),
                                    [&](Tensor out, Stream& stream) { quantize_difference(out, own(main), own(model), f, noise, stream); });
                        std::vector<float> difference;
                        for (int64_t i = 0; i < n; i++)
                            difference.push_back(static_cast<float>(Pool::get(main, r * n + i)) -
                                                 static_cast<float>(Pool::get(model, r * n + i)));
                        CHECK(same(message(sent, 0, n, f), literal(difference, 1, f, noise, 0, false)));
                        std::memcpy(all.as<uint8_t>() + r * sent.numel(), sent.data, static_cast<size_t>(sent.numel()));
                    }
                    Tensor wanted = pool.copy(model, dtype);
                    int64_t far = 0;
                    for (int64_t r = 0; r < P; r++) {
                        const Message m = message(all, r, n, f);
                        for (int64_t i = 0; i < n; i++) {
                            const float sum = static_cast<float>(Pool::get(model, r * n + i)) + m.value(i, f);
                            Pool::set(wanted, r * n + i, sum);  // narrowed to the nearest
                            const double w = Pool::get(main, r * n + i), error = std::abs(w - Pool::get(wanted, r * n + i));
                            const double quant_error = m.scales[static_cast<size_t>(i / f.group)] * (f.rounding == nearest ? 0.5 : 1);
                            far += error > quant_error + (dtype == Dtype::bf16 ? 0x1p-8 : 0x1p-22) * std::abs(w);
                        }
                    }
                    CHECK(far == 0);
                    model = on_both(pool, model, [&](Tensor out, Stream& stream) { dequantize_add(out, all, f, stream); });
                    CHECK(equal_bits(model, wanted));
                }
            }
    }

    TEST_CASE("quantize: two hops: 2 nodes of 2 ranks whose sums are exact") {
        const int64_t n = 32;
        Pool pool;
        const std::vector<Tensor> x = {
            shards(pool, 2, 2, n, {1, -1, 0, 1, 1, 1, -1, 0}, 2), shards(pool, 2, 2, n, {1, -1, 0, 1, -1, -1, -1, 0}, 2),
            shards(pool, 2, 2, n, {1, -1, 0, -1, 1, 1, 1, 0}, 2), shards(pool, 2, 2, n, {-1, 1, 0, -1, 1, 1, 1, 0}, 2)};
        const TwoHops hops(pool, 2, 2, x, 0.25, {8, 32, nearest}, {4, 32, nearest});
        const double wanted[4][2] = {{.5, -.5}, {0, 0}, {.5, .5}, {0, 0}};
        for (size_t r = 0; r < 4; r++)
            for (int64_t i = 0; i < n; i++) CHECK(Pool::get(hops.result[r], i) == (i < 2 ? wanted[r][i] : 0));
    }

    TEST_CASE("quantize: two hops: a general case, with and without the transform") {
        const int64_t n = 32;
        Pool pool;
        const std::vector<Tensor> x = {shards(pool, 2, 2, n, {8, .5, -.5, .5}, 4), shards(pool, 2, 2, n, {4, 0, 1, -1}, 4),
                                       shards(pool, 2, 2, n, {-2, .9, .5, 0}, 4), shards(pool, 2, 2, n, {6, -1.5, -1, 1.25}, 4)};
        auto codes_are = [&](const Message& m, const std::vector<int>& wanted, bool repeated) {
            for (size_t i = 0; i < static_cast<size_t>(n); i++) CHECK(m.codes[i] == (repeated || i < 4 ? wanted[i % 4] : 0));
        };
        auto error = [&](const Tensor& out, const std::vector<double>& wanted) {
            const double mean[4] = {4, -.025, 0, .1875};
            double squares = 0;
            for (int64_t i = 0; i < n; i++) {
                CHECK(std::abs(Pool::get(out, i) - (i < 4 ? wanted[static_cast<size_t>(i)] : 0)) < 1e-6);
                squares += std::pow(Pool::get(out, i) - (i < 4 ? mean[i] : 0), 2);
            }
            return std::sqrt(squares);
        };
        const TwoHops plain(pool, 2, 2, x, 0.25, {8, 32, nearest}, {4, 32, nearest});
        codes_are(plain.first_of(0, 0), {127, 8, -8, 8}, false), codes_are(plain.first_of(1, 0), {127, 0, 32, -32}, false);
        codes_are(plain.first_of(2, 0), {-127, 57, 32, 0}, false), codes_are(plain.first_of(3, 0), {127, -32, -21, 26}, false);
        codes_are(plain.second_of(0, 0), {7, 0, 0, 0}, false), codes_are(plain.second_of(1, 0), {7, -1, -1, 2}, false);
        CHECK(std::abs(plain.second_of(0, 0).scales[0] - .428571) < 1e-6);
        CHECK(std::abs(plain.second_of(1, 0).scales[0] - .142857) < 1e-6);
        CHECK(error(plain.result[0], {4, -.142857, -.142857, .285714}) == doctest::Approx(.2096).epsilon(1e-3));

        // H of side 4; behind zeros that of side 32 repeats it, and the way back adds the eight up
        const TwoHops rotating(pool, 2, 2, x, 0.25, {8, 32, nearest, true}, {4, 32, nearest, true});
        codes_are(rotating.second_of(0, 0), {7, 7, 7, 6}, true), codes_are(rotating.second_of(1, 0), {5, 3, 3, 7}, true);
        CHECK(std::abs(rotating.second_of(0, 0).scales[0] - .446991) < 1e-6);
        CHECK(std::abs(rotating.second_of(1, 0).scales[0] - .226786) < 1e-6);
        CHECK(error(rotating.result[0], {4.037725, -.001645, -.001645, .228431}) == doctest::Approx(.0604).epsilon(2e-3));
        for (size_t r = 1; r < 4; r++)
            for (int64_t i = 0; i < n; i++) CHECK(Pool::get(rotating.result[r], i) == 0);
    }

    TEST_CASE("quantize: two hops: the error is bounded by the steps of all messages; sums are in the order of ranks") {
        struct Case {
            int64_t M, m, groups;
            QuantFormat first, second;
        };
        for (const Case& c : {Case{2, 2, 3, {8, 128, stochastic}, {4, 128, stochastic}}, Case{2, 3, 1, {8, 32, nearest}, {4, 128, nearest}},
                              Case{3, 1, 3, {4, 128, stochastic}, {4, 128, stochastic}}, Case{1, 3, 1, {8, 256, nearest}, {8, 64, nearest}},
                              Case{2, 2, 3, {8, 128, stochastic, true}, {4, 128, stochastic, true}}}) {
            const int64_t M = c.M, m = c.m, P = M * m, n = c.groups * std::max(c.first.group, c.second.group);
            Pool pool;
            std::vector<Tensor> x;
            for (int64_t r = 0; r < P; r++) x.push_back(pool.normal(Dtype::f32, {M, m, n}));
            const double factor = 1 / static_cast<double>(P), r1 = c.first.rounding == nearest ? 0.5 : 1,
                         r2 = c.second.rounding == nearest ? 0.5 : 1;
            const TwoHops hops(pool, M, m, x, factor, c.first, c.second);
            int64_t far = 0, wrong = 0;
            for (int64_t r = 0; r < P; r++) {
                std::vector<double> bound(static_cast<size_t>(n)), mean(static_cast<size_t>(n));
                for (int64_t i = 0; i < n; i++) {
                    double& b = bound[static_cast<size_t>(i)];
                    for (int64_t from = 0; from < P; from++) {
                        b += r1 * hops.first_of(from, r).scales[static_cast<size_t>(i / c.first.group)];
                        mean[static_cast<size_t>(i)] += factor * Pool::get(x[static_cast<size_t>(from)], r * n + i);
                    }
                    for (int64_t node = 0; node < M; node++)
                        b += r2 * hops.second_of(node, r).scales[static_cast<size_t>(i / c.second.group)];
                }
                for (int64_t begin = 0; begin < n; begin += 32) {
                    double error = 0, most = 0;
                    for (int64_t i = begin; i < begin + 32; i++) {
                        const double e = std::abs(Pool::get(hops.result[static_cast<size_t>(r)], i) - mean[static_cast<size_t>(i)]);
                        if (!c.first.hadamard) far += e > bound[static_cast<size_t>(i)] + 1e-6;
                        error += e * e, most += std::pow(bound[static_cast<size_t>(i)], 2) / 32;
                    }
                    if (c.first.hadamard) far += std::sqrt(error) > std::sqrt(most) + 1e-6;
                }
                // The second message again, from the first ones: plain loops in the order of the node's ranks.
                for (int64_t node = 0; node < M; node++) {
                    std::vector<float> sum(static_cast<size_t>(n));
                    for (int64_t l = 0; l < m; l++) {
                        const Message from = hops.first_of(node * m + l, r);
                        for (int64_t i = 0; i < n; i++) sum[static_cast<size_t>(i)] += from.value(i, c.first);
                    }
                    const QuantNoise noise{5, 6, 1, static_cast<int>(node * m + r % m), r % m * n, m * n};
                    wrong += !same(hops.second_of(node, r), literal(sum, 1, c.second, noise, r / m, false));
                }
                std::vector<float> sum(static_cast<size_t>(n));
                for (int64_t node = 0; node < M; node++) {
                    const Message from = hops.second_of(node, r);
                    for (int64_t i = 0; i < n; i++) sum[static_cast<size_t>(i)] += from.value(i, c.second);
                }
                if (c.second.hadamard) {
                    sum = rotated(sum);
                    for (float& y : sum) y /= 32;
                }
                wrong += !same_floats(sum, shard_of(hops.result[static_cast<size_t>(r)], 0, n));
            }
            CHECK(far == 0);
            CHECK(wrong == 0);
        }
    }

    TEST_CASE("quantize: two hops: one rank's NaN reaches the rank that owns its group, and no other number") {
        for (bool hadamard : {false, true})
            for (float bad : {std::nanf(""), -INFINITY}) {
                const int64_t M = 2, m = 2, n = 3 * 128;
                Pool pool;
                std::vector<Tensor> x;
                for (int64_t r = 0; r < 4; r++) x.push_back(pool.normal(Dtype::f32, {M, m, n}));
                x[1].as<float>()[2 * n + 128 + 77] = bad;  // shard 2, group 1
                const TwoHops hops(pool, M, m, x, 0.25, {8, 128, stochastic, hadamard}, {4, 128, stochastic, hadamard});
                for (int64_t r = 0; r < 4; r++)
                    for (int64_t i = 0; i < n; i++)
                        CHECK(std::isnan(Pool::get(hops.result[static_cast<size_t>(r)], i)) == (r == 2 && i / 128 == 1));
            }
        // and weights: into every replica
        const QuantFormat f{4, 64, nearest};
        for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
            Pool pool;
            const Tensor main = pool.normal(Dtype::f32, {192}), model = pool.copy(main, dtype), out = pool.zeros(dtype, {192});
            Pool::set(main, 100, INFINITY);
            const Tensor sent = pool.zeros(Dtype::u8, {message_bytes(192, f)});
            quantize_difference(sent, main, model, f, {}, test_stream());
            dequantize_add(model, sent, f, test_stream()), dequantize(out, sent, f, test_stream());
            test_stream().synchronize();
            for (int64_t i = 0; i < 192; i++) {
                CHECK(std::isnan(Pool::get(model, i)) == (i / 64 == 1));
                CHECK(std::isnan(Pool::get(out, i)) == (i / 64 == 1));
            }
        }
    }

    TEST_CASE("quantize: the transform takes the sting out of outliers") {
        // One of 128 normal numbers is so many times as large. Error without and with H: of a program in double.
        const double expected[3][3] = {{1, .166, .166}, {5, .305, .182}, {20, 1.02, .313}};
        for (auto [outlier, plain, with] : expected) {
            Pool pool;
            const Tensor x = pool.normal(Dtype::f32, {512 * 128});
            for (int64_t group = 0; group < 512; group++)
                Pool::set(x, group * 128 + group % 128, outlier * Pool::get(x, group * 128 + group % 128));
            CHECK(rms_error(pool, x, false) == doctest::Approx(plain).epsilon(0.05));
            CHECK(rms_error(pool, x, true) == doctest::Approx(with).epsilon(0.05));
        }
    }
}
