// The whole model on a device, against the CPU's engine: losses, every gradient, a row of optimizer steps; repetition as equality of bits.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "src/command/choice_scorer.h"
#include "src/optim/master_copy.h"
#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {
namespace {

// A model on the tests' device, whose weights are those of a model on the CPU.
struct DeviceModel : TinyModel {
    DeviceModel(const ModelConfig& config, Dtype dtype, int64_t max_tokens, Recompute recompute = Recompute::none)
        : TinyModel(config, dtype, max_tokens, recompute, 1e-4, {}, 0, Stream(test_device(), int64_t{8} << 20)) {}

    void take_weights(const Tensor& flat_f32) {
        MasterCopy master(store.door, &optimizer, stream);
        std::memcpy(master.tensor().data, flat_f32.data, static_cast<size_t>(flat_f32.bytes()));
        master.upload();
    }
};

// Our own matrix product while it lives, also where a library is there.
struct OwnProduct {
    OwnProduct() { set_gemm_engine(GemmEngine::own); }
    ~OwnProduct() { set_gemm_engine(GemmEngine::automatic); }
};

std::vector<float> on_host(const Tensor& tensor, const Stream& stream) {
    HostCopy copy(tensor, stream);
    copy.download();
    return {copy.tensor().as<float>(), copy.tensor().as<float>() + tensor.numel()};
}

// |a - b| / |b| over the elements of one row of the table.
double row_error(const std::vector<float>& a, const std::vector<float>& b, const ParamRow& row) {
    double difference = 0, size = 0;
    for (int64_t i = row.offset; i < row.offset + row.numel(); i++) {
        const double x = a[static_cast<size_t>(i)], y = b[static_cast<size_t>(i)];
        difference += (x - y) * (x - y), size += y * y;
    }
    return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

ModelConfig small(const std::string& name) {
    ModelConfig c = name == "gpt2" ? gpt2_like() : name == "qwen3" ? qwen3_like() : name == "qwen2" ? qwen2_like() : llama3_like();
    return c;
}

}  // namespace

TEST_SUITE("device model") {
    TEST_CASE("device model: loss and every gradient in f32 are the CPU's, over two micro-batches") {
        OwnProduct own;
        for (const char* name : {"gpt2", "qwen3", "llama3", "qwen2"})
            for (Recompute recompute : {Recompute::none, Recompute::block}) {
                if (recompute == Recompute::block && std::strcmp(name, "qwen3") != 0) continue;
                CAPTURE(name);
                const ModelConfig config = small(name);
                const StepBatch batch = random_batch(3, 21, config.vocab_size, 2);
                TinyModel cpu(config, Dtype::f32, 42, Recompute::none, 1e-4, {}, 0);
                init_weights(cpu.weights(), cpu.store.table, 5);
                DeviceModel device(config, Dtype::f32, 42, recompute);
                device.take_weights(cpu.weights());
                const double expected = cpu.loss_and_gradients(batch);
                CHECK(device.loss_and_gradients(batch) == doctest::Approx(expected).epsilon(1e-6));
                const std::vector<float> gradients = on_host(device.gradients(), device.stream),
                                         truth = on_host(cpu.gradients(), cpu.stream);
                for (const ParamRow& row : cpu.store.table.rows) {
                    CAPTURE(row.name);
                    CHECK(row_error(gradients, truth, row) < 2e-5);
                }
            }
    }

    TEST_CASE("device model: in bf16 the loss is near the CPU's, and the gradients point the same way") {
        if (!on_gpu()) return;
        OwnProduct own;
        for (const char* name : {"gpt2", "qwen3"}) {
            CAPTURE(name);
            const ModelConfig config = small(name);
            const StepBatch batch = random_batch(2, 21, config.vocab_size, 2);
            DeviceModel device(config, Dtype::bf16, 42);
            TinyModel cpu(config, Dtype::f32, 42, Recompute::none, 1e-4, {}, 0);
            init_weights(cpu.weights(), cpu.store.table, 5);
            for (int64_t i = 0; i < cpu.weights().numel(); i++)  // both start from what bf16 can hold
                cpu.weights().as<float>()[i] = bf16_to_float(float_to_bf16(cpu.weights().as<float>()[i]));
            device.take_weights(cpu.weights());
            const double expected = cpu.loss_and_gradients(batch);
            CHECK(device.loss_and_gradients(batch) == doctest::Approx(expected).epsilon(2e-3));
            const std::vector<float> gradients = on_host(device.gradients(), device.stream), truth = on_host(cpu.gradients(), cpu.stream);
            for (const ParamRow& row : cpu.store.table.rows) {
                CAPTURE(row.name);
                CHECK(row_error(gradients, truth, row) < 0.05);  // some 8 roundings of 2^-9 between loss and weight
            }
        }
    }

    TEST_CASE("device model: gates, biases, windows, softcaps and sinks give the CPU's loss and gradients, with every kernel") {
        OwnProduct own;
        const bool gpu = on_gpu();
        for (ModelConfig config : attention_variants())
            for (AttentionKernel kernel : {AttentionKernel::simple, AttentionKernel::tiled, AttentionKernel::hopper}) {
                if (kernel == AttentionKernel::hopper && (!gpu || gpu::device_info().compute_capability != 90)) continue;
                const bool tensor_cores = gpu && kernel != AttentionKernel::simple;
                if (tensor_cores) config.head_size = kernel == AttentionKernel::hopper ? 64 : 16;
                const Dtype type = tensor_cores ? Dtype::bf16 : Dtype::f32;
                CAPTURE(static_cast<int>(kernel));
                CAPTURE(static_cast<int>(config.attn_gate));
                CAPTURE(static_cast<int>(config.attn_bias));
                const StepBatch batch = random_batch(2, 21, config.vocab_size, 2);
                TinyModel cpu(config, Dtype::f32, 42, Recompute::none, 1e-4, {}, 0);
                init_weights(cpu.weights(), cpu.store.table, 5);
                Random random{11, RandomStream::init};
                for (const ParamRow& row : cpu.store.table.rows)
                    for (int64_t i = 0; i < row.used_numel(); i++) {  // nothing is 0; and what bf16 can hold
                        float& weight = cpu.weights().as<float>()[row.offset + i];
                        weight += static_cast<float>(0.1 * random.normal(0, static_cast<uint64_t>(row.offset + i)));
                        weight = bf16_to_float(float_to_bf16(weight));
                    }
                DeviceModel device(config, type, 42);
                device.take_weights(cpu.weights());
                const double expected = cpu.loss_and_gradients(batch);
                set_attention_kernel(kernel);
                const double loss = device.loss_and_gradients(batch);
                set_attention_kernel(AttentionKernel::automatic);
                CHECK(loss == doctest::Approx(expected).epsilon(tensor_cores ? 4e-3 : 1e-6));
                const std::vector<float> gradients = on_host(device.gradients(), device.stream),
                                         truth = on_host(cpu.gradients(), cpu.stream);
                for (const ParamRow& row : cpu.store.table.rows) {
                    CAPTURE(row.name);
                    CHECK(row_error(gradients, truth, row) < (tensor_cores ? 0.1 : 2e-5));
                }
            }
    }

    TEST_CASE("device model: optimizer steps in f32 follow the CPU's, and repeat bit for bit") {
        for (const char* name : {"gpt2", "qwen3"}) {
            CAPTURE(name);
            const ModelConfig config = small(name);
            TinyModel cpu(config, Dtype::f32, 26, Recompute::none, 1e-4, {}, 0);
            init_weights(cpu.weights(), cpu.store.table, 5);
            DeviceModel device(config, Dtype::f32, 26), again(config, Dtype::f32, 26);
            device.take_weights(cpu.weights()), again.take_weights(cpu.weights());
            for (uint64_t step = 0; step < 3; step++) {
                const StepBatch batch = random_batch(2, 13, config.vocab_size, 2, step + 1);
                double norm = 0, expected_norm = 0;
                const double expected = cpu.train_step(batch, 1e-3, 1.0, &expected_norm), loss = device.train_step(batch, 1e-3, 1.0, &norm);
                CHECK(loss == doctest::Approx(expected).epsilon(1e-5));
                CHECK(norm == doctest::Approx(expected_norm).epsilon(1e-4));
                CHECK(again.train_step(batch, 1e-3, 1.0) == loss);
            }
            const std::vector<float> a = on_host(device.weights(), device.stream), b = on_host(again.weights(), again.stream);
            CHECK(a == b);
        }
    }

    TEST_CASE("device model: our own product and the library's agree on a step in bf16, and what is recomputed has the same bits") {
        if (!on_gpu() || gemm_engine(Device::cuda) == GemmEngine::own) return;
        for (const char* name : {"gpt2", "qwen3"}) {
            CAPTURE(name);
            const ModelConfig config = small(name);
            const StepBatch batch = random_batch(2, 13, config.vocab_size, 2);
            DeviceModel own(config, Dtype::bf16, 26), library(config, Dtype::bf16, 26), again(config, Dtype::bf16, 26, Recompute::block);
            TinyModel cpu(config, Dtype::f32, 26);
            init_weights(cpu.weights(), cpu.store.table, 5);
            own.take_weights(cpu.weights()), library.take_weights(cpu.weights()), again.take_weights(cpu.weights());
            double loss = 0;
            {
                OwnProduct engine;
                loss = own.loss_and_gradients(batch);
            }
            CHECK(library.loss_and_gradients(batch) == doctest::Approx(loss).epsilon(1e-3));
            again.loss_and_gradients(batch);
            const std::vector<float> a = on_host(library.gradients(), library.stream), b = on_host(own.gradients(), own.stream);
            for (const ParamRow& row : own.store.table.rows) {
                CAPTURE(row.name);
                CHECK(row_error(a, b, row) < 0.05);
            }
            CHECK(on_host(again.gradients(), again.stream) == a);
        }
    }

    TEST_CASE("device model: LayerCast computes, bit by bit, what f32 computes from the same weights; updates and saved masters too") {
        OwnProduct own;
        ModelConfig untied = gpt2_like();
        untied.tie_embeddings = false;
        for (const ModelConfig& config : {gpt2_like(), untied, qwen3_like()})
            for (Dtype linear : {Dtype::bf16, Dtype::f16}) {
                Precision precision = precision_named("layercast");
                for (int c = 0; c < n_weight_classes; c++)
                    if (is_linear(static_cast<WeightClass>(c))) precision.stored[static_cast<size_t>(c)] = linear;
                auto model = [&](const Precision& p) {
                    return std::make_unique<TinyModel>(config, p, 26, Recompute::none, 0, AdamwParams(), 0,
                                                       Stream(test_device(), int64_t{8} << 20));
                };
                const auto cast = model(precision), wide = model(Dtype::f32);
                MasterCopy master(cast->store.door, &cast->optimizer, cast->stream);
                init_weights(master.tensor(), cast->store.table, 3);
                master.upload();
                auto hand_over = [&] {  // what the model sees of its weights, as f32 weights of the other
                    MasterCopy seen(cast->store.door, nullptr, cast->stream), to(wide->store.door, nullptr, wide->stream);
                    seen.download();
                    std::memcpy(to.tensor().data, seen.tensor().data, static_cast<size_t>(seen.tensor().bytes()));
                    to.upload();
                };
                const StepBatch batch = random_batch(2, 13, config.vocab_size, 2);
                hand_over();
                CHECK(cast->loss_and_gradients(batch) == wide->loss_and_gradients(batch));
                CHECK(on_host(cast->gradients(), cast->stream) == on_host(wide->gradients(), wide->stream));
                cast->train_step(batch, 1e-2, 1.0);
                hand_over();
                CHECK(cast->loss(batch) == wide->loss(batch));
            }
    }

    TEST_CASE("device model: with units, and a tied head's gradients summed apart, the micro-batch split changes no bit") {
        OwnProduct own;
        ModelConfig biased = qwen3_like();
        biased.attn_bias = BiasKind::relative, biased.position = PositionKind::none, biased.attn_sinks = true,
        biased.attn_gate = GateKind::elementwise;
        for (ModelConfig config : {gpt2_like(), qwen3_like(), biased})
            for (Dtype type : on_gpu() ? std::vector{Dtype::f32, Dtype::bf16} : std::vector{Dtype::f32}) {
                config.n_layer = 1;
                auto step = [&](int64_t rows, int64_t unit) {
                    TinyModel m(config, type, rows * 16, Recompute::none, 0, {}, unit, Stream(test_device(), int64_t{8} << 20), Dtype::f32,
                                true);
                    MasterCopy master(m.store.door, &m.optimizer, m.stream);
                    init_weights(master.tensor(), m.store.table, 3);
                    master.upload();
                    const double loss = m.train_step(random_batch(4, 16, config.vocab_size, rows), 1e-3, 1.0);
                    return std::pair{loss, on_host(m.gradients(), m.stream)};
                };
                const auto whole = step(4, 16);
                for (int again = 0; again < 2; again++) CHECK(step(4, 16) == whole);  // the runner has another order of warps each time
                CHECK(step(1, 16) == whole);
                CHECK(step(2, 16) == whole);
                CHECK(step(1, 0).second != step(4, 0).second);  // all rows of a call at once: then it would show
            }
    }

    TEST_CASE("device model: bf16 keeps masters in f32, and the model's weights are these, rounded") {
        if (!on_gpu()) return;
        const ModelConfig config = gpt2_like();
        DeviceModel device(config, Dtype::bf16, 26);
        TinyModel cpu(config, Dtype::f32, 26);
        init_weights(cpu.weights(), cpu.store.table, 5);
        device.take_weights(cpu.weights());
        device.train_step(random_batch(2, 13, config.vocab_size, 2), 1e-3, 1.0);
        const std::vector<float> master = on_host(device.optimizer.kept(), device.stream),
                                 weights = on_host(device.weights(), device.stream);
        int64_t between = 0;
        for (size_t i = 0; i < master.size(); i++) {
            CHECK(weights[i] == bf16_to_float(float_to_bf16(master[i])));
            between += weights[i] != master[i];
        }
        CHECK(between > static_cast<int64_t>(master.size()) / 2);
    }

    TEST_CASE("device model: choices are scored as on the CPU, though a GPU's batches are filled up") {
        const ModelConfig config = gpt2_like();
        std::vector<ChoiceExample> examples(5);
        for (int32_t i = 0; i < 5; i++) {
            for (int32_t t = 0; t <= 3 * i; t++) examples[static_cast<size_t>(i)].context.push_back((7 * t + i) % 37);
            for (int32_t c = 1; c <= 4; c++)
                examples[static_cast<size_t>(i)].completions.push_back(std::vector<int32_t>(static_cast<size_t>(c), c * i));
        }
        auto losses = [&](Stream stream) {
            WeightStore weights(config, Dtype::f32, false);
            ForwardPass pass(weights, 70);
            weights.allocate(stream), pass.allocate(stream);
            MasterCopy master(weights.door, nullptr, stream);
            init_weights(master.tensor(), weights.table, 3);
            master.upload();
            return ChoiceScorer(pass, examples, "set", 16, 0).completion_losses(stream);
        };
        const std::vector<double> expected = losses(Stream()), scored = losses(Stream(test_device(), int64_t{8} << 20));
        REQUIRE(expected.size() == 20);
        REQUIRE(scored.size() == 20);
        for (size_t i = 0; i < 20; i++) CHECK(scored[i] == doctest::Approx(expected[i]).epsilon(1e-5));
    }

    TEST_CASE("device model: generation with a cache gives the logits of the whole text") {
        const ModelConfig config = qwen3_like();
        Stream stream(test_device(), int64_t{8} << 20);
        WeightStore weights(config, Dtype::f32, false);
        ModelOptions options;
        options.config = config, options.max_tokens = 9, options.training = false, options.cache_tokens = 9;
        ModelInstance whole(options, weights.door, "whole"), steps(options, weights.door, "steps");
        weights.allocate(stream), whole.allocate(stream), steps.allocate(stream);
        MasterCopy master(weights.door, nullptr, stream);
        init_weights(master.tensor(), weights.table, 3);
        master.upload();
        auto feed = [&](ModelInstance& instance, int32_t begin, int32_t count) {
            MicroBatch batch;
            for (int32_t t = begin; t < begin + count; t++)
                batch.tokens.push_back(t * 5 % 37), batch.targets.push_back(-1), batch.positions.push_back(t),
                    batch.loss_weights.push_back(0);
            batch.segments = {{0, count, 0, begin + count, begin}};
            instance.model.load(batch, stream);
            for (int part = 0; part + 1 < instance.model.n_parts(); part++) {
                weights.door.acquire(part, stream);
                instance.model.forward(part, 0, stream);
                weights.door.release(part);
            }
            const Tensor logits = instance.model.logits_of_last(1, stream);
            return on_host(Tensor(logits.data, logits.dtype, {logits.cols()}), stream);
        };
        const std::vector<float> expected = feed(whole, 0, 9);
        feed(steps, 0, 4), feed(steps, 4, 1), feed(steps, 5, 3);
        const std::vector<float> last = feed(steps, 8, 1);
        for (size_t i = 0; i < expected.size(); i++) CHECK(last[i] == doctest::Approx(expected[i]).epsilon(1e-4));
    }
}

}  // namespace traincu::test
