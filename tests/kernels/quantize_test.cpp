#include "tests/kernels/quantize_fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

constexpr auto nearest = QuantFormat::nearest, stochastic = QuantFormat::stochastic;

// What is sent: SDP4Bit's weights, its two hops of gradients, ZeRO++'s, and more groups.
const QuantFormat formats[] = {
    {4, 2048, nearest},           {4, 2048, stochastic},  {8, 128, stochastic, true},
    {4, 128, stochastic, true},   {8, 128, nearest},      {4, 128, nearest, true},
    {4, 32, stochastic},          {8, 64, nearest, true}, {8, 256, nearest, false},
    {4, 512, stochastic, true},   {8, 8192, stochastic},  {4, 128, nearest, false, true},
    {4, 32, nearest, true, true},
};

// Normal, with an outlier here and there, a group of zeros and numbers of all magnitudes.
Tensor numbers(Pool& pool, Dtype dtype, std::initializer_list<int64_t> shape, int64_t group) {
    Tensor x = pool.normal(dtype, shape);
    const int64_t n = x.numel();
    for (int64_t i = 0; i < n; i += 97) Pool::set(x, i, 20 * Pool::get(x, i));
    for (int64_t i = 0; i < n; i++)
        if (i / group % 5 == 3) Pool::set(x, i, 0);
    for (int64_t i = 0; i < n; i++)
        if (i / group % 5 == 4) Pool::set(x, i, Pool::get(x, i) * std::pow(10.0, -35.0 + static_cast<double>(i % 70)));
    return x;
}

Tensor space(Pool& pool, std::initializer_list<int64_t> shape) { return pool.filled(Dtype::u8, shape, 0xA5); }

// A tensor of these numbers, zeros behind them up to n.
Tensor padded(Pool& pool, const std::vector<double>& x, int64_t n) {
    Tensor t = pool.zeros(Dtype::f32, {n});
    for (size_t i = 0; i < x.size(); i++) Pool::set(t, static_cast<int64_t>(i), x[i]);
    return t;
}

}  // namespace

