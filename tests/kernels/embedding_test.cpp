#include "kernels/embedding.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

Stream stream;

// positions 0, 1, 2, 0, 1, ...: rows of wpe are shared, too
Tensor cycle(Pool& pool, int64_t n, int64_t period) {
    Tensor t = pool.integers({n}, 1);
    for (int64_t i = 0; i < n; i++) Pool::set(t, i, static_cast<double>(i % period));
    return t;
}

// The sum in the order that is promised, one element at a time.
template <class T>
void add_rows(const Tensor& into, const Tensor& dout, const Tensor& ids) {
    int64_t C = dout.cols();
    for (int64_t c = 0; c < C; c++)
        for (int64_t t = 0; t < dout.rows(); t++) into.as<T>()[ids.as<int32_t>()[t] * C + c] += dout.as<T>()[t * C + c];
}

}  // namespace

namespace {

Tensor order_of(Pool& pool, const Tensor& ids) {
    const int32_t* id = ids.as<int32_t>();
    const int64_t n = ids.numel(), rows = n > 0 ? *std::max_element(id, id + n) + 1 : 1;
    Tensor order = pool.integers({n}, 1);
    sorted_order({order.as<int32_t>(), static_cast<size_t>(n)}, {id, static_cast<size_t>(n)}, rows);
    return order;
}

}  // namespace

TEST_SUITE("embedding") {
    TEST_CASE_TEMPLATE("embedding: forward gathers rows, exactly", T, float, double) {
        Dtype dtype = DtypeOf<T>::value;
        for (int64_t n : {0, 1, 17, 300}) {
            for (int64_t C : {1, 7, 96, 129}) {
                Pool pool;
                Tensor wte = pool.normal(dtype, {11, C}), wpe = pool.normal(dtype, {5, C}), out = pool.poison(dtype, {n, C});
                Tensor tokens = pool.integers({n}, 11), positions = cycle(pool, n, 5);
                for (bool learned : {false, true}) {
                    embedding_forward(out, tokens, learned ? positions : Tensor(), wte, learned ? wpe : Tensor(), stream);
                    bool same = true;
                    for (int64_t t = 0; t < n; t++)
                        for (int64_t c = 0; c < C; c++) {
                            T expected = wte.as<T>()[tokens.as<int32_t>()[t] * C + c];
                            if (learned) expected += wpe.as<T>()[positions.as<int32_t>()[t] * C + c];
                            same = same && out.as<T>()[t * C + c] == expected;
                        }
                    CHECK(same);
                }
            }
        }
    }

    TEST_CASE_TEMPLATE("embedding: backward adds to what was there, tokens in ascending order, on any number of threads", T, float,
                       double) {
        Dtype dtype = DtypeOf<T>::value;
        for (int64_t n : {0, 1, 17, 300}) {
            for (int64_t C : {1, 7, 96, 129}) {
                Pool pool;
                Tensor dout = pool.normal(dtype, {n, C}), tokens = pool.integers({n}, 11), positions = cycle(pool, n, 5);
                Tensor before_wte = pool.normal(dtype, {12, C}), before_wpe = pool.normal(dtype, {5, C});
                Tensor expected_wte = pool.copy(before_wte, dtype), expected_wpe = pool.copy(before_wpe, dtype);
                add_rows<T>(expected_wte, dout, tokens);
                add_rows<T>(expected_wpe, dout, positions);
                for (int threads : {1, 2, 3}) {
                    Tensor dwte = pool.copy(before_wte, dtype), dwpe = pool.copy(before_wpe, dtype), alone = pool.copy(before_wte, dtype);
                    on_threads(threads, [&] {
                        embedding_backward(dwte, dwpe, dout, tokens, positions, order_of(pool, tokens), order_of(pool, positions), stream);
                        embedding_backward(alone, {}, dout, tokens, {}, order_of(pool, tokens), {}, stream);
                    });
                    CHECK(equal_bits(dwte, expected_wte));
                    CHECK(equal_bits(dwpe, expected_wpe));
                    CHECK(equal_bits(alone, expected_wte));
                }
            }
        }
    }

    TEST_CASE("embedding: backward is the gradient of forward") {
        Pool pool;
        int64_t n = 17, C = 7;
        Tensor wte = pool.normal(Dtype::f64, {6, C}), wpe = pool.normal(Dtype::f64, {5, C}), dout = pool.normal(Dtype::f64, {n, C});
        Tensor tokens = pool.integers({n}, 6), positions = cycle(pool, n, 5), out = pool.poison(Dtype::f64, {n, C});
        Tensor dwte = pool.zeros(Dtype::f64, {6, C}), dwpe = pool.zeros(Dtype::f64, {5, C});
        auto loss = [&] {
            embedding_forward(out, tokens, positions, wte, wpe, stream);
            double total = 0;
            for (int64_t i = 0; i < out.numel(); i++) total += Pool::get(out, i) * Pool::get(dout, i);
            return total;
        };
        embedding_backward(dwte, dwpe, dout, tokens, positions, order_of(pool, tokens), order_of(pool, positions), stream);
        CHECK(gradient_error(loss, wte, dwte) < 1e-8);
        CHECK(gradient_error(loss, wpe, dwpe) < 1e-8);
    }

    TEST_CASE("embedding: a token or position outside its table is refused before anything is written") {
        Pool pool;
        Tensor wte = pool.normal(Dtype::f32, {6, 8}), wpe = pool.normal(Dtype::f32, {3, 8}), out = pool.zeros(Dtype::f32, {3, 8});
        Tensor good = cycle(pool, 3, 3), bad = cycle(pool, 3, 3);
        for (double id : {-1.0, 6.0}) {
            Pool::set(bad, 2, id);
            CHECK_THROWS_AS(embedding_forward(out, bad, {}, wte, {}, stream), std::logic_error);
            CHECK_THROWS_AS(embedding_forward(out, good, bad, wte, wpe, stream), std::logic_error);
            CHECK_THROWS_AS(embedding_backward(wte, {}, out, bad, {}, good, {}, stream), std::logic_error);
            CHECK_THROWS_AS(embedding_backward(wte, wpe, out, good, bad, good, good, stream), std::logic_error);
        }
        CHECK(equal_bits(out, pool.zeros(Dtype::f32, {3, 8})));
    }
}
