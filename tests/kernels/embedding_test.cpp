#include "kernels/embedding.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// positions 0, 1, 2, 0, 1, ...: rows of wpe are shared, too
Tensor cycle(Pool& pool, int64_t n, int64_t period) {
    Tensor t = pool.integers({n}, 1);
    for (int64_t i = 0; i < n; i++) Pool::set(t, i, static_cast<double>(i % period));
    return t;
}

// a + b in the type that the kernels add in.
double plus(double a, double b, Dtype dtype) {
    return dtype == Dtype::f64 ? a + b : static_cast<double>(static_cast<float>(a) + static_cast<float>(b));
}

// The sum in the order that is promised, one element at a time.
void add_rows(const Tensor& into, const Tensor& dout, const Tensor& ids) {
    int64_t C = dout.cols();
    for (int64_t c = 0; c < C; c++)
        for (int64_t t = 0; t < dout.rows(); t++) {
            int64_t to = ids.as<int32_t>()[t] * C + c;
            Pool::set(into, to, plus(Pool::get(into, to), Pool::get(dout, t * C + c), into.dtype));
        }
}

Tensor order_of(Pool& pool, const Tensor& ids) {
    const int32_t* id = ids.as<int32_t>();
    const int64_t n = ids.numel(), rows = n > 0 ? *std::max_element(id, id + n) + 1 : 1;
    Tensor order = pool.integers({n}, 1);
    sorted_order({order.as<int32_t>(), static_cast<size_t>(n)}, {id, static_cast<size_t>(n)}, rows);
    return order;
}

}  // namespace

