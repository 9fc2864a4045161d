// How far a layer's product is from the exact one, by the way in which its numbers are rounded: the ladder from bf16 to fp32, on the
// layers of a model and what they are given. Emulated on the CPU, in the order of plain loops; tensor cores add in another one.
//
//   build/error_ladder RUN [SHARD]     a run or checkpoint; a shard of its text (without one: tokens by chance)
//
// Y (N,OC) = X (N,IC) W (OC,IC)^T of qkv, fc and mlp_out of each block; W rounded to bf16 first, but in the last row. Error: rms of the
// difference over rms of Y.
#include <bit>
#include <cmath>
#include <cstdio>
#include <functional>

#include "src/checkpoint/formats.h"
#include "src/command/run_setup.h"
#include "src/data/shard.h"
#include "src/parallel/executor.h"

using namespace traincu;

namespace {

float to_bf16(float x) { return bf16_to_float(float_to_bf16(x)); }
float to_f16(float x) { return half_to_float(float_to_half(x)); }
float to_tf32(float x) {
    return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0xFFF + (std::bit_cast<uint32_t>(x) >> 13 & 1)) & ~0x1FFFu);
}
float exact(float x) { return x; }

using Round = float (*)(float);

// X in `terms` parts, each rounded; products of each part summed in f32, the smallest part first; the result rounded.
struct Path {
    const char* name;
    Round part;
    int terms;
    Round result;
};

const Path paths[] = {
    {"bf16 X, bf16 Y: mixed precision", to_bf16, 1, to_bf16},
    {"bf16 X, fp32 Y", to_bf16, 1, exact},
    {"fp32 X, bf16 Y", exact, 1, to_bf16},
    {"fp16 X, fp32 Y", to_f16, 1, exact},
    {"tf32 X, fp32 Y", to_tf32, 1, exact},
    {"bf16x2: two terms of X", to_bf16, 2, exact},
    {"tf32x2: two terms of X", to_tf32, 2, exact},
    {"bf16x3: three terms of X", to_bf16, 3, exact},
    {"fp32 X, fp32 Y", exact, 1, exact},
    {"W rounded to bf16, all else exact", exact, 0, exact},
};
constexpr size_t n_paths = std::size(paths);

struct Sums {
    double difference = 0, size = 0;
    double error() const { return std::sqrt(difference / size); }
};

void add_errors(Sums (&sums)[n_paths], const float* x, const float* w, int64_t N, int64_t OC, int64_t IC) {
    constexpr int64_t row_step = 7, col_step = 5;  // a sample of Y
    for (int64_t n = 0; n < N; n += row_step)
        for (int64_t o = n % col_step; o < OC; o += col_step) {
            const float *a = x + n * IC, *b = w + o * IC;
            double y = 0, with_masters = 0;
            for (int64_t i = 0; i < IC; i++) y += double{a[i]} * double{to_bf16(b[i])}, with_masters += double{a[i]} * double{b[i]};
            for (size_t p = 0; p < n_paths; p++) {
                const Path& path = paths[p];
                float sum = 0;
                for (int term = path.terms - 1; term >= 0; term--)
                    for (int64_t i = 0; i < IC; i++) {
                        float rest = a[i], part = path.part(rest);
                        for (int t = 0; t < term; t++) rest -= part, part = path.part(rest);
                        sum = std::fma(part, to_bf16(b[i]), sum);
                    }
                const double found = path.terms == 0 ? y : double{path.result(sum)}, expected = path.terms == 0 ? with_masters : y;
                sums[p].difference += (found - expected) * (found - expected), sums[p].size += expected * expected;
            }
        }
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc < 2) return std::fprintf(stderr, "usage: %s RUN [SHARD]\n", argv[0]), 2;
    const ModelOnDisk model = find_model(argv[1]);
    Stream stream;
    WeightStore weights(model.config, Dtype::f32, true);
    const int64_t T = std::min<int64_t>(model.config.max_seq_len > 0 ? model.config.max_seq_len : 256, 256);
    ModelOptions options;
    options.config = model.config, options.max_tokens = T;
    ModelInstance instance(options, weights.door, "ladder");
    weights.allocate(stream), instance.allocate(stream);
    load_weights(model, weights, stream);
    MicroBatch batch;
    std::vector<int32_t> tokens(static_cast<size_t>(T));
    if (argc > 2)
        Shard(argv[2]).read(0, T, tokens.data());
    else
        for (size_t t = 0; t < tokens.size(); t++)
            tokens[t] = static_cast<int32_t>(t * 7919 % static_cast<size_t>(model.config.vocab_size));
    for (int64_t t = 0; t < T; t++) {
        batch.tokens.push_back(tokens[static_cast<size_t>(t)]), batch.targets.push_back(-1);
        batch.positions.push_back(static_cast<int32_t>(t)), batch.loss_weights.push_back(1);
    }
    batch.segments = {{0, T, 0, T, 0}};
    StepBatch step;
    step.micro_batches.push_back(batch), step.tokens = T, step.loss_tokens = 1;
    Executor(instance.model, weights.door).run(evaluation_schedule(instance.model.n_parts()), step, stream);

    Sums sums[n_paths];
    const Slot& slot = instance.model.slot();
    for (size_t layer = 0; layer < slot.blocks.size(); layer++) {
        const BlockSlot& s = slot.blocks[layer];
        const BlockTensors& w = weights.door.weights().blocks[layer];
        for (const auto& [inp, weight] : {std::pair{s.norm1_out, w.qkv}, std::pair{s.norm2_out, w.fc}, std::pair{s.act, w.mlp_out}})
            add_errors(sums, inp.as<float>(), weight.as<float>(), T, weight.rows(), weight.cols());
    }
    std::printf("%s: %zu blocks, width %lld, %lld tokens\n", argv[1], slot.blocks.size(), static_cast<long long>(model.config.d_model),
                static_cast<long long>(T));
    for (size_t p = 0; p < n_paths; p++) std::printf("  %-36s %.1e\n", paths[p].name, sums[p].error());
    return 0;
} catch (const Error& error) {
    return std::fprintf(stderr, "error: %s\n  what to do: %s\n", error.what(), error.remedy().c_str()), static_cast<int>(error.code());
}
