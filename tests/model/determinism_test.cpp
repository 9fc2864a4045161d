// What --determinism batch and ranks promise, on whole models: the same bits of losses, gradients and weights.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/matmul.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {
namespace {

// Losses and weights of three steps of 8 rows of 256 tokens, in micro-batches of `rows`.
struct Result {
    std::vector<double> losses;
    std::vector<float> weights;
    bool operator==(const Result&) const = default;
};

ModelConfig small(ModelConfig c) {
    c.n_layer = 1, c.max_seq_len = 256;
    return c;
}

Result steps(const ModelConfig& config, Dtype type, int64_t rows, bool head_apart, int64_t unit = 256) {
    TinyModel m(config, type, rows * 256, Recompute::none, 0, {}, unit, {}, Dtype::f32, head_apart);
    TinyModel f32(config, Dtype::f32, 256);
    init_weights(f32.weights(), f32.store.table, 3);
    copy(m.weights(), f32.weights(), m.stream);
    if (m.optimizer.kept()) copy(m.optimizer.kept(), f32.weights(), m.stream);
    Result result;
    for (uint64_t step = 0; step < 3; step++)
        result.losses.push_back(m.train_step(random_batch(8, 256, config.vocab_size, rows, step), 1e-3, 1.0));
    const Tensor masters = m.optimizer.kept() ? m.optimizer.kept() : m.weights();
    result.weights.assign(masters.as<float>(), masters.as<float>() + masters.numel());
    return result;
}

}  // namespace

TEST_SUITE("determinism") {
    TEST_CASE("determinism: the micro-batch split changes no bit, tied or not, in f32 and bf16, with all that attention can have") {
        std::vector<ModelConfig> configs = {gpt2_like(), llama_like(), qwen3_like()};
        for (const ModelConfig& c : attention_variants()) configs.push_back(c);
        for (const ModelConfig& config : configs)
            for (Dtype type : {Dtype::f32, Dtype::bf16}) {
                const Result whole = steps(small(config), type, 8, true);
                for (int64_t rows : {1, 2, 4}) CHECK(steps(small(config), type, rows, true) == whole);
            }
    }

    TEST_CASE("determinism: a tied head whose gradients are not summed apart, or sums without units, would show") {
        CHECK(steps(small(gpt2_like()), Dtype::f32, 1, false) != steps(small(gpt2_like()), Dtype::f32, 8, false));
        CHECK(steps(small(llama_like()), Dtype::f32, 1, true, 0) != steps(small(llama_like()), Dtype::f32, 8, true, 0));
    }

    TEST_CASE("determinism: eight workers' gradients have one sum, whoever computes them") {
        for (ModelConfig config : {gpt2_like(), qwen3_like()}) {
            config.max_seq_len = 32;
            const StepBatch batch = random_batch(16, 16, config.vocab_size, 1, 5);
            TinyModel one(config, Dtype::f32, 16, Recompute::none, 0, {}, 16, {}, Dtype::f32, true, 8);
            init_weights(one.weights(), one.store.table, 3);
            const double loss = one.loss_and_gradients(batch);
            auto bits = [](const Tensor& t) { return std::vector<float>(t.as<float>(), t.as<float>() + t.numel()); };
            const std::vector<float> expected = bits(one.gradients());
            for (int ranks : {2, 4, 8}) {
                TinyModel m(config, Dtype::f32, 16, Recompute::none, 0, {}, 16, {}, Dtype::f32, true, 8 / ranks);
                init_weights(m.weights(), m.store.table, 3);
                Arena arena("sums over ranks");
                GradientTree across(arena, m.store.table.flat_size, Dtype::f32, ranks);
                arena.allocate();
                for (int rank = 0; rank < ranks; rank++) {
                    StepBatch share = batch;
                    const std::ptrdiff_t count = 16 / ranks;
                    share.micro_batches.assign(batch.micro_batches.begin() + rank * count,
                                               batch.micro_batches.begin() + (rank + 1) * count);
                    m.executor->run(training_schedule(m.instance->model.n_parts(), static_cast<int>(count), false, 8 / ranks), share,
                                    m.stream);
                    across.fold(rank, m.gradients(), m.instance->model.loss_sum(), m.stream);
                }
                CHECK(m.executor->mean_loss(batch, m.stream) == loss);
                CHECK(bits(m.gradients()) == expected);
            }
            // what a plain sum over the micro-batches gives, in another order
            TinyModel plain(config, Dtype::f32, 16, Recompute::none, 0, {}, 16, {}, Dtype::f32, true);
            init_weights(plain.weights(), plain.store.table, 3);
            CHECK(plain.loss_and_gradients(batch) == doctest::Approx(loss).epsilon(1e-12));
            const std::vector<float> other = bits(plain.gradients());
            CHECK(other != expected);
            double difference = 0, size = 0;
            for (size_t i = 0; i < other.size(); i++)
                difference += std::pow(double{other[i]} - double{expected[i]}, 2), size += std::pow(double{expected[i]}, 2);
            CHECK(difference < 1e-12 * size);
        }
    }
}

}  // namespace traincu::test
