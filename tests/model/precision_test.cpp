// Models whose weights are stored in 16 bits: what is computed from them, what is kept beside them, what they take.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "kernels/matmul.h"
#include "src/config/options.h"
#include "src/optim/master_copy.h"
#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {
namespace {

Precision layercast(Dtype linear = Dtype::bf16, Beside beside = Beside::master) {
    Precision p = precision_named("layercast");
    for (int c = 0; c < n_weight_classes; c++)
        if (is_linear(static_cast<WeightClass>(c))) p.stored[static_cast<size_t>(c)] = linear;
    p.beside = beside;
    return p;
}

std::vector<float> values(const Tensor& t) { return {t.as<float>(), t.as<float>() + t.numel()}; }

// The weights of a seed, as `m` stores them. Returns them as the model sees them: each widened from its stored type.
std::vector<float> take_weights(TinyModel& m, uint64_t seed) {
    MasterCopy master(m.store.door, &m.optimizer, m.stream);
    init_weights(master.tensor(), m.store.table, seed);
    master.upload();
    MasterCopy seen(m.store.door, nullptr, m.stream);
    return values(seen.download().tensor());
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0, size = 0;
    for (size_t i = 0; i < a.size(); i++) sum += std::pow(double{a[i]} - double{b[i]}, 2), size += double{b[i]} * double{b[i]};
    return std::sqrt(sum / size);
}

std::vector<ModelConfig> models() {
    ModelConfig untied = gpt2_like();
    untied.tie_embeddings = false;
    return {gpt2_like(), untied, qwen3_like(), llama_like()};
}

struct OwnProduct {
    OwnProduct() { set_gemm_engine(GemmEngine::own); }
    ~OwnProduct() { set_gemm_engine(GemmEngine::automatic); }
};

}  // namespace

