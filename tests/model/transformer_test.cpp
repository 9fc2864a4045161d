// The whole model: gradients by central differences in double; recompute, micro-batch split, repetition and threads as equality of bits.
#include <doctest/doctest.h>
#include <omp.h>

#include <cstring>

#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {

TEST_SUITE("model") {
    // Small random values everywhere: gains not 1, biases not 0, so that every gradient matters.
    void fill_weights(TinyModel & m) {
        init_weights(m.weights(), m.store.table, 5);
        Random random{11, RandomStream::init};
        for (const ParamRow& row : m.store.table.rows)
            for (int64_t i = 0; i < row.used_numel(); i++) {
                int64_t at = row.offset + i;
                Pool::set(m.weights(), at, Pool::get(m.weights(), at) * 5 + 0.1 * random.normal(0, static_cast<uint64_t>(at)));
            }
    }

    // Ragged documents with a prefix-free table, a one-token document, a padded tail.
    StepBatch ragged_batch(int64_t vocab) {
        StepBatch step = random_batch(1, 23, vocab, 1);
        MicroBatch& b = step.micro_batches[0];
        b.segments = {{0, 9, 0, 9, 0}, {9, 1, 9, 1, 0}, {10, 8, 10, 8, 0}, {18, 5, 18, 5, 0}};
        for (const Segment& s : b.segments)
            for (int64_t i = 0; i < s.q_len; i++) b.positions[static_cast<size_t>(s.q_start + i)] = static_cast<int32_t>(i);
        for (size_t t = 18; t < 23; t++) b.targets[t] = -1, b.loss_weights[t] = 0;
        step.loss_tokens = 18;
        return step;
    }

    TEST_CASE("transformer: every gradient equals central differences in double") {
        ModelConfig untied_gpt2 = gpt2_like();
        untied_gpt2.tie_embeddings = false;
        int which = 0;
        for (const ModelConfig& config : {gpt2_like(), untied_gpt2, llama_like(), llama3_like(), qwen2_like(), qwen3_like()}) {
            CAPTURE(which);
            which++;
            TinyModel m(config, Dtype::f64, 46, Recompute::none, 0.001);
            fill_weights(m);
            StepBatch batch = random_batch(2, 23, config.vocab_size, 1);  // two micro-batches
            if (config.qk_norm) batch = ragged_batch(config.vocab_size);
            double loss = m.loss_and_gradients(batch);
            CHECK(loss > 1);
            Pool pool;
            Tensor analytic = pool.copy(m.gradients(), Dtype::f64);
            for (const ParamRow& row : m.store.table.rows) {
                CAPTURE(row.name);
                Tensor x = m.weights().slice_rows(row.offset, row.used_numel()), dx = analytic.slice_rows(row.offset, row.used_numel());
                CHECK(gradient_error([&] { return m.loss(batch); }, x, dx, 12, 1e-5) < 1e-6);
                for (int64_t i = row.used_numel(); i < row.numel(); i++)
                    CHECK(Pool::get(analytic, row.offset + i) == 0);  // padded vocabulary
            }
        }
    }

    bool same_bits(const Tensor& a, const Tensor& b) {
        return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
    }

    // Weights after three steps.
    Tensor trained(Pool & pool, const ModelConfig& config, Recompute recompute, int64_t windows, int64_t T, int64_t rows, int threads = 2) {
        const int before = omp_get_max_threads();
        omp_set_num_threads(threads);
        TinyModel m(config, Dtype::f32, rows * T, recompute);
        fill_weights(m);
        for (int step = 0; step < 3; step++)
            m.train_step(random_batch(windows, T, config.vocab_size, rows, static_cast<uint64_t>(step + 1)), 1e-3, 1.0);
        omp_set_num_threads(before);
        return pool.copy(m.weights(), Dtype::f32);
    }

    TEST_CASE("transformer: recomputing activations changes no bit") {
        for (const ModelConfig& config : {gpt2_like(), llama_like(), qwen3_like()}) {
            Pool pool;
            Tensor reference = trained(pool, config, Recompute::none, 3, 21, 3);
            for (Recompute mode : {Recompute::mlp, Recompute::attention, Recompute::block})
                CHECK(same_bits(trained(pool, config, mode, 3, 21, 3), reference));
            CHECK(same_bits(trained(pool, config, Recompute::none, 3, 21, 3), reference));  // and a repeated run none either
        }
    }

    TEST_CASE("transformer: one thread and two give the same bits") {
        for (const ModelConfig& config : {gpt2_like(), qwen3_like()}) {
            Pool pool;
            CHECK(same_bits(trained(pool, config, Recompute::none, 4, 32, 4, 1), trained(pool, config, Recompute::none, 4, 32, 4, 2)));
        }
    }

    TEST_CASE("transformer: the micro-batch split stays within rounding; at whole units it changes no bit") {
        ModelConfig config = qwen3_like();
        Pool pool;
        Tensor whole = trained(pool, config, Recompute::none, 8, 32, 8);
        CHECK(relative_error(trained(pool, config, Recompute::none, 8, 32, 1), whole) < 1e-5);
        config.max_seq_len = 256;  // windows of one unit of 256 tokens
        CHECK(relative_error(trained(pool, config, Recompute::none, 4, 256, 1), trained(pool, config, Recompute::none, 4, 256, 4)) < 1e-6);
        config.tie_embeddings = false;  // a tied table gets the head's and the embedding's sums in turns, so its order depends on the split
        CHECK(same_bits(trained(pool, config, Recompute::none, 4, 256, 1), trained(pool, config, Recompute::none, 4, 256, 4)));
        // 64 MB are 837 rows of this vocabulary's logits: whole units only if the chunks are cut with care
        config.vocab_size = 20011, config.max_seq_len = 512;
        CHECK(same_bits(trained(pool, config, Recompute::none, 4, 512, 1), trained(pool, config, Recompute::none, 4, 512, 4)));
    }

    TEST_CASE("transformer: slices of a document with the keys before them give the loss of the whole") {
        const ModelConfig config = qwen3_like();
        TinyModel m(config, Dtype::f64, 30);
        fill_weights(m);
        StepBatch whole = random_batch(1, 30, config.vocab_size, 1), sliced = whole;
        sliced.micro_batches[0].segments = {{0, 11, 0, 11, 0}, {11, 1, 0, 12, 11}, {12, 18, 0, 30, 12}};
        double loss = m.loss_and_gradients(whole);
        Pool pool;
        Tensor gradients = pool.copy(m.gradients(), Dtype::f64);
        CHECK(m.loss_and_gradients(sliced) == doctest::Approx(loss).epsilon(1e-12));
        CHECK(relative_error(m.gradients(), gradients) < 1e-10);
    }

    TEST_CASE("transformer: a document does not feel its neighbours") {
        const ModelConfig config = gpt2_like();
        TinyModel m(config, Dtype::f32, 46);
        fill_weights(m);
        StepBatch batch = ragged_batch(config.vocab_size);
        m.loss_and_gradients(batch);
        Pool pool;
        Tensor before = pool.copy(m.instance->model.losses(), Dtype::f32);
        for (size_t t = 0; t < 9; t++) batch.micro_batches[0].tokens[t] = static_cast<int32_t>(t);  // another first document
        m.loss_and_gradients(batch);
        Tensor after = m.instance->model.losses();
        CHECK(!same_bits(after.slice_rows(0, 9), before.slice_rows(0, 9)));
        CHECK(same_bits(after.slice_rows(9, 14), before.slice_rows(9, 14)));
    }

    TEST_CASE("transformer: memory is what the arenas were declared with") {
        const ModelConfig config = gpt2_like();
        int64_t bytes[4], i = 0;
        for (Recompute mode : {Recompute::none, Recompute::mlp, Recompute::attention, Recompute::block}) {
            TinyModel m(config, Dtype::f32, 64, mode);
            bytes[i++] = m.instance->activations.bytes();
            CHECK(m.store.weights.bytes() == (m.store.table.flat_size * 4 + 63) / 64 * 64);
        }
        CHECK(bytes[1] < bytes[0]);
        CHECK(bytes[2] < bytes[0]);
        CHECK(bytes[3] < bytes[1]);
        CHECK(bytes[3] < bytes[2]);
    }

}  // TEST_SUITE
}  // namespace traincu::test
