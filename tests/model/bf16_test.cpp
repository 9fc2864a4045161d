// The whole model with bf16 weights and activations on a CPU, beside the same weights in double.
#include <doctest/doctest.h>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {
namespace {

// Everywhere, so that every gradient matters: gains not 1, biases not 0.
Tensor random_weights(Pool& pool, const ParamTable& table) {
    Tensor weights = pool.zeros(Dtype::f64, {table.flat_size});
    init_weights(weights, table, 5);
    Random random{11, RandomStream::init};
    for (const ParamRow& row : table.rows)
        for (int64_t i = row.offset; i < row.offset + row.used_numel(); i++)
            weights.as<double>()[i] += 0.05 * random.normal(0, static_cast<uint64_t>(i));
    return weights;
}

// Loss and gradients of a model that computes in `type` with these weights (rounded to it).
struct Result {
    double loss;
    Tensor gradients;
};
Result result_of(Pool& pool, const ModelConfig& config, Dtype type, const Tensor& weights, const StepBatch& batch,
                 Recompute recompute = Recompute::none, int threads = 2) {
    TinyModel m(config, type, 46, recompute, 1e-3);
    for (int64_t i = 0; i < weights.numel(); i++) Pool::set(m.weights(), i, Pool::get(weights, i));
    Result result;
    on_threads(threads, [&] { result.loss = m.loss_and_gradients(batch); });
    result.gradients = pool.copy(m.gradients(), m.gradients().dtype);
    return result;
}

std::vector<ModelConfig> all_models() {
    std::vector<ModelConfig> all = {gpt2_like(), llama3_like(), qwen2_like(), qwen3_like()};
    for (const ModelConfig& config : attention_variants()) all.push_back(config);
    return all;
}

}  // namespace

TEST_SUITE("model") {
    // The measure is what one rounding of every weight does to a gradient, in double. An activation's rounding is as large as that of a
    // weight it is multiplied with; a layer has four matrices and some 22 roundings of activations and their gradients, which add up as
    // random ones do: sqrt(22 / 4) = 2.3. Twice that is allowed.
    TEST_CASE("bf16 model: loss and every gradient are as near those of double as roundings to bf16 let them be") {
        int which = 0;
        for (const ModelConfig& config : all_models()) {
            CAPTURE(which);
            which++;
            Pool pool;
            const Tensor weights = random_weights(pool, make_param_table(config)),
                         rounded = pool.copy(pool.copy(weights, Dtype::bf16), Dtype::f64);
            const StepBatch batch = random_batch(4, 23, config.vocab_size, 2);
            const Result truth = result_of(pool, config, Dtype::f64, rounded, batch),
                         unrounded = result_of(pool, config, Dtype::f64, weights, batch),
                         bf16 = result_of(pool, config, Dtype::bf16, rounded, batch);
            CHECK(std::fabs(bf16.loss - truth.loss) < 0x1p-11);  // a logit of 0.5 is rounded by 2^-10, the mean of 92 losses moves by less
            CHECK(bf16.gradients.dtype == Dtype::f32);
            for (const ParamRow& row : make_param_table(config).rows) {
                CAPTURE(row.name);
                auto part = [&](const Tensor& flat) { return flat.slice_rows(row.offset, row.numel()); };
                const double error = relative_error(part(bf16.gradients), part(truth.gradients)),
                             one_rounding = relative_error(part(unrounded.gradients), part(truth.gradients));
                CHECK(error <= 4.6 * one_rounding);
            }
        }
    }

    TEST_CASE("bf16 model: recomputing and the number of threads change no bit") {
        for (const ModelConfig& config : {gpt2_like(), qwen3_like()}) {
            Pool pool;
            const Tensor weights = random_weights(pool, make_param_table(config));
            const StepBatch batch = random_batch(4, 23, config.vocab_size, 2);
            const Result first = result_of(pool, config, Dtype::bf16, weights, batch);
            auto same = [&](const Result& other) { return other.loss == first.loss && equal_bits(other.gradients, first.gradients); };
            CHECK(same(result_of(pool, config, Dtype::bf16, weights, batch, Recompute::block)));
            CHECK(same(result_of(pool, config, Dtype::bf16, weights, batch, Recompute::none, 1)));
            CHECK(same(result_of(pool, config, Dtype::bf16, weights, batch, Recompute::none, 3)));
        }
    }
}

}  // namespace traincu::test