TEST_SUITE("embedding") {
    TEST_CASE("embedding: forward gathers rows, exactly") {
        for (Dtype dtype : test_dtypes())
            for (int64_t n : {0, 1, 17, 300})
                for (int64_t C : {1, 7, 96, 129, 520}) {
                    Pool pool;
                    Tensor wte = pool.normal(dtype, {11, C}), wpe = pool.normal(dtype, {5, C}), out = pool.poison(dtype, {n, C});
                    Tensor tokens = pool.integers({n}, 11), positions = cycle(pool, n, 5), expected = pool.poison(dtype, {n, C});
                    for (bool learned : {false, true}) {
                        embedding_forward(out, tokens, learned ? positions : Tensor(), wte, learned ? wpe : Tensor(), test_stream());
                        test_stream().synchronize();
                        for (int64_t t = 0; t < n; t++)
                            for (int64_t c = 0; c < C; c++) {
                                double token = Pool::get(wte, tokens.as<int32_t>()[t] * C + c);
                                double position = Pool::get(wpe, positions.as<int32_t>()[t] * C + c);
                                Pool::set(expected, t * C + c, learned ? plus(token, position, dtype) : token);
                            }
                        CHECK(equal_bits(out, expected));
                    }
                }
    }

    // What the type's forward pass promises of tables of any stored type: the widened elements added, then rounded once.
    TEST_CASE("embedding: tables of two types, beside results of a third, exactly" * doctest::skip(on_gpu())) {
        const Dtype stored[] = {Dtype::f32, Dtype::bf16, Dtype::f16};
        for (Dtype out_type : {Dtype::f32, Dtype::bf16, Dtype::f64})
            for (Dtype token_type : stored)
                for (Dtype position_type : stored)
                    for (int64_t C : {1, 7, 129}) {
                        Pool pool;
                        const int64_t n = 17;
                        // Positions of another size: sums that no 16-bit type holds.
                        Tensor wte = pool.normal(token_type, {11, C}), wpe = pool.normal(position_type, {5, C}, 0.01);
                        Tensor tokens = pool.integers({n}, 11), positions = cycle(pool, n, 5);
                        Tensor out = pool.poison(out_type, {n, C}), expected = pool.poison(out_type, {n, C});
                        INFO(std::string(name_of(out_type)), " ", std::string(name_of(token_type)), " ",
                             std::string(name_of(position_type)), " ", C);
                        for (bool learned : {false, true}) {
                            embedding_forward(out, tokens, learned ? positions : Tensor(), wte, learned ? wpe : Tensor(), test_stream());
                            for (int64_t t = 0; t < n; t++)
                                for (int64_t c = 0; c < C; c++) {
                                    const double token = Pool::get(wte, tokens.as<int32_t>()[t] * C + c);
                                    const double position = Pool::get(wpe, t % 5 * C + c);
                                    Pool::set(expected, t * C + c, learned ? plus(token, position, out_type) : token);
                                }
                            CHECK(equal_bits(out, expected));
                        }
                    }
    }

    TEST_CASE("embedding: tables of any stored type, each of its own, are widened, added in f32 and rounded once" *
              doctest::skip(!on_gpu())) {
        const Dtype stored[] = {Dtype::f32, Dtype::bf16, Dtype::f16};
        for (Dtype dtype : test_dtypes())
            for (Dtype token_type : stored)
                for (Dtype position_type : stored)
                    for (int64_t C : {1, 7, 12, 96, 129, 520}) {
                        INFO(std::string(name_of(dtype)), " ", std::string(name_of(token_type)), " ", std::string(name_of(position_type)),
                             " ", C);
                        Pool pool;
                        const int64_t n = 17;
                        Tensor wte = pool.normal(token_type, {11, C}), wpe = pool.normal(position_type, {5, C});
                        Tensor tokens = pool.integers({n}, 11), positions = cycle(pool, n, 5);
                        Tensor out = pool.poison(dtype, {n, C}), alone = pool.poison(dtype, {n, C});
                        Tensor expected = pool.poison(dtype, {n, C}), expected_alone = pool.poison(dtype, {n, C});
                        for (int64_t t = 0; t < n; t++)
                            for (int64_t c = 0; c < C; c++) {
                                const double token = Pool::get(wte, tokens.as<int32_t>()[t] * C + c);
                                const double position = Pool::get(wpe, positions.as<int32_t>()[t] * C + c);
                                Pool::set(expected, t * C + c, plus(token, position, Dtype::f32));
                                Pool::set(expected_alone, t * C + c, token);
                            }
                        embedding_forward(out, tokens, positions, wte, wpe, test_stream());
                        embedding_forward(alone, tokens, {}, wte, {}, test_stream());
                        test_stream().synchronize();
                        CHECK(equal_bits(out, expected));
                        CHECK(equal_bits(alone, expected_alone));
                    }
    }

    TEST_CASE("embedding: backward adds to what was there, tokens in ascending order, on any number of threads") {
        for (Dtype dtype : test_dtypes())
            for (int64_t n : {0, 1, 17, 300})
                for (int64_t C : {1, 7, 96, 129, 264})
                    for (int64_t used : {11, 2}) {  // a few tokens: each is met more often than a warp has lanes
                        Pool pool;
                        const Dtype sums = statistics_of(dtype);
                        Tensor dout = pool.normal(dtype, {n, C}), tokens = pool.integers({n}, used), positions = cycle(pool, n, 5);
                        Tensor before_wte = pool.normal(sums, {12, C}), before_wpe = pool.normal(sums, {5, C});
                        Tensor expected_wte = pool.copy(before_wte, sums), expected_wpe = pool.copy(before_wpe, sums);
                        add_rows(expected_wte, dout, tokens);
                        add_rows(expected_wpe, dout, positions);
                        for (int threads : {1, 2, 3}) {
                            if (on_gpu() && threads > 1) continue;
                            Tensor dwte = pool.copy(before_wte, sums), dwpe = pool.copy(before_wpe, sums),
                                   alone = pool.copy(before_wte, sums);
                            Tensor token_order = order_of(pool, tokens), position_order = order_of(pool, positions);
                            on_threads(threads, [&] {
                                embedding_backward(dwte, dwpe, dout, tokens, positions, token_order, position_order, test_stream());
                                embedding_backward(alone, {}, dout, tokens, {}, token_order, {}, test_stream());
                            });
                            test_stream().synchronize();
                            CHECK(equal_bits(dwte, expected_wte));
                            CHECK(equal_bits(dwpe, expected_wpe));
                            CHECK(equal_bits(alone, expected_wte));
                        }
                    }
    }

    TEST_CASE("embedding: a row of the table that does not lie on 16 bytes") {
        for (Dtype dtype : test_dtypes()) {
            Pool pool;
            Tensor wide = pool.normal(dtype, {3 * 16 + 1}), wte(wide.slice_rows(1, 48).data, dtype, {3, 16});
            Tensor tokens = cycle(pool, 5, 3), out = pool.poison(dtype, {5, 16});
            embedding_forward(out, tokens, {}, wte, {}, test_stream());
            test_stream().synchronize();
            for (int64_t i = 0; i < 5 * 16; i++) CHECK(Pool::get(out, i) == Pool::get(wte, i / 16 % 3 * 16 + i % 16));
        }
    }

    TEST_CASE("embedding: backward is the gradient of forward" * doctest::skip(on_gpu())) {
        Pool pool;
        int64_t n = 17, C = 7;
        Tensor wte = pool.normal(Dtype::f64, {6, C}), wpe = pool.normal(Dtype::f64, {5, C}), dout = pool.normal(Dtype::f64, {n, C});
        Tensor tokens = pool.integers({n}, 6), positions = cycle(pool, n, 5), out = pool.poison(Dtype::f64, {n, C});
        Tensor dwte = pool.zeros(Dtype::f64, {6, C}), dwpe = pool.zeros(Dtype::f64, {5, C});
        auto loss = [&] {
            embedding_forward(out, tokens, positions, wte, wpe, test_stream());
            double total = 0;
            for (int64_t i = 0; i < out.numel(); i++) total += Pool::get(out, i) * Pool::get(dout, i);
            return total;
        };
        embedding_backward(dwte, dwpe, dout, tokens, positions, order_of(pool, tokens), order_of(pool, positions), test_stream());
        CHECK(gradient_error(loss, wte, dwte) < 1e-8);
        CHECK(gradient_error(loss, wpe, dwpe) < 1e-8);
    }

    TEST_CASE("embedding: a token or position outside its table is refused before anything is written" * doctest::skip(on_gpu())) {
        Pool pool;
        Tensor wte = pool.normal(Dtype::f32, {6, 8}), wpe = pool.normal(Dtype::f32, {3, 8}), out = pool.zeros(Dtype::f32, {3, 8});
        Tensor good = cycle(pool, 3, 3), bad = cycle(pool, 3, 3);
        for (double id : {-1.0, 6.0}) {
            Pool::set(bad, 2, id);
            CHECK_THROWS_AS(embedding_forward(out, bad, {}, wte, {}, test_stream()), std::logic_error);
            CHECK_THROWS_AS(embedding_forward(out, good, bad, wte, wpe, test_stream()), std::logic_error);
            CHECK_THROWS_AS(embedding_backward(wte, {}, out, bad, {}, good, {}, test_stream()), std::logic_error);
            CHECK_THROWS_AS(embedding_backward(wte, wpe, out, good, bad, good, good, test_stream()), std::logic_error);
        }
        CHECK(equal_bits(out, pool.zeros(Dtype::f32, {3, 8})));
    }
}
