// Models with every kind of gate, bias, window, softcap and sink: gradients, recomputing, packing, generation with a cache.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {

namespace {

void fill(TinyModel& m) {
    init_weights(m.weights(), m.store.table, 5);
    Random random{11, RandomStream::init};
    for (const ParamRow& row : m.store.table.rows)
        for (int64_t i = 0; i < row.used_numel(); i++) {
            const int64_t at = row.offset + i;
            const bool factor = row.kind == ParamKind::k_factors || row.kind == ParamKind::q_factors;
            Pool::set(m.weights(), at,
                      Pool::get(m.weights(), at) * (factor ? 1 : 5) + (factor ? 0.5 : 0.1) * random.normal(0, static_cast<uint64_t>(at)));
        }
}

// Documents of 9, 1, 8 and 5 tokens in one row.
StepBatch documents(int64_t vocab) {
    StepBatch step = random_batch(1, 23, vocab, 1);
    MicroBatch& b = step.micro_batches[0];
    b.segments = {{0, 9, 0, 9, 0}, {9, 1, 9, 1, 0}, {10, 8, 10, 8, 0}, {18, 5, 18, 5, 0}};
    for (const Segment& s : b.segments)
        for (int64_t i = 0; i < s.q_len; i++) b.positions[static_cast<size_t>(s.q_start + i)] = static_cast<int32_t>(i);
    return step;
}

bool equal_bits(const Tensor& a, const Tensor& b) {
    return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace

TEST_SUITE("model") {
    TEST_CASE("attention variants: every gradient equals central differences in double; what is not trained has none") {
        for (const ModelConfig& config : attention_variants()) {
            CAPTURE(static_cast<int>(config.attn_gate));
            CAPTURE(static_cast<int>(config.attn_bias));
            TinyModel m(config, Dtype::f64, 46);
            fill(m);
            StepBatch batch = random_batch(2, 23, config.vocab_size, 1);
            batch.micro_batches[0] = documents(config.vocab_size).micro_batches[0];
            m.loss_and_gradients(batch);
            Pool pool;
            const Tensor analytic = pool.copy(m.gradients(), Dtype::f64);
            for (const ParamRow& row : m.store.table.rows) {
                CAPTURE(row.name);
                const Tensor x = m.weights().slice_rows(row.offset, row.used_numel()),
                             dx = analytic.slice_rows(row.offset, row.used_numel());
                if (row.trained()) {
                    CHECK(gradient_error([&] { return m.loss(batch); }, x, dx, 12, 1e-6) < 1e-6);
                } else {
                    for (int64_t i = 0; i < row.numel(); i++) REQUIRE(Pool::get(analytic, row.offset + i) == 0);
                }
                for (int64_t i = row.used_numel(); i < row.numel(); i++) REQUIRE(Pool::get(analytic, row.offset + i) == 0);
            }
        }
    }

    TEST_CASE("attention variants: every setting changes the loss") {
        auto loss_of = [](const ModelConfig& config) {
            TinyModel m(config, Dtype::f64, 23);
            fill(m);
            return m.loss(random_batch(1, 23, config.vocab_size, 1));
        };
        for (const ModelConfig& config : attention_variants()) {
            const double loss = loss_of(config);
            auto differs = [&](auto change) {
                ModelConfig other = config;
                change(other);
                if (other == config) return;
                // the weights of another table differ too where a row is gone; window, softcap and ALiBi have none
                CHECK(std::fabs(loss_of(other) - loss) > 1e-7);
            };
            differs([](ModelConfig& c) { c.window = 0; });
            differs([](ModelConfig& c) { c.attn_softcap = 0; });
            if (config.attn_bias == BiasKind::alibi) differs([](ModelConfig& c) { c.attn_bias = BiasKind::none; });
        }
    }

    TEST_CASE("attention variants: recomputing changes no bit of three steps, and padding rows stay zero") {
        for (const ModelConfig& config : attention_variants()) {
            Pool pool;
            Tensor first;
            for (Recompute mode : {Recompute::none, Recompute::attention, Recompute::block}) {
                TinyModel m(config, Dtype::f32, 46, mode);
                fill(m);
                for (int step = 0; step < 3; step++)
                    m.train_step(random_batch(2, 23, config.vocab_size, 2, static_cast<uint64_t>(step + 1)), 1e-2, 1);
                const Tensor weights = pool.copy(m.weights(), Dtype::f32);
                if (first) CHECK(equal_bits(weights, first));
                if (!first) first = weights;
                for (const ParamRow& row : m.store.table.rows)
                    for (int64_t i = row.used_numel(); i < row.numel(); i++) REQUIRE(Pool::get(weights, row.offset + i) == 0);
            }
        }
    }

    TEST_CASE("attention variants: a given bias keeps its bits through steps with weight decay, and takes no part in the norm") {
        ModelConfig config = attention_variants().back();
        REQUIRE(config.attn_bias == BiasKind::fixed);
        AdamwParams hyper;
        hyper.weight_decay = 0.5;
        TinyModel m(config, Dtype::f32, 46, Recompute::none, 0, hyper);
        fill(m);
        Pool pool;
        const Tensor before = pool.copy(m.weights(), Dtype::f32);
        for (int step = 0; step < 5; step++)
            m.train_step(random_batch(2, 23, config.vocab_size, 2, static_cast<uint64_t>(step + 1)), 1e-2, 1);
        int fixed = 0;
        for (const ParamRow& row : m.store.table.rows) {
            CAPTURE(row.name);
            const bool same = equal_bits(m.weights().slice_rows(row.offset, row.numel()), before.slice_rows(row.offset, row.numel()));
            CHECK(same == !row.trained());
            fixed += !row.trained();
        }
        CHECK(fixed == 2 * config.n_layer);
    }

    TEST_CASE("attention variants: packed documents have the losses that they have alone") {
        for (const ModelConfig& config : attention_variants()) {
            TinyModel m(config, Dtype::f64, 23);
            fill(m);
            const StepBatch packed = documents(config.vocab_size);
            m.loss(packed);
            Pool pool;
            const Tensor together = pool.copy(m.instance->model.losses(), Dtype::f64);
            for (const Segment& s : packed.micro_batches[0].segments) {
                const MicroBatch& all = packed.micro_batches[0];
                MicroBatch one;
                for (int64_t i = 0; i < s.q_len; i++) {
                    const auto at = static_cast<size_t>(s.q_start + i);
                    one.tokens.push_back(all.tokens[at]), one.targets.push_back(all.targets[at]);
                    one.positions.push_back(all.positions[at]), one.loss_weights.push_back(1);
                }
                one.segments = {{0, s.q_len, 0, s.q_len, 0}};
                m.loss({{one}, s.q_len, s.q_len});
                for (int64_t i = 0; i < s.q_len; i++)
                    CHECK(Pool::get(m.instance->model.losses(), i) == doctest::Approx(Pool::get(together, s.q_start + i)).epsilon(1e-9));
            }
        }
    }

    TEST_CASE("attention variants: token by token with a cache, the logits of the whole") {
        for (const ModelConfig& config : attention_variants()) {
            TinyModel m(config, Dtype::f64, 20);
            fill(m);
            const MicroBatch text = random_batch(1, 20, config.vocab_size, 1).micro_batches[0];
            auto model_for = [&](int64_t cache) {
                ModelOptions options;
                options.config = config, options.dtype = Dtype::f64, options.max_tokens = 20, options.cache_tokens = cache,
                options.training = false;
                auto instance = std::make_unique<ModelInstance>(options, m.store.door, "test");
                instance->allocate(m.stream);
                return instance;
            };
            auto feed = [&](ModelInstance& instance, int64_t begin, int64_t count) {
                MicroBatch part;
                for (int64_t i = begin; i < begin + count; i++) {
                    part.tokens.push_back(text.tokens[static_cast<size_t>(i)]), part.targets.push_back(-1);
                    part.positions.push_back(static_cast<int32_t>(i)), part.loss_weights.push_back(0);
                }
                part.segments = {{0, count, 0, begin + count, begin}};
                instance.model.load(part, m.stream);
                for (int p = 0; p + 1 < instance.model.n_parts(); p++) {
                    m.store.door.acquire(p, m.stream);
                    instance.model.forward(p, 0, m.stream);
                    m.store.door.release(p);
                }
            };
            auto whole = model_for(0), cached = model_for(20);
            feed(*whole, 0, 20);
            const Tensor expected = whole->model.logits_of_last(20, m.stream);
            for (int64_t begin = 0; begin < 20;) {
                const int64_t count = begin == 0 ? 6 : begin == 6 ? 4 : 1;
                feed(*cached, begin, count);
                const Tensor logits = cached->model.logits_of_last(count, m.stream);
                for (int64_t i = 0; i < count; i++)
                    for (int64_t v = 0; v < config.vocab_size; v++)
                        CHECK(Pool::get(logits, i * logits.row_stride + v) ==
                              doctest::Approx(Pool::get(expected, (begin + i) * expected.row_stride + v)).epsilon(1e-9));
                begin += count;
            }
        }
    }

    TEST_CASE("alibi: the published slopes") {
        CHECK(alibi_slopes(1) == std::vector<double>{1.0 / 256});
        CHECK(alibi_slopes(8) == std::vector<double>{0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625});
        const std::vector<double> twelve = alibi_slopes(12);
        REQUIRE(twelve.size() == 12);
        for (size_t h = 0; h < 8; h++) CHECK(twelve[h] == std::exp2(-static_cast<double>(h + 1)));
        for (size_t h = 0; h < 4; h++) CHECK(twelve[8 + h] == doctest::Approx(std::exp2(-0.5 * static_cast<double>(2 * h + 1))));
    }

}  // TEST_SUITE
}  // namespace traincu::test
