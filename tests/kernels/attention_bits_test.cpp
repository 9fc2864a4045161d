// What attention promises about bits: threads, packing, slices, splits of a batch.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <string>

#include "tests/kernels/attention_fixture.h"

namespace traincu::test {
namespace {

using Gate = Variant::Gate;
using Bias = Variant::Bias;

// Nothing, and everything twice over. Of a GPU fewer: the SIMT runner executes each thread one after another.
std::vector<Variant> variants() {
    std::vector<Variant> list = {{}, {20, 5, true, Gate::elementwise, Bias::relative}, {0, 5, true, Gate::headwise, Bias::factors}};
    if (!on_gpu()) {
        list.push_back({70, 0, true, Gate::elementwise, Bias::alibi});
        list.push_back({50, 0, false, Gate::none, Bias::dense});
    }
    return list;
}

// Calls body(type, variant) for f32 and bf16 and every kernel that takes the shape.
template <class Body>
void for_each_kernel(const Shape& shape, Body body) {
    for (Dtype type : test_dtypes())
        for (const Variant& variant : variants()) {
            if (type == Dtype::f64) continue;
            Pool pool;
            for (AttentionKernel kernel : kernels_for(Problem(pool, type, shape, 1.0, variant))) {
                CAPTURE(std::string(traincu::name_of(type)));
                CAPTURE(std::string(name_of(kernel)));
                CAPTURE(variant.window);
                CAPTURE(static_cast<int>(variant.bias));
                const WithKernel with(kernel);
                body(type, variant);
            }
        }
}

// The tensors of `from` that the tokens [begin, begin + count) of a batch read: all but keys and values.
AttentionInputs inputs_of(const AttentionInputs& from, int64_t begin, int64_t count) {
    AttentionInputs in = from;
    in.q = from.q.slice_rows(begin, count);
    if (from.gate) in.gate = from.gate.slice_rows(begin, count);
    return in;
}

// The gradients of tokens [begin, begin + count); those of keys, values and of what is summed are the whole's.
AttentionGradients gradients_of(const AttentionGradients& from, int64_t begin, int64_t count) {
    AttentionGradients d = from;
    for (Tensor* rows : {&d.dq, &d.dgate, &d.dq_factors})
        if (*rows) *rows = rows->slice_rows(begin, count);
    return d;
}

// Forward and backward of those tokens alone, which are the segments of the table.
void run_part(const Problem& x, Pool& pool, const std::vector<Segment>& segments, int64_t begin, int64_t count) {
    const SegmentTable table = table_of(pool, segments, x.params.window);
    auto rows = [&](const Tensor& t) { return t ? t.slice_rows(begin, count) : t; };
    const AttentionInputs in = inputs_of(x.in, begin, count);
    attention_forward(rows(x.out), rows(x.lse), in, table, x.params, test_stream());
    attention_backward(gradients_of(x.d, begin, count), rows(x.dout), rows(x.out), rows(x.lse), in,
                       {.delta = rows(x.scratch.delta), .dq = rows(x.scratch.dq)}, table, x.params, test_stream());
    test_stream().synchronize();
}

}  // namespace

TEST_SUITE("attention") {
    TEST_CASE("attention: another document's values, and later tokens, change no bit") {
        for_each_kernel(ragged(), [&](Dtype type, const Variant& variant) {
            Pool pool, again;
            Problem x(pool, type, ragged(), 1.0, variant), y(again, type, ragged(), 1.0, variant);
            const Segment kept = ragged().segments[4];
            const int64_t half = kept.q_start + kept.q_len / 2;  // what comes after this token changes, as do all other documents
            for (int64_t r = 0; r < x.in.q.rows(); r++)
                if (r < kept.q_start || r > half)
                    for (const Tensor& t : {y.in.q, y.in.k, y.in.v, y.in.gate, y.dout})
                        for (int64_t c = 0; t && c < t.cols(); c++)
                            Pool::set(t, r * t.row_stride + c, Pool::get(t, r * t.row_stride + c) * -3);
            for (Problem* problem : {&x, &y}) problem->forward(), problem->backward();
            const int64_t count = half + 1 - kept.q_start;
            for (auto [one, other] : {std::pair{x.out, y.out}, std::pair{x.lse, y.lse}, std::pair{x.d.dq, y.d.dq}})
                CHECK(same_bits(one.slice_rows(kept.q_start, count), other.slice_rows(kept.q_start, count)));
            CHECK(!same_bits(x.out, y.out));
        });
    }

    TEST_CASE("attention: the bits do not depend on the number of threads, nor on the order in which a GPU's blocks and warps run") {
        const int before = omp_get_max_threads();
        Shape slices{4, 2, on_gpu() ? 8 : 64, {}};  // of one document, in one call: they share keys
        const int64_t T = on_gpu() ? 80 : 400;
        for (int64_t begin = 0; begin < T; begin += 20) slices.segments.push_back({begin, 20, 0, begin + 20, begin});
        std::vector<Shape> table = {ragged(), slices, {2, 1, on_gpu() ? 16 : 32, documents({T})}};  // the last: fewer heads than threads
        if (!on_gpu()) {                                                                            // whose segments ascend
            table.push_back(slices);
            std::reverse(table.back().segments.begin(), table.back().segments.end());
        }
        const std::vector<int> thread_counts = on_gpu() ? std::vector{2} : std::vector{2, 3, 16};
        for (const Shape& shape : table)
            for_each_kernel(shape, [&](Dtype type, const Variant& variant) {
                omp_set_num_threads(1);
                Pool pool;
                Problem one(pool, type, shape, 1.0, variant);
                one.forward(), one.backward();
                for (int threads : thread_counts) {
                    omp_set_num_threads(threads);
                    Pool again;
                    Problem many(again, type, shape, 1.0, variant);
                    many.forward(), many.backward();
                    for (size_t i = 0; i < one.results().size(); i++) {
                        CAPTURE(i);
                        CHECK(same_bits(one.results()[i], many.results()[i]));
                    }
                }
            });
        omp_set_num_threads(before);
    }

    TEST_CASE("attention: a document gives the same bits alone and packed beside others") {
        for_each_kernel(ragged(), [&](Dtype type, const Variant& variant) {
            Pool pool;
            Problem packed(pool, type, ragged(), 1.0, variant);
            packed.forward(), packed.backward();
            for (const Segment& s : ragged().segments) {
                Pool again, other;
                Problem part(again, type, ragged(), 1.0, variant), alone(other, type, {4, 2, 16, documents({s.q_len})}, 1.0, variant);
                alone.in = inputs_of(part.in, s.q_start, s.q_len);
                alone.in.k = part.in.k.slice_rows(s.q_start, s.q_len), alone.in.v = part.in.v.slice_rows(s.q_start, s.q_len);
                alone.dout = part.dout.slice_rows(s.q_start, s.q_len);
                alone.forward(), alone.backward();
                for (size_t i = 0; i < alone.row_results().size(); i++) {
                    CAPTURE(i);
                    CHECK(same_bits(alone.row_results()[i], packed.row_results()[i].slice_rows(s.q_start, s.q_len)));
                }
            }
        });
    }

    TEST_CASE("attention: a batch that is split between documents gives the same bits, of the sums over all tokens too") {
        // On a GPU sums over all tokens go by units: the split is at a multiple of them. 40 rows: parts of 32 and 8. And so many rows that
        // without units the whole would be cut otherwise than its halves.
        const Shape shape = on_gpu() ? Shape{4, 2, 16, documents({17, 23, 40, 60})} : ragged();
        const int64_t unit_rows = on_gpu() ? 40 : 0;
        for_each_kernel(shape, [&](Dtype type, const Variant& variant) {
            Pool pool;
            Problem whole(pool, type, shape, 1.0, variant);
            whole.params.unit_rows = unit_rows;
            whole.forward(), whole.backward();
            for (size_t split = 1; split < shape.segments.size(); split++) {
                if (unit_rows > 0 && shape.segments[split].q_start % unit_rows != 0) continue;
                Pool again;
                Problem parts(again, type, shape, 1.0, variant);
                parts.params.unit_rows = unit_rows;
                const std::vector<Segment>& all = parts.shape.segments;
                const int64_t middle = all[split].q_start;
                std::vector<Segment> first(all.begin(), all.begin() + static_cast<int64_t>(split)),
                    second(all.begin() + static_cast<int64_t>(split), all.end());
                for (Segment& s : second) s.q_start -= middle;  // its keys stay where they are
                run_part(parts, again, first, 0, middle);
                run_part(parts, again, second, middle, parts.shape.T() - middle);
                for (size_t i = 0; i < whole.results().size(); i++) {
                    CAPTURE(i);
                    CHECK(same_bits(whole.results()[i], parts.results()[i]));
                }
            }
        });
    }

    TEST_CASE("attention: a sequence in slices gives the bits of the whole forward, and its gradients add up") {
        const int64_t T = on_gpu() ? 100 : 200;
        const Shape shape = on_gpu() ? Shape{2, 1, 16, documents({T})} : Shape{4, 2, 32, documents({T})};
        for_each_kernel(shape, [&](Dtype type, const Variant& variant) {
            Pool pool;
            Problem whole(pool, type, shape, 1.0, variant);
            const Naive<double> truth(whole);
            const Naive<float> naive(whole, rounds_products(wanted_attention_kernel(), type));
            whole.forward(), whole.backward();
            Pool again;
            Problem slices(again, type, shape, 1.0, variant);
            int64_t count = 0;
            for (int64_t begin = 0, length; begin < T; begin += length, count++) {
                length = std::min<int64_t>(begin == 0 ? 45 : begin == 45 ? 1 : 64, T - begin);
                run_part(slices, again, {{0, length, 0, begin + length, begin}}, begin, length);
            }
            CHECK(same_bits(slices.out, whole.out));
            CHECK(same_bits(slices.lse, whole.lse));
            CHECK(same_bits(slices.d.dq, whole.d.dq));
            if (whole.d.dgate) CHECK(same_bits(slices.d.dgate, whole.d.dgate));
            if (whole.d.dq_factors) CHECK(same_bits(slices.d.dq_factors, whole.d.dq_factors));
            auto check = [&](const std::string& what, const Tensor& sum, const std::vector<double>& exact, const std::vector<float>& f32) {
                if (!sum) return;
                CAPTURE(what);
                // What is of the activations' type is rounded to bf16 once a slice.
                const double roundings = sum.dtype == Dtype::bf16 ? static_cast<double>(count) : 1;
                const double luck =
                    exact.size() < 8 ? std::sqrt(static_cast<double>(shape.HS)) : 1;  // the naive ones may be right by chance
                CHECK(distance(values(sum), exact) < 2 * roundings * distance(f32, exact) + luck * 0x1p-23);
            };
            check("dk", slices.d.dk, truth.dk, naive.dk);
            check("dv", slices.d.dv, truth.dv, naive.dv);
            check("dsinks", slices.d.dsinks, truth.dsinks, naive.dsinks);
            check("drelative", slices.d.drelative, truth.drelative, naive.drelative);
            check("dk_factors", slices.d.dk_factors, truth.dk_factors, naive.dk_factors);
        });
    }

}  // TEST_SUITE

}  // namespace traincu::test
