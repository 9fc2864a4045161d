// Attention's kernels for Hopper: each variant against brute force, in shapes that cross its tiles of 128 rows and 64; and what its tiles
// bring in beside a segment's own rows.
#include <doctest/doctest.h>

#include <cmath>

#include "src/device/gpu.h"
#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

bool hopper_here() { return on_gpu() && gpu::device_info().compute_capability == 90; }

struct Asked {  // for the kernels by name
    Asked() { set_attention_kernel(AttentionKernel::hopper); }
    ~Asked() { set_attention_kernel(AttentionKernel::automatic); }
};

using Bias = Variant::Bias;
using Gate = Variant::Gate;

const std::vector<Segment> documents_of_all_sizes = documents({1, 129, 17, 127});
const std::vector<Segment> slices = {{0, 140, 5, 300, 160}, {140, 3, 305, 67, 64}};              // with a prefix, in a cache
const std::vector<Segment> shared = {{0, 9, 0, 9, 0}, {9, 70, 0, 79, 9}, {79, 62, 0, 141, 79}};  // keys
const std::vector<Segment> within = {{0, 2, 0, 160, 158}, {2, 5, 10, 5, 0}};  // keys of the second among those of the first

std::vector<std::pair<Shape, Variant>> cases() {
    return {
        {{1, 1, 64, documents({128}), 8}, {}},
        {{1, 1, 128, documents({1}), 8}, {}},
        {{2, 1, 64, documents_of_all_sizes, 8}, {}},
        {{2, 2, 128, documents_of_all_sizes, 8}, {}},
        {{7, 1, 64, documents({33}), 8}, {.softcap = 3}},
        {{1, 1, 64, documents({300}), 8}, {.window = 50, .sinks = true, .gate = Gate::headwise}},
        {{2, 1, 128, documents_of_all_sizes, 8}, {.softcap = 5, .gate = Gate::elementwise, .bias = Bias::alibi}},
        {{2, 1, 64, slices, 8}, {.window = 100, .sinks = true, .bias = Bias::relative}},
        {{2, 1, 64, documents_of_all_sizes, 8}, {.bias = Bias::factors, .rank = 5}},
        {{1, 1, 128, slices, 8}, {.softcap = 3, .gate = Gate::headwise, .bias = Bias::factors, .rank = 40}},
        {{2, 1, 128, slices, 8}, {.bias = Bias::dense}},
        {{3, 1, 64, shared, 8}, {.window = 30, .softcap = 3, .sinks = true, .gate = Gate::elementwise, .bias = Bias::factors, .rank = 24}},
        {{1, 1, 64, within, 8}, {}},
        {{1, 1, 64, {{0, 2, 0, 128, 126}}, 8}, {}},                // one pair of the tile is masked, by the diagonal
        {{1, 1, 64, {{0, 64, 0, 192, 128}}, 8}, {.window = 191}},  // by the window
        {{2, 1, 64, documents({150}), 8}, {.window = 1, .sinks = true}},
        {{1, 1, 128, documents({290}), 8}, {.window = 64, .bias = Bias::relative}},
    };
}

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("attention on Hopper: within twice the error of a naive kernel, with every variant") {
        if (!hopper_here()) return;
        const Asked asked;
        for (const auto& [shape, variant] : cases()) {
            CAPTURE(shape.HS);
            CAPTURE(shape.T());
            CAPTURE(static_cast<int>(variant.bias));
            Pool pool;
            Problem x(pool, Dtype::bf16, shape, 1.0, variant);
            const Naive<double> truth(x);
            const Naive<float> naive(x);
            x.forward();
            CHECK(distance(values(x.out), truth.out) < 2 * distance(naive.out, truth.out) + 0x1p-23);
            CHECK(distance(values(x.lse), truth.lse) < 2 * distance(naive.lse, truth.lse) + 0x1p-23);
            x.backward();
            auto check = [&](const std::string& what, const Tensor& t, std::vector<double> Naive<double>::*e,
                             std::vector<float> Naive<float>::*f) {
                CAPTURE(what);
                if (!t) return;
                CHECK(distance(values(t), truth.*e) < 2 * distance(naive.*f, truth.*e) + 0x1p-23);
            };
            check("dv", x.d.dv, &Naive<double>::dv, &Naive<float>::dv);
            if (shape.T() == 1 && shape.Tk() == 1) continue;  // one key: dq = dk = 0, and the errors are of no size
            check("dq", x.d.dq, &Naive<double>::dq, &Naive<float>::dq);
            check("dk", x.d.dk, &Naive<double>::dk, &Naive<float>::dk);
            check("dq_factors", x.d.dq_factors, &Naive<double>::dq_factors, &Naive<float>::dq_factors);
            check("dk_factors", x.d.dk_factors, &Naive<double>::dk_factors, &Naive<float>::dk_factors);
        }
    }

    TEST_CASE("attention on Hopper: rows beside a segment may hold anything; a document gives the same bits alone, packed and in slices") {
        if (!hopper_here()) return;
        const Asked asked;
        for (int64_t HS : {64, 128}) {
            CAPTURE(HS);
            const std::vector<Segment> two = {{0, 70, 0, 200, 130}, {70, 40, 200, 40, 0}};
            Pool pool, again, third;
            Problem whole(pool, Dtype::bf16, {2, 1, HS, documents({200}), 8}), part(again, Dtype::bf16, {2, 1, HS, two, 8}),
                beside(third, Dtype::bf16, {2, 1, HS, two, 8});
            auto copy = [](const Tensor& to, const Tensor& from, int64_t from_row, int64_t rows) {
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t c = 0; c < from.cols(); c++)
                        Pool::set(to, r * to.row_stride + c, Pool::get(from, (from_row + r) * from.row_stride + c));
            };
            for (const Problem* x : {&part, &beside}) {
                copy(x->in.q, whole.in.q, 130, 70), copy(x->dout, whole.dout, 130, 70);
                copy(x->in.k, whole.in.k, 0, 200), copy(x->in.v, whole.in.v, 0, 200);
            }
            for (const Tensor& t : {beside.in.q, beside.dout, beside.in.k, beside.in.v})  // of the second document
                for (int64_t r = t.rows() - 40; r < t.rows(); r++)
                    for (int64_t c = 0; c < t.cols(); c++) Pool::set(t, r * t.row_stride + c, r % 2 ? NAN : INFINITY);
            for (Problem* x : {&whole, &part, &beside}) x->forward(), x->backward();
            for (size_t i = 0; i < part.results().size(); i++) {
                CAPTURE(i);
                const Tensor one = part.results()[i], other = beside.results()[i];
                CHECK(same_bits(one.slice_rows(0, one.rows() - 40), other.slice_rows(0, one.rows() - 40)));
                CHECK(!same_bits(one, other));
            }
            CHECK(same_bits(part.out.slice_rows(0, 70), whole.out.slice_rows(130, 70)));
            CHECK(same_bits(part.lse.slice_rows(0, 70), whole.lse.slice_rows(130, 70)));
            CHECK(same_bits(part.d.dq.slice_rows(0, 70), whole.d.dq.slice_rows(130, 70)));
        }
    }
}

}  // namespace traincu::test