TEST_SUITE("quantize") {
    TEST_CASE("quantize: messages equal those of plain loops to the last bit, on CPU and GPU") {
        for (const QuantFormat& f : formats)
            for (Dtype dtype : {Dtype::f32, Dtype::bf16})
                for (int64_t groups : {1, 3, 129}) {
                    const int64_t n = groups * f.group, shards = groups == 3 ? 3 : 1;
                    if (n > 20000 && (f.group > 128 || dtype == Dtype::bf16)) continue;
                    CAPTURE(f.bits);
                    CAPTURE(f.group);
                    CAPTURE(int{f.rounding});
                    CAPTURE(groups);
                    Pool pool;
                    const Tensor x = numbers(pool, dtype, {shards, n}, f.group);
                    const QuantNoise noise{0x123456789ABCDEF, 77, 1, 5, 64, n + 256};
                    const double factor = groups == 3 ? 1 / 3.0 : 1;
                    const Tensor sent = on_both(pool, space(pool, {shards, message_bytes(n, f)}),
                                                [&](Tensor out, Stream& stream) { quantize(out, x, factor, f, noise, stream); });
                    const Tensor wanted = pool.poison(dtype, {shards, n});
                    for (int64_t s = 0; s < shards; s++) {
                        const Message m = message(sent, s, n, f);
                        CHECK(same(m, literal(shard_of(x, s, n), static_cast<float>(factor), f, noise, s, f.hadamard)));
                        for (int64_t i = 0; i < n; i++) Pool::set(wanted, s * n + i, m.value(i, f));
                    }
                    if (f.hadamard) continue;
                    const Tensor out =
                        on_both(pool, pool.poison(dtype, {shards, n}), [&](Tensor to, Stream& stream) { dequantize(to, sent, f, stream); });
                    CHECK(equal_bits(out, wanted));
                }
    }

    TEST_CASE("quantize: vectors that were computed by hand") {
        const QuantFormat f{4, 32, nearest};
        Pool pool;
        const Tensor x = padded(pool, {.4375, -.21875, .15625, 0}, 64);
        const double second[4] = {-.875, .125, .3125, .75};
        for (int64_t i = 0; i < 4; i++) Pool::set(x, 32 + i, second[i]);
        const Tensor sent =
            on_both(pool, space(pool, {message_bytes(64, f)}), [&](Tensor out, Stream& stream) { quantize(out, x, 1, f, {}, stream); });
        REQUIRE(sent.numel() == 48);
        const uint8_t* bytes = sent.as<uint8_t>();
        const uint8_t wanted[48] = {
            0x7C, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0,    0x91, 0x26, 0, 0,
            0,    0,    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3D, 0,    0,    0, 0x3E};  // scales 0.0625, 0.125; zeros
        for (int i = 0; i < 48; i++) CHECK(int{bytes[i]} == int{wanted[i]});

        // Stochastic rounding by given draws: the rule that the random bits are fed to above.
        const QuantFormat by_chance{4, 32, stochastic};
        const float u[8] = {.1f, .2f, .6f, .9f, .3f, .3f, .4f, .5f};
        const int codes[8] = {7, -3, 2, 0, -7, 1, 3, 6};
        for (int64_t i = 0; i < 8; i++)
            CHECK(code_of(static_cast<float>(Pool::get(x, i / 4 * 32 + i % 4)), i < 4 ? 16 : 8, by_chance, u[i]) == codes[i]);
    }

    TEST_CASE("quantize: of 16 levels the largest number is clamped to 7/8, the smallest is kept") {
        const QuantFormat f{4, 32, nearest, false, true};
        Pool pool;
        const Tensor x = padded(pool, {16, -16, 13, 7, 1, -1, 3, -3}, 32);  // k = 1/2: 8 (clamped), -8, 6.5, 3.5, 0.5, -0.5, 1.5, -1.5
        const Tensor sent =
            on_both(pool, space(pool, {message_bytes(32, f)}), [&](Tensor out, Stream& stream) { quantize(out, x, 1, f, {}, stream); });
        const Message m = message(sent, 0, 32, f);
        CHECK(m.scales == std::vector<float>{2});
        CHECK(std::vector<int>(m.codes.begin(), m.codes.begin() + 8) == std::vector<int>{7, -8, 6, 4, 0, 0, 2, -2});
    }

    TEST_CASE("quantize: the transform: known products, an impulse, and its outlier's error") {
        const QuantFormat wide{8, 32, nearest, true}, f{4, 32, nearest, true};
        Pool pool;
        auto codes_and_back = [&](const Tensor& x, const QuantFormat& format, Message& m) {
            const Tensor sent = on_both(pool, space(pool, {1, message_bytes(x.numel(), format)}), [&](Tensor out, Stream& stream) {
                quantize(out, Tensor(x.data, x.dtype, {1, x.numel()}), 1, format, {}, stream);
            });
            m = message(sent, 0, x.numel(), format);
            return on_both(pool, pool.poison(Dtype::f32, {x.numel()}),
                           [&](Tensor out, Stream& stream) { reduce_dequantize(out, sent, format, stream); });
        };
        Message m;
        // H8 (0..7) = (28,-4,-8,0,-16,0,0,0); behind zeros H32 repeats it. 127/28 is no whole number, so 7/28 it is: k = 1/4.
        codes_and_back(padded(pool, {0, 1, 2, 3, 4, 5, 6, 7}, 32), f, m);
        const int products[8] = {7, -1, -2, 0, -4, 0, 0, 0};
        for (size_t i = 0; i < 32; i++) CHECK(m.codes[i] == products[i % 8]);
        CHECK(m.scales[0] == 4);

        Tensor impulse = pool.zeros(Dtype::f32, {64});
        Pool::set(impulse, 5, 3), Pool::set(impulse, 63, -0.1);
        const Tensor same_impulse = codes_and_back(impulse, f, m);
        for (int code : m.codes) CHECK(std::abs(code) == 7);
        for (int64_t i = 0; i < 64; i++) CHECK(Pool::get(same_impulse, i) == doctest::Approx(Pool::get(impulse, i)).epsilon(1e-6));

        // (8,.5,-.5,.5) with H of side 4; behind zeros that of side 32 is eight of it
        const Tensor back = codes_and_back(padded(pool, {8, .5, -.5, .5}, 32), f, m);
        const int rotated_codes[4] = {7, 5, 7, 7};
        for (size_t i = 0; i < 32; i++) CHECK(m.codes[i] == rotated_codes[i % 4]);
        const double wanted[4] = {7.892857, .607143, -.607143, .607143};
        for (int64_t i = 0; i < 32; i++) CHECK(std::abs(Pool::get(back, i) - (i < 4 ? wanted[i] : 0)) < 1e-6);

        // H (H x) / 32 = x: the numbers of a lattice come back as they were, since nothing is rounded
        Tensor lattice = pool.zeros(Dtype::f32, {32});
        const Random random{3};
        std::vector<float> codes;
        for (int64_t i = 0; i < 32; i++)
            codes.push_back(i == 9 ? 127.0f : static_cast<float>(random.below(255, 0, static_cast<uint64_t>(i))) - 127);
        const std::vector<float> x = sylvester(codes);  // H codes: H of it is 32 codes
        for (size_t i = 0; i < 32; i++) Pool::set(lattice, static_cast<int64_t>(i), x[i]);
        CHECK(equal_bits(codes_and_back(lattice, wide, m), lattice));
    }

    TEST_CASE("quantize: shards change places for the ranks of a node, and keep their random bits") {
        const QuantFormat f{8, 128, stochastic, true};
        const int64_t M = 2, m = 3, n = 256, bytes = message_bytes(n, f);
        Pool pool;
        const Tensor x = pool.normal(Dtype::f32, {M, m, n}), flat(x.data, Dtype::f32, {M * m, n});
        const QuantNoise noise{1, 2, 0, 3, 0, n};
        const Tensor swapped =
            on_both(pool, space(pool, {m, M, bytes}), [&](Tensor out, Stream& stream) { quantize(out, x, 0.5, f, noise, stream); });
        const Tensor plain =
            on_both(pool, space(pool, {M * m, bytes}), [&](Tensor out, Stream& stream) { quantize(out, flat, 0.5, f, noise, stream); });
        for (int64_t node = 0; node < M; node++)
            for (int64_t local = 0; local < m; local++)
                CHECK(std::memcmp(swapped.as<uint8_t>() + (local * M + node) * bytes, plain.as<uint8_t>() + (node * m + local) * bytes,
                                  static_cast<size_t>(bytes)) == 0);
    }

    TEST_CASE("quantize: cut into pieces, on any number of threads: the same codes") {
        const QuantFormat f{4, 64, stochastic, true};
        const int64_t shards = 4, n = 64 * 6, piece = 64 * 2;
        Pool pool;
        const Tensor x = pool.normal(Dtype::f32, {shards, n});
        const QuantNoise noise{9, 8, 1, 2, 4096, n};
        auto whole = [&](int threads) {
            Tensor out = space(pool, {shards, message_bytes(n, f)});
            on_threads(threads, [&] { quantize(out, x, 1, f, noise, test_stream()); });
            test_stream().synchronize();
            return out;
        };
        const Tensor sent = whole(1);
        for (int threads : {2, 3}) CHECK(equal_bits(whole(threads), sent));
        for (int64_t begin = 0; begin < n; begin += piece) {
            const Tensor part = pool.zeros(Dtype::f32, {shards, piece}), out = space(pool, {shards, message_bytes(piece, f)});
            for (int64_t i = 0; i < shards * piece; i++) Pool::set(part, i, Pool::get(x, i / piece * n + begin + i % piece));
            QuantNoise moved = noise;
            moved.first += begin;
            quantize(out, part, 1, f, moved, test_stream());
            test_stream().synchronize();
            for (int64_t s = 0; s < shards; s++) {
                const Message a = message(out, s, piece, f), b = message(sent, s, n, f);
                CHECK(std::equal(a.codes.begin(), a.codes.end(), b.codes.begin() + begin));
            }
        }
    }

    TEST_CASE("quantize: stochastic rounding has the right mean; other seeds, steps, hops, ranks and indices have other bits") {
        const QuantFormat f{4, 32, stochastic};
        const int64_t draws = 4096, n = 32, bytes = message_bytes(n, f);
        Pool pool;
        const Tensor x = pool.normal(Dtype::f32, {n});
        Pool::set(x, 7, 3.5);  // the scale is 1/2
        Tensor all = pool.zeros(Dtype::f32, {draws, n});
        for (int64_t i = 0; i < draws * n; i++) Pool::set(all, i, Pool::get(x, i % n));
        auto codes_with = [&](QuantNoise noise) {
            noise.stride = n;
            const Tensor out = space(pool, {draws, bytes});
            quantize(out, all, 1, f, noise, test_stream());
            test_stream().synchronize();
            std::vector<int> codes;
            for (int64_t s = 0; s < draws; s++)
                for (int code : message(out, s, n, f).codes) codes.push_back(code);
            return codes;
        };
        const QuantNoise base{1, 2, 0, 0, 0, 0};
        const std::vector<int> codes = codes_with(base);
        const double s = 0.5;
        for (int64_t i = 0; i < n; i++) {
            double mean = 0;
            int64_t far = 0;
            for (int64_t d = 0; d < draws; d++) {
                const double decoded = s * codes[static_cast<size_t>(d * n + i)];
                far += std::abs(decoded - Pool::get(x, i)) >= s;
                mean += decoded / static_cast<double>(draws);
            }
            CHECK(far == 0);
            CHECK(std::abs(mean - Pool::get(x, i)) <= 5 * s / (2 * std::sqrt(static_cast<double>(draws))));
        }
        // Of two independent roundings both go up, or neither, with p^2 + (1 - p)^2.
        double agree = 0, variance = 0;
        for (int64_t i = 0; i < n; i++) {
            const double v = Pool::get(x, i) / s, p = v - std::floor(v), q = p * p + (1 - p) * (1 - p);
            agree += q, variance += q * (1 - q);
        }
        for (const QuantNoise& other : {QuantNoise{2, 2}, QuantNoise{uint64_t{1} << 32 | 1, 2}, QuantNoise{1, 3}, QuantNoise{1, 2, 1},
                                        QuantNoise{1, 2, 0, 1}, QuantNoise{1, 2, 0, 65535}, QuantNoise{1, 2, 0, 0, draws * n}}) {
            const std::vector<int> there = codes_with(other);
            double equal = 0;
            for (size_t i = 0; i < codes.size(); i++) equal += codes[i] == there[i];
            CHECK(std::abs(equal - agree * draws) < 5 * std::sqrt(variance * draws));
        }
    }

    TEST_CASE("quantize: errors are at most half a step to the nearest, less than one by chance") {
        for (const QuantFormat& f : {QuantFormat{4, 128, nearest}, {8, 128, nearest}, {4, 2048, stochastic}, {8, 32, stochastic}}) {
            Pool pool;
            const int64_t n = 4096;
            const Tensor x = pool.normal(Dtype::f32, {n}), out = space(pool, {message_bytes(n, f)});
            quantize(out, x, 1, f, {}, test_stream());
            test_stream().synchronize();
            const Message m = message(out, 0, n, f);
            int64_t over = 0;
            for (int64_t i = 0; i < n; i++) {
                const double s = m.scales[static_cast<size_t>(i / f.group)], error = std::abs(m.value(i, f) - Pool::get(x, i));
                over += error > s * (f.rounding == nearest ? 0.5 : 1) + 2e-7 * std::abs(Pool::get(x, i));
            }
            CHECK(over == 0);
        }
    }

    TEST_CASE("quantize: what is not finite makes its group NaN and no other; groups next to zero are zero") {
        const float inf = INFINITY, nan = std::nanf("");
        for (const QuantFormat& f : {QuantFormat{8, 32, nearest}, {4, 128, stochastic}, {4, 2048, nearest}, {8, 128, stochastic, true}})
            for (float bad : {nan, -nan, inf, -inf})
                for (int64_t place : {int64_t{0}, int64_t{13}, f.group - 1}) {
                    Pool pool;
                    const int64_t n = 3 * f.group;
                    const Tensor x = pool.normal(Dtype::f32, {n});
                    x.as<float>()[f.group + place] = bad;
                    const Tensor sent = on_both(pool, space(pool, {message_bytes(n, f)}),
                                                [&](Tensor out, Stream& stream) { quantize(out, x, 0.25, f, {}, stream); });
                    const Message m = message(sent, 0, n, f);
                    CHECK(std::bit_cast<uint32_t>(m.scales[1]) == 0x7FC00000);
                    for (int64_t i = 0; i < f.group; i++) CHECK(m.codes[static_cast<size_t>(f.group + i)] == 0);
                    CHECK(std::isfinite(m.scales[0]));
                    CHECK(std::isfinite(m.scales[2]));
                }
        const QuantFormat f{4, 32, nearest}, rotating{4, 32, nearest, true};
        Pool pool;
        Tensor x = pool.zeros(Dtype::f32, {4 * 32});
        Pool::set(x, 0, 1e-30), Pool::set(x, 32, -9.9e-31), Pool::set(x, 64, 3e38), Pool::set(x, 96, -0.0);
        const Tensor out =
            on_both(pool, space(pool, {message_bytes(128, f)}), [&](Tensor to, Stream& stream) { quantize(to, x, 1, f, {}, stream); });
        const Message m = message(out, 0, 128, f);
        CHECK(m.codes[0] == 7);
        CHECK(m.value(0, f) == doctest::Approx(1e-30));
        CHECK(m.codes[32] == 0);
        CHECK(m.scales[1] == 1);
        CHECK(m.value(64, f) == doctest::Approx(3e38));
        CHECK(m.codes[96] == 0);
        CHECK(m.scales[3] == 1);
        for (int64_t i = 0; i < 32; i++) Pool::set(x, i, 3e38);  // finite, and its sum is not
        const Tensor overflown = on_both(pool, space(pool, {message_bytes(128, f)}),
                                         [&](Tensor to, Stream& stream) { quantize(to, x, 1, rotating, {}, stream); });
        CHECK(std::isnan(message(overflown, 0, 128, f).scales[0]));
    }

    TEST_CASE("quantize: exact bytes of messages, and back") {
        const QuantFormat weights{4, 2048}, hop1{8, 128}, hop2{4, 128};
        // N numbers, P ranks, m of them in a node: what a rank sends of differences of weights, in the first and in the second hop
        struct Case {
            int64_t N, P, m, gather, first, second;
        };
        for (const Case& c : {Case{393216, 4, 2, 148032, 202752, 52224}, Case{10485760, 8, 4, 4605440, 8110080, 696320}}) {
            const int64_t n = c.N / c.P, M = c.P / c.m;
            CHECK((c.P - 1) * message_bytes(n, weights) == c.gather);
            CHECK((c.m - 1) * M * message_bytes(n, hop1) == c.first);
            CHECK((M - 1) * message_bytes(n, hop2) == c.second);
        }
        CHECK(message_bytes(32, {4, 32}) == 32);  // 16 + 4, then zeros
        CHECK(message_bytes(96, {4, 32}) == 64);  // 48 + 12
        CHECK(message_bytes(2048, {8, 2048}) == 2064);
        for (int bits : {4, 8})
            for (int64_t group = 32; group <= 8192; group *= 2)
                for (int64_t groups : {1, 2, 3, 4, 5, 129}) {
                    const QuantFormat f{bits, group};
                    CHECK(message_bytes(groups * group, f) % 16 == 0);
                    CHECK(numbers_of(message_bytes(groups * group, f), f) == groups * group);
                }
    }

    TEST_CASE("quantize: bad shapes, formats and indices are refused") {
        Pool pool;
        const QuantFormat f{8, 128};
        const int64_t bytes = message_bytes(256, f);
        const Tensor x = pool.zeros(Dtype::f32, {2, 256}), out = space(pool, {2, bytes});
        Stream& stream = test_stream();
        const QuantNoise noise{1, 1, 0, 0, 0, 256};
        CHECK_NOTHROW(quantize(out, x, 1, f, noise, stream));
        for (const QuantFormat& bad : {QuantFormat{5, 128},
                                       {8, 16},
                                       {8, 96},
                                       {8, 16384},
                                       {8, 128, nearest, false, true},
                                       {4, 128, stochastic, false, true},
                                       {4, 128},
                                       {8, 512}})
            CHECK_THROWS_AS(quantize(out, x, 1, bad, noise, stream), std::logic_error);
        for (const QuantNoise& bad : {QuantNoise{1, 1, 16, 0, 0, 256},
                                      {1, 1, -1, 0, 0, 256},
                                      {1, 1, 0, 65536, 0, 256},
                                      {1, 1, 0, 0, 4, 256},
                                      {1, 1, 0, 0, 0, 260},
                                      {1, 1, 0, 0, 0, 128},
                                      {1, 1, 0, 0, (int64_t{1} << 47) - 256, 256}})
            CHECK_THROWS_AS(quantize(out, x, 1, f, bad, stream), std::logic_error);
        CHECK_THROWS_AS(quantize(out.slice_rows(0, 1), x, 1, f, noise, stream), std::logic_error);
        CHECK_THROWS_AS(quantize(out, x.slice_cols(0, 128), 1, f, noise, stream), std::logic_error);
        CHECK_THROWS_AS(quantize(out, Tensor(x.as<float>() + 1, Dtype::f32, {1, 256}), 1, f, noise, stream), std::logic_error);
        CHECK_THROWS_AS(quantize(Tensor(out.data, Dtype::f32, {2, bytes}), x, 1, f, noise, stream), std::logic_error);
        CHECK_THROWS_AS(quantize(Tensor(out.data, Dtype::u8, {1, 2, bytes}), Tensor(x.data, Dtype::f32, {1, 2, 256}), 1, f, noise, stream),
                        std::logic_error);
        CHECK_THROWS_AS(dequantize(x, out, {8, 128, nearest, true}, stream), std::logic_error);
        CHECK_THROWS_AS(dequantize_add(x, out.slice_rows(0, 1), f, stream), std::logic_error);
        CHECK_THROWS_AS(reduce_dequantize(x, out, f, stream), std::logic_error);
        const Tensor sent(out.data, Dtype::u8, {2, 1, bytes}), sum = space(pool, {1, bytes});
        CHECK_NOTHROW(reduce_quantize(sum, sent, f, f, noise, stream));
        CHECK_THROWS_AS(reduce_quantize(sum, sent, f, {8, 128, nearest, true}, noise, stream), std::logic_error);
        CHECK_THROWS_AS(reduce_quantize(sum, sent, f, {4, 128}, noise, stream), std::logic_error);
        stream.synchronize();
    }
}