TEST_SUITE("precision") {
    TEST_CASE("precision: LayerCast computes, bit by bit, what fp32 computes from the same weights") {
        OwnProduct own;
        for (const ModelConfig& config : models())
            for (Dtype linear : {Dtype::bf16, Dtype::f16})
                for (Recompute recompute : {Recompute::none, Recompute::block}) {
                    const StepBatch batch = random_batch(4, 13, config.vocab_size, 2);
                    TinyModel cast(config, layercast(linear), 26, recompute), wide(config, Dtype::f32, 26, recompute);
                    const std::vector<float> seen = take_weights(cast, 3);
                    std::memcpy(wide.weights().data, seen.data(), seen.size() * sizeof(float));
                    const double loss = cast.loss_and_gradients(batch);
                    CHECK(loss == wide.loss_and_gradients(batch));
                    CHECK(values(cast.gradients()) == values(wide.gradients()));
                    // and after an update the converted weights are the new ones
                    cast.train_step(batch, 1e-2, 1.0);
                    MasterCopy after(cast.store.door, nullptr, cast.stream);
                    const std::vector<float> updated = values(after.download().tensor());
                    CHECK(updated != seen);
                    std::memcpy(wide.weights().data, updated.data(), updated.size() * sizeof(float));
                    CHECK(cast.loss(batch) == wide.loss(batch));
                }
    }

    TEST_CASE("precision: ten steps of each precision stay beside ten in double") {
        struct Case {
            Precision precision;
            double loss, weights;  // largest distances from f64
        };
        // A step moves a weight of 0.02 by 1e-3; Adam's first steps follow the sign of the gradient, so a rounding of the activations can
        // turn a small gradient's step around. In fp32 that is rare; in bf16 one in 2^8 or so of the gradients is that small.
        for (const ModelConfig& config : {gpt2_like(), qwen3_like()})
            for (const Case& c : {Case{Dtype::f32, 1e-5, 1e-4}, Case{layercast(), 1e-3, 1e-3}, Case{layercast(Dtype::f16), 2e-4, 1e-3},
                                  Case{layercast(Dtype::bf16, Beside::lower_half), 1e-3, 1e-3}, Case{Dtype::bf16, 2e-2, 3e-2},
                                  Case{precision_named("bf16-sr"), 3e-2, 0.1}}) {
                TinyModel model(config, c.precision, 26), exact(config, Dtype::f64, 26);
                MasterCopy master(model.store.door, &model.optimizer, model.stream);
                init_weights(master.tensor(), model.store.table, 3);
                master.upload();
                for (int64_t i = 0; i < exact.weights().numel(); i++) exact.weights().as<double>()[i] = master.tensor().as<float>()[i];
                for (int step = 0; step < 10; step++) {
                    const StepBatch batch = random_batch(4, 13, config.vocab_size, 2, static_cast<uint64_t>(step));
                    const double loss = model.train_step(batch, 1e-3, 1.0), expected = exact.train_step(batch, 1e-3, 1.0);
                    CHECK(std::abs(loss - expected) < c.loss);
                }
                std::vector<float> expected;
                for (int64_t i = 0; i < exact.weights().numel(); i++)
                    expected.push_back(static_cast<float>(exact.weights().as<double>()[i]));
                CHECK(difference(values(master.download().tensor()), expected) < c.weights);
            }
    }

    TEST_CASE("precision: bytes a parameter, from the arenas") {
        ModelConfig config = gpt2_like();
        config.tie_embeddings = false, config.d_model = 48, config.d_ff = 192, config.n_head = 6, config.n_kv_head = 6;
        struct Case {
            Precision precision;
            double linear, norm;  // bytes a parameter: weights, what is kept beside, gradients, moments
        };
        for (const Case& c : {Case{Dtype::f32, 16, 16}, Case{Dtype::bf16, 18, 18}, Case{layercast(), 18, 16},
                              Case{layercast(Dtype::bf16, Beside::lower_half), 16, 16}, Case{precision_named("bf16-sr"), 14, 14}}) {
            TinyModel m(config, c.precision, 26);
            double expected = 0;
            int64_t largest_block = 0;
            for (const ParamRow& row : m.store.table.rows) {
                const int64_t room = round_up(row.numel(), 16);
                const bool wide = row.weight_class == WeightClass::norm || row.weight_class == WeightClass::bias;
                expected += static_cast<double>(room) * (wide ? c.norm : c.linear);
                if (row.layer == 0 && is_linear(row.weight_class)) largest_block += room;
            }
            int64_t taken = m.store.weights.bytes() + m.store.gradients.bytes();
            for (const Arena::Row& row : m.optimizer_arena.rows())
                if (row.name != "guard_state" && row.name != "grad_squares" && row.name != "weight_ranges") taken += row.bytes;
            CHECK(static_cast<double>(taken) == doctest::Approx(expected).epsilon(1e-3));  // arenas round up to 64 bytes
            const bool converts = c.precision.compute == Dtype::f32 && c.precision.stored_in(WeightClass::fc) == Dtype::bf16;
            CHECK(m.store.converted.bytes() == (converts ? 2 * 4 * largest_block : 0));  // two blocks' worth, whatever the number of layers
        }
    }

    // The paper stores the linear layers in 16 bits and leaves tables, norms and biases in fp32: its memory is 34 % below fp32's, in a
    // server whose other memory is fp32 in both. Of the weights alone it saves half of what is linear.
    TEST_CASE(
        "precision: a whole model's weights, from the arenas of Qwen2.5-7B, the paper's model: LayerCast lies between bf16 and fp32") {
        ModelConfig config = qwen2_like();
        config.n_layer = 28, config.d_model = 3584, config.n_head = 28, config.n_kv_head = 4, config.head_size = 128, config.d_ff = 18944;
        config.vocab_size = 152064, config.max_seq_len = 32768, config.tie_embeddings = false;
        Precision paper = layercast();
        for (WeightClass c : {WeightClass::embedding, WeightClass::lm_head}) paper.stored[static_cast<size_t>(c)] = Dtype::f32;
        const WeightStore fp32(config, Dtype::f32, false), bf16(config, Dtype::bf16, false), cast(config, paper, false);
        int64_t linear = 0;
        for (const ParamRow& row : fp32.table.rows)
            if (is_linear(row.weight_class)) linear += row.numel();
        CHECK(fp32.table.count() == 7615616512);  // its model card: 7.61 billion
        CHECK(linear == 28 * (3584 * (3584 + 2 * 512) + 3584 * 3584 + int64_t{3} * 3584 * 18944));
        CHECK(fp32.weights.bytes() == 4 * fp32.table.count());
        CHECK(bf16.weights.bytes() == 2 * fp32.table.count());
        CHECK(cast.weights.bytes() == fp32.weights.bytes() - 2 * linear);  // 43 % less
        CHECK(cast.converted.bytes() == 2 * 4 * linear / 28);              // two blocks in fp32, 7 % of the model
        const double saved =
            1 - static_cast<double>(cast.weights.bytes() + cast.converted.bytes()) / static_cast<double>(fp32.weights.bytes());
        CHECK(saved == doctest::Approx(0.367).epsilon(0.002));
    }

    TEST_CASE("precision: a head in fp32 beside bf16 activations has the logits of fp32 products") {
        ModelConfig config = gpt2_like();
        config.tie_embeddings = false;
        Precision wide_head(Dtype::bf16);
        wide_head.stored[static_cast<size_t>(WeightClass::lm_head)] = Dtype::f32;
        const StepBatch batch = random_batch(2, 13, config.vocab_size, 2);
        TinyModel plain(config, Dtype::bf16, 26), wide(config, wide_head, 26), exact(config, Dtype::f64, 26);
        take_weights(plain, 3);
        const std::vector<float> seen = take_weights(wide, 3);
        for (size_t i = 0; i < seen.size(); i++) exact.weights().as<double>()[i] = seen[i];
        const double expected = exact.loss_and_gradients(batch);
        CHECK(std::abs(wide.loss_and_gradients(batch) - expected) < 2e-3);
        CHECK(std::abs(plain.loss_and_gradients(batch) - expected) < 2e-2);
        auto head = [](const TinyModel& m) {
            const ParamRow& row = m.store.table.rows[static_cast<size_t>(m.store.table.find(ParamKind::lm_head, false, -1))];
            std::vector<float> d;
            for (int64_t i = 0; i < row.numel(); i++) d.push_back(static_cast<float>(Pool::get(m.gradients(), row.offset + i)));
            return d;
        };
        CHECK(difference(head(wide), head(exact)) < 1e-2);
    }

    TEST_CASE("precision: a master comes back as it was put in, whatever is kept beside the weights") {
        for (Beside beside : {Beside::master, Beside::lower_half}) {
            TinyModel m(gpt2_like(), layercast(Dtype::bf16, beside), 26);
            MasterCopy in(m.store.door, &m.optimizer, m.stream);
            init_weights(in.tensor(), m.store.table, 3);
            const std::vector<float> before = values(in.tensor());
            in.upload();
            MasterCopy out(m.store.door, &m.optimizer, m.stream);
            CHECK(values(out.download().tensor()) == before);
        }
    }

    TEST_CASE("precision: a weight beyond fp16 is refused when it is loaded") {
        TinyModel m(gpt2_like(), layercast(Dtype::f16), 26);
        MasterCopy master(m.store.door, &m.optimizer, m.stream);
        const ParamRow& row = m.store.table.rows[static_cast<size_t>(m.store.table.find(ParamKind::fc, false, 1))];
        master.tensor().as<float>()[row.offset + 5] = 65519;  // still rounds to 65504
        master.upload();
        master.tensor().as<float>()[row.offset + 5] = 65520;
        CHECK_THROWS_WITH_AS(master.upload(), doctest::Contains("block.1.fc.weight holds a weight of 65520"), Error);
    }

    TEST_CASE("precision: classes by name, and what does not go together") {
        auto of = [](const std::string& mode, const std::string& classes, bool tied = false, const std::string& masters = "fp32") {
            Options o;
            o.precision = mode, o.precision_of = classes, o.tie_embeddings = tied, o.master_weights = masters;
            return precision_of(o);
        };
        const Precision p = of("layercast", "linear=fp16,lm_head=fp32,mlp_out=bf16");
        CHECK(p.stored_in(WeightClass::qkv) == Dtype::f16);
        CHECK(p.stored_in(WeightClass::mlp_out) == Dtype::bf16);
        CHECK(p.stored_in(WeightClass::lm_head) == Dtype::f32);
        CHECK(p.stored_in(WeightClass::embedding) == Dtype::bf16);
        CHECK(of("bf16", "embedding=fp32,lm_head=fp32", true).wide_head());
        CHECK(of("bf16-sr", "norm=fp32").stored_in(WeightClass::norm) == Dtype::f32);
        CHECK(of("layercast", "embedding=fp32", true).stored_in(WeightClass::lm_head) == Dtype::f32);
        auto refused = [&](auto&& make, const char* sentence) { CHECK_THROWS_WITH_AS(make(), doctest::Contains(sentence), Error); };
        refused([&] { of("fp32", "linear=bf16"); }, "--precision fp32 stores and multiplies all weights in fp32");
        refused([&] { of("bf16", "fc=fp16"); }, "would round weights of fp16 once more");
        refused([&] { of("bf16", "norm=fp32"); }, "the masters of --precision bf16 are fp32 already");
        refused([&] { of("layercast", "lm_head=fp32", true); }, "the head of this model is its embedding table");
        refused([&] { of("layercast", "head=fp32"); }, "'head=fp32' is not CLASS=TYPE");
        refused([&] { of("layercast", "fc=fp8"); }, "'fc=fp8' is not CLASS=TYPE");
        refused([&] { of("layercast", "fc"); }, "'fc' is not CLASS=TYPE");
        refused([&] { of("layercast", "fc=bf16,"); }, "'' is not CLASS=TYPE");
        refused([&] { of("fp32", "", false, "split"); }, "keeps no masters");
        refused([&] { of("layercast", "fc=fp16", false, "split"); }, "the upper half of an fp32 is a bf16");
    }
}

}  // namespace traincu::test
