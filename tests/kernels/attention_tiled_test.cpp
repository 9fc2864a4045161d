// The tiled kernels against the formulas in double: within twice the error of a naive kernel that rounds P and dS to bf16 as they do.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

using Gate = Variant::Gate;
using Bias = Variant::Bias;

struct TiledKernels {
    TiledKernels() { set_attention_kernel(AttentionKernel::tiled); }
    ~TiledKernels() { set_attention_kernel(AttentionKernel::automatic); }
};

void check(const Shape& shape, const Variant& variant, double spread = 1) {
    CAPTURE(shape.HS);
    CAPTURE(shape.T());
    CAPTURE(static_cast<int>(variant.bias));
    CAPTURE(variant.window);
    Pool pool;
    Problem x(pool, Dtype::bf16, shape, spread, variant);
    const Naive<double> truth(x);
    const Naive<float> naive(x, true);
    x.forward();
    auto compare = [&](const std::string& what, const Tensor& result, const std::vector<double>& exact, const std::vector<float>& f32) {
        if (!result) return;
        CAPTURE(what);
        // Of a few numbers the naive ones may be right by chance.
        const double luck = exact.size() < 8 ? std::sqrt(static_cast<double>(shape.HS)) : 1;
        CHECK(distance(values(result), exact) < 2 * distance(f32, exact) + luck * 0x1p-23);
    };
    compare("out", x.out, truth.out, naive.out);
    compare("lse", x.lse, truth.lse, naive.lse);
    x.backward();
    compare("dgate", x.d.dgate, truth.dgate, naive.dgate);
    compare("dsinks", x.d.dsinks, truth.dsinks, naive.dsinks);
    compare("dv", x.d.dv, truth.dv, naive.dv);
    compare("dk_factors", x.d.dk_factors, truth.dk_factors, naive.dk_factors);
    compare("dq_factors", x.d.dq_factors, truth.dq_factors, naive.dq_factors);
    if (shape.T() == 1 && shape.Tk() == 1) return;  // one key: dq = dk = 0, and the errors are of no size
    compare("dq", x.d.dq, truth.dq, naive.dq);
    compare("dk", x.d.dk, truth.dk, naive.dk);
}

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("tiled attention: agrees with the formulas for every head size and odd lengths") {
        if (!on_gpu()) return;
        const TiledKernels kernels;
        for (const Shape& shape :
             {Shape{1, 1, 32, documents({1}), 8}, Shape{2, 1, 64, documents({17, 1, 130}), 8}, Shape{1, 1, 80, documents({129}), 8},
              Shape{1, 1, 96, documents({70}), 8}, Shape{7, 1, 128, documents({33}), 8}, Shape{1, 1, 256, documents({67, 2}), 8},
              Shape{2, 1, 8, documents({127}), 8}, Shape{1, 1, 200, documents({19}), 8},
              Shape{2, 1, 32, {{0, 40, 5, 200, 160}, {40, 3, 205, 67, 64}}, 8}, Shape{2, 2, 64, {{0, 1, 0, 130, 129}}, 8}})
            for (bool deterministic : {true, false}) check(shape, {.deterministic = deterministic});
    }

    TEST_CASE("tiled attention: window, softcap, sinks, gates and biases") {
        if (!on_gpu()) return;
        const TiledKernels kernels;
        const Shape shape{4, 2, 32, documents({1, 75, 140}), 8}, slices{2, 1, 32, {{0, 40, 0, 110, 70}, {40, 30, 110, 30, 5}}, 8};
        for (const Shape& s : {shape, slices}) {
            for (bool deterministic : {true, false}) {
                check(s, {.window = 20, .deterministic = deterministic});
                check(s, {.softcap = 2, .bias = Bias::alibi, .deterministic = deterministic});
            }
            check(s, {.window = 65, .softcap = 2, .sinks = true});
            check(s, {.sinks = true, .gate = Gate::headwise});
            check(s, {.gate = Gate::elementwise, .bias = Bias::alibi});
            check(s, {.softcap = 3, .bias = Bias::relative});
            check(s, {.window = 50, .softcap = 3, .bias = Bias::factors});
            check(s, {.bias = Bias::factors, .rank = 72});
            check(s, {.bias = Bias::factors, .rank = 16, .deterministic = false});
            check(s, {.window = 30, .bias = Bias::dense});
        }
    }

    TEST_CASE("tiled attention: a document gives the same bits alone and packed, and a sequence in slices those of the whole") {
        if (!on_gpu()) return;
        const TiledKernels kernels;
        for (const Variant& variant : {Variant{}, Variant{.window = 40, .softcap = 2, .sinks = true, .bias = Bias::relative}}) {
            const Shape shape{2, 1, 32, documents({35, 150}), 8};
            Pool pool, again, other;
            Problem packed(pool, Dtype::bf16, shape, 1, variant), part(again, Dtype::bf16, shape, 1, variant),
                alone(other, Dtype::bf16, {2, 1, 32, documents({150}), 8}, 1, variant);
            packed.forward(), packed.backward();
            auto rows = [](const Tensor& t) { return t.slice_rows(35, 150); };
            alone.in.q = rows(part.in.q), alone.in.k = rows(part.in.k), alone.in.v = rows(part.in.v), alone.dout = rows(part.dout);
            alone.in.sinks = part.in.sinks, alone.in.relative = part.in.relative;
            alone.forward(), alone.backward();
            for (auto [one, whole] :
                 {std::pair{alone.out, packed.out}, std::pair{alone.lse, packed.lse}, std::pair{alone.d.dq, packed.d.dq},
                  std::pair{alone.d.dk, packed.d.dk}, std::pair{alone.d.dv, packed.d.dv}})
                CHECK(same_bits(one, rows(whole)));
            const Tensor out = other.poison(Dtype::bf16, {150, 2, 32}), lse = other.poison(Dtype::f32, {150, 2});
            for (int64_t begin = 0, length; begin < 150; begin += length) {
                length = std::min<int64_t>(begin == 0 ? 45 : begin == 45 ? 1 : 70, 150 - begin);
                const SegmentTable table = table_of(other, {{0, length, 0, begin + length, begin}}, variant.window);
                AttentionInputs in = alone.in;
                in.q = in.q.slice_rows(begin, length);
                const std::vector<Segment> host = {{0, length, 0, begin + length, begin}};
                attention_forward(out.slice_rows(begin, length), lse.slice_rows(begin, length), in,
                                  {host, table.device, table.query_tiles, table.key_tiles}, alone.params, test_stream());
                test_stream().synchronize();
            }
            CHECK(same_bits(out, alone.out));
            CHECK(same_bits(lse, alone.lse));
        }
    }
}  // TEST_SUITE

}  // namespace traincu::test
