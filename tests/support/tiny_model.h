// A small model with everything around it, for tests: weights, activations, executor, optimizer.
#pragma once

#include <memory>
#include <utility>

#include "kernels/copy.h"
#include "src/base/philox.h"
#include "src/model/init.h"
#include "src/model/instance.h"
#include "src/optim/optimizer.h"
#include "src/parallel/executor.h"

namespace traincu::test {

struct TinyModel {
    TinyModel(const ModelConfig& config, const Precision& precision, int64_t max_tokens, Recompute recompute = Recompute::none,
              double z_loss = 0, const AdamwParams& hyper = {}, int64_t unit_rows = 256, Stream on = {}, Dtype moments = Dtype::f32,
              bool head_apart = false, int workers = 1)
        : stream(std::move(on)),
          store(config, precision, true, head_apart),
          optimizer(store.door, hyper, optimizer_arena, moments),
          recompute_mode(recompute) {
        ModelOptions options;
        options.config = config, options.dtype = precision.compute, options.wide_head = precision.wide_head(),
        options.max_tokens = max_tokens, options.recompute = recompute, options.z_loss = z_loss;
        options.unit_rows = unit_rows;
        instance = std::make_unique<ModelInstance>(options, store.door, "test");
        if (workers > 1) tree = std::make_unique<GradientTree>(store.gradients, store.table.flat_size, statistics_of(store.dtype), workers);
        store.allocate(stream);
        optimizer_arena.allocate(stream.memory());
        optimizer.bind(stream);
        instance->allocate(stream);
        executor = std::make_unique<Executor>(instance->model, store.door, tree.get());
    }

    Tensor weights() const { return store.door.flat_weights(); }
    Tensor gradients() const { return store.door.flat_gradients(); }

    // Mean loss; leaves the gradients in gradients().
    double loss_and_gradients(const StepBatch& batch) {
        submit_gradients(batch);
        return executor->mean_loss(batch, stream);
    }
    // Mean loss alone.
    double loss(const StepBatch& batch) {
        double total = 0;
        for (const MicroBatch& micro : batch.micro_batches) {
            StepBatch one{{micro}, batch.loss_tokens, batch.tokens};
            executor->run(evaluation_schedule(instance->model.n_parts()), one, stream);
            total += executor->mean_loss(one, stream);
        }
        return total;
    }
    double train_step(const StepBatch& batch, double lr, double clip, double* norm_out = nullptr) {
        submit_gradients(batch);
        optimizer.step(instance->model.loss_sum(), lr, {loss_scale(batch), 0, clip}, stream);
        const GuardState state = optimizer.read_guard(stream);
        if (norm_out) *norm_out = state.norm;
        return state.loss;
    }

    Stream stream;
    WeightStore store;
    Arena optimizer_arena{"optimizer"};
    Optimizer optimizer;
    Recompute recompute_mode;
    std::unique_ptr<GradientTree> tree;
    std::unique_ptr<ModelInstance> instance;
    std::unique_ptr<Executor> executor;

private:
    void submit_gradients(const StepBatch& batch) {
        zero(gradients(), stream);
        executor->run(training_schedule(instance->model.n_parts(), static_cast<int>(batch.micro_batches.size()),
                                        recompute_mode != Recompute::none, tree ? tree->workers() : 1),
                      batch, stream);
    }
};

// Windows of T random tokens as segments, split into micro-batches of `rows` windows each. Targets are the next token of the window.
inline StepBatch random_batch(int64_t windows, int64_t T, int64_t vocab, int64_t rows, uint64_t seed = 7) {
    Random random{seed, RandomStream::sampling};
    StepBatch step;
    for (int64_t w = 0; w < windows; w++) {
        if (w % rows == 0) step.micro_batches.emplace_back();
        MicroBatch& b = step.micro_batches.back();
        const int64_t start = b.T();
        b.segments.push_back({start, T, start, T, 0});
        for (int64_t t = 0; t < T; t++) {
            auto token = [&](int64_t i) {
                return static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint32_t>(w), static_cast<uint64_t>(i)));
            };
            b.tokens.push_back(token(t));
            b.targets.push_back(token(t + 1));
            b.positions.push_back(static_cast<int32_t>(t));
            b.loss_weights.push_back(1.0f);
        }
    }
    step.tokens = step.loss_tokens = windows * T;
    return step;
}

inline ModelConfig gpt2_like() {
    ModelConfig c;
    c.n_layer = 2, c.n_head = 3, c.n_kv_head = 3, c.d_model = 24, c.d_ff = 40, c.head_size = 8, c.vocab_size = 37, c.max_seq_len = 32;
    return c;
}
inline ModelConfig qwen3_like() {
    ModelConfig c = gpt2_like();
    c.n_head = 4, c.n_kv_head = 2, c.head_size = 10, c.norm = NormKind::rmsnorm, c.position = PositionKind::rope, c.mlp = MlpKind::swiglu,
    c.bias = false, c.qk_norm = true;
    return c;
}
inline ModelConfig qwen2_like() {
    ModelConfig c = qwen3_like();
    c.qk_norm = false, c.qkv_bias = true, c.head_size = 6;
    return c;
}
inline ModelConfig llama_like() {
    ModelConfig c = qwen3_like();
    c.qk_norm = false, c.tie_embeddings = false, c.head_size = 6;
    return c;
}
inline ModelConfig llama3_like() {
    ModelConfig c = llama_like();
    c.rope_theta = 100, c.rope_scaling = {4, 1, 4, 32};  // kept, between and stretched waves among the three pairs
    return c;
}

// Models of several kinds with what attention can have beside the plain softmax.
inline std::vector<ModelConfig> attention_variants() {
    std::vector<ModelConfig> all;
    auto add = [&](ModelConfig c, auto change) { change(c), all.push_back(c); };
    ModelConfig plain = gpt2_like();
    plain.position = PositionKind::none;
    ModelConfig grouped = qwen3_like();                                          // NH = 4, NKV = 2, QK-norm, RoPE
    add(gpt2_like(), [](ModelConfig& c) { c.attn_gate = GateKind::headwise; });  // 3 gates of 8 columns, biases
    add(grouped, [](ModelConfig& c) { c.attn_gate = GateKind::headwise, c.n_kv_head = 1; });
    add(grouped, [](ModelConfig& c) { c.attn_gate = GateKind::elementwise; });
    add(qwen2_like(), [](ModelConfig& c) { c.attn_gate = GateKind::elementwise, c.attn_sinks = true; });
    add(plain, [](ModelConfig& c) { c.attn_bias = BiasKind::alibi, c.window = 5; });
    add(plain, [](ModelConfig& c) { c.attn_bias = BiasKind::relative, c.attn_softcap = 2; });
    add(plain, [](ModelConfig& c) { c.attn_bias = BiasKind::factors, c.bias_rank = 3, c.attn_gate = GateKind::elementwise; });
    add(grouped, [](ModelConfig& c) { c.attn_bias = BiasKind::factors, c.bias_rank = 2, c.window = 7, c.attn_sinks = true; });
    add(grouped, [](ModelConfig& c) { c.attn_bias = BiasKind::fixed, c.bias_rank = 2; });
    return all;
}

}  // namespace traincu::test
