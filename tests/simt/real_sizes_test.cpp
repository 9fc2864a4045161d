// Every operation, and whole training steps, at the sizes of real models, which no test could execute: would a card start each launch, and
// is the default workspace large enough? Nothing is computed (runner.h, OnlyCheckLaunches).
#include <filesystem>
#include <fstream>
#include <iterator>

#include "kernels/activation.h"
#include "kernels/add.h"
#include "kernels/attention.h"
#include "kernels/classifier.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/quantize.h"
#include "kernels/reduce.h"
#include "kernels/reduce_ranks.h"
#include "kernels/rope.h"
#include "tests/simt/faults/faults.h"
#include "tests/simt/names.h"
#include "tests/simt/runner.h"
#include "tests/simt/support.h"
#include "tests/support/tiny_model.h"

using namespace traincu;

namespace {

// The GPUs whose limits differ: 163, 99, 227 and again 99 KiB of shared memory for a block.
constexpr int capabilities[] = {80, 86, 90, 120};

// Tensors without memory. `aligned`: rows begin at multiples of 256 bytes; else tensors begin one element later and rows of views do not
// even begin at multiples of 16 bytes, so everything must go by single elements.
struct MadeUp {
    Dtype dtype, wide = Dtype::f32;
    bool aligned;

    Tensor tensor(Dtype type, std::initializer_list<int64_t> shape) const {
        Tensor t(nullptr, type, shape);
        t.data = static_cast<std::byte*>(gpu::allocate(t.bytes() + 16)) + (aligned ? 0 : size_of(type));
        return t;
    }
    Tensor operator()(std::initializer_list<int64_t> shape) const { return tensor(dtype, shape); }
    Tensor statistics(std::initializer_list<int64_t> shape) const { return tensor(wide, shape); }
    Tensor ids(int64_t n) const {
        Tensor t(nullptr, Dtype::i32, {n});
        t.data = gpu::allocate(t.bytes());
        return t;
    }
    // (N,C) inside a wider matrix
    Tensor view(int64_t N, int64_t C, Dtype type) const {
        return tensor(type, {N, aligned ? (C + 127) / 128 * 128 + 128 : C + 3}).slice_cols(0, C);
    }
    Tensor view(int64_t N, int64_t C) const { return view(N, C, dtype); }
};

struct Shapes {
    const char* name;
    int64_t T, C, F, NH, NKV, HS, V, Vp, parameters;
};
constexpr Shapes shapes[] = {
    {"gpt2-124m", 65536, 768, 3072, 12, 12, 64, 50257, 50304, 124'475'904},
    {"gpt2-1558m", 65536, 1600, 6400, 25, 25, 64, 50257, 50304, 1'557'686'400},
    {"qwen3-0.6b", 32768, 1024, 3072, 16, 8, 128, 151936, 151936, 596'049'920},
    {"llama3-8b", 32768, 4096, 14336, 32, 8, 128, 128256, 128256, 8'030'261'248},
    {"wide", 32768, 16384, 53248, 128, 8, 256, 128256, 128256, 70'553'706'496},
    {"odd", 65537, 1601, 6397, 23, 23, 66, 50257, 50257, 1'557'686'401},
};

// stored: the type of the weight
void products(const MadeUp& make, Dtype stored, int64_t N, int64_t IC, int64_t OC, int64_t unit, Stream& stream) {
    const Tensor inp = make.view(N, IC), weight = make.view(OC, IC, stored), out = make.view(N, OC), bias = make({OC});
    gpu::linear_forward(out, inp, weight, bias, stream);
    gpu::linear_forward(out, inp, weight, {}, stream);
    gpu::linear_backward_input(make.view(N, IC), out, weight, stream);
    gpu::linear_backward_weight(make.view(OC, IC, make.wide), make.statistics({OC}), out, inp, unit, stream);
    gpu::linear_backward_weight(make.view(OC, IC, make.wide), {}, out, inp, unit, stream);
    const Tensor pre = make({N, OC});
    gpu::linear_gelu_forward(make({N, OC}), pre, inp, weight, bias, stream);
    gpu::linear_gelu_backward_input(make({N, OC}), make.view(N, IC), make.view(IC, OC, stored), pre, stream);
}

// What does not depend on the way of the products.
void other_operations(const MadeUp& make, const Shapes& s, int64_t unit, Stream& stream) {
    const int64_t T = s.T, C = s.C, HS = s.HS, qk = (s.NH + s.NKV) * HS, qkv_width = qk + s.NKV * HS;
    const Tensor x = make({T, C}), row = make({C}), stat = make.statistics({T}), sums = make.statistics({C});
    for (Dtype stored : {Dtype::f32, Dtype::bf16, Dtype::f16})
        embedding_forward(x, make.ids(T), make.ids(T), make.tensor(stored, {s.Vp, C}), make.tensor(stored, {32768, C}), stream);
    embedding_backward(make.statistics({s.Vp, C}), make.statistics({32768, C}), x, make.ids(T), make.ids(T), make.ids(T), make.ids(T),
                       stream);

    norm_forward(make({T, C}), make({T, C}), stat, stat, x, make({T, C}), row, row, 1e-5, stream);
    norm_forward({}, make({T, C}), {}, stat, x, {}, row, {}, 1e-5, stream);
    norm_backward(make({T, C}), sums, sums, x, make({T, C}), make({T, C}), stat, stat, row, unit, stream);
    norm_backward(make({T, C}), sums, {}, x, {}, make({T, C}), {}, stat, row, unit, stream);

    const RopeParams rope{s.NH, s.NKV, HS, 1e-6};
    const Tensor qkv = make.view(T, qkv_width), rstd = make.statistics({T, s.NH + s.NKV}), angles = make.tensor(Dtype::f32, {32768, HS});
    const Tensor head = make({HS}), head_sums = make.statistics({HS});
    qk_norm_rope_forward(make.view(T, qk), rstd, qkv, head, head, make.ids(T), angles, rope, stream);
    qk_norm_rope_backward(qkv, head_sums, head_sums, make.view(T, qk), rstd, qkv, head, head, make.ids(T), angles, rope, unit, stream);
    qk_norm_rope_forward(qkv.slice_cols(0, qk), {}, qkv, {}, {}, make.ids(T), angles, rope, stream);
    qk_norm_rope_backward(qkv, {}, {}, qkv.slice_cols(0, qk), {}, qkv, {}, {}, make.ids(T), angles, rope, unit, stream);

    gelu_forward(make({T, s.F}), make({T, s.F}), stream);
    gelu_backward(make({T, s.F}), make({T, s.F}), make({T, s.F}), stream);
    swiglu_forward(make({T, s.F}), make({T, 2 * s.F}), stream);
    swiglu_backward(make({T, 2 * s.F}), make({T, s.F}), make({T, 2 * s.F}), stream);

    classifier(stat, make({T, s.Vp}), make.ids(T), make.tensor(Dtype::f32, {T}), {s.V, 1e-6, 1e-4, true}, stream);
    const Tensor one = make.tensor(Dtype::f64, {1});
    sum(one, stat, stream);
    for (const Tensor& t : {make({T, s.Vp}), make.statistics({s.parameters})}) sum_squares(one, t, stream);
    add(make.statistics({s.parameters}), make.statistics({s.parameters}), stream);
    zero(qkv, stream), zero(make({T, s.Vp}), stream);
    copy(make.view(T, C), x, stream);
    for (Dtype stored : {Dtype::bf16, Dtype::f16}) {
        copy(make.tensor(stored, {s.parameters}), make.tensor(Dtype::f32, {s.parameters}), stream);
        copy(make.view(T, s.Vp, Dtype::f32), make.view(T, s.Vp, stored), stream);
    }
}

void optimizer_operations(const MadeUp& make, const Shapes& s, Stream& stream) {
    const Tensor master = make.statistics({s.parameters}), weights = make.tensor(Dtype::bf16, {s.parameters}),
                 ranges = make.tensor(Dtype::i64, {600, weight_range_size}), guard = make.tensor(Dtype::f64, {guard_state_size}),
                 one = make.tensor(Dtype::f64, {1});
    guard_step(guard, one, one, {}, stream);
    for (RankReduction how : {RankReduction::sum, RankReduction::largest})
        for (Dtype dtype : {Dtype::bf16, Dtype::f32, Dtype::f64})
            reduce_ranks(make.tensor(dtype, {s.parameters / 32}), make.tensor(dtype, {8, s.parameters / 32}), how, stream);
    for (Dtype moments : {Dtype::f32, Dtype::bf16}) {
        const Tensor m = make.tensor(moments, {s.parameters}), v = make.tensor(moments, {s.parameters});
        adamw_update(weights, master, m, v, master, ranges, guard, {}, stream);
        adamw_update(master, {}, m, v, master, ranges, guard, {}, stream);
    }
}

// What ranks send to one another: M nodes of m ranks, each with the gradients of all parameters.
void quantised_messages(const MadeUp& make, const Shapes& s, int64_t M, int64_t m, Stream& stream) {
    const QuantFormat weights{4, 2048, QuantFormat::nearest}, first{8, 128, QuantFormat::stochastic, true},
        second{4, 128, QuantFormat::stochastic, true};
    const int64_t P = M * m, n = round_up(s.parameters, P * 8192) / P;
    const QuantNoise noise{.stride = m * n};
    auto messages = [&](std::initializer_list<int64_t> shape) { return make.tensor(Dtype::u8, shape); };
    const Tensor gradients = make.statistics({M, m, n}), to_node = messages({m, M, message_bytes(n, first)});
    const Tensor across = messages({M, message_bytes(n, second)}), shard = make.statistics({n}), model = make({P, n});
    for (const QuantFormat& format : {weights, QuantFormat{8, 8192}}) {
        const Tensor difference = messages({message_bytes(n, format)}), all = messages({P, message_bytes(n, format)});
        quantize_difference(difference, shard, make({n}), format, noise, stream);
        quantize(difference, make({n}), 1, format, noise, stream);
        dequantize_add(model, all, format, stream);
        dequantize(model, all, format, stream);
    }
    quantize(to_node, gradients, 1.0 / static_cast<double>(P), first, noise, stream);
    reduce_quantize(across, to_node, first, second, noise, stream);
    reduce_quantize(messages({M, message_bytes(n, first)}), to_node, first, first, noise, stream);
    reduce_dequantize(shard, across, second, stream);
}

// Segments of n tokens each; the last may be shorter.
struct Documents {
    std::vector<Segment> host;
    Tensor device, query_tiles, key_tiles;
    Documents(int64_t T, int64_t n) {
        for (int64_t begin = 0; begin < T; begin += n) host.push_back({begin, std::min(n, T - begin), begin, std::min(n, T - begin), 0});
        auto allocate = [](Dtype dtype, size_t rows) {
            Tensor t(nullptr, dtype, {static_cast<int64_t>(rows), 5});
            t.data = gpu::allocate(t.bytes());
            return t;
        };
        const AttentionTiles tiles = attention_tiles(host, 0);
        device = allocate(Dtype::i64, host.size());
        query_tiles = allocate(Dtype::i32, tiles.query.size()), key_tiles = allocate(Dtype::i32, tiles.key.size());
    }
};

void attention(const MadeUp& make, int64_t T, int64_t NH, int64_t NKV, int64_t HS, int64_t document, Stream& stream) {
    const Documents documents(T, document);
    const SegmentTable table{documents.host, documents.device, documents.query_tiles, documents.key_tiles};
    auto heads = [&](const Tensor& qkv, int64_t first, int64_t count) {
        return qkv.slice_cols(first * HS, count * HS).view({T, count, HS});
    };
    const Tensor qkv = make.view(T, (NH + 2 * NKV) * HS), d = make.view(T, (NH + 2 * NKV) * HS), lse = make.statistics({T, NH});
    const Tensor q = heads(qkv, 0, NH), k = heads(qkv, NH, NKV), v = heads(qkv, NH + NKV, NKV), out = make({T, NH, HS});
    const AttentionInputs in = {.q = q, .k = k, .v = v};
    const AttentionScratch scratch = {.delta = make.statistics({T, NH}), .dq = make.tensor(Dtype::f32, {T, NH, HS})};
    auto gradients = [&] { return AttentionGradients{.dq = heads(d, 0, NH), .dk = heads(d, NH, NKV), .dv = heads(d, NH + NKV, NKV)}; };
    for (AttentionKernel kernel : {AttentionKernel::simple, AttentionKernel::tiled, AttentionKernel::hopper}) {
        set_attention_kernel(kernel);
        try {
            gpu::chosen_attention_kernel(in);
        } catch (const Error&) {
            continue;  // it does not take the shape
        }
        auto both = [&](const AttentionInputs& inputs, const AttentionGradients& d_inputs, const AttentionParams& params) {
            attention_forward(out, lse, inputs, table, params, stream);
            attention_backward(d_inputs, make({T, NH, HS}), out, lse, inputs, scratch, table, params, stream);
        };
        both(in, gradients(), {.scale = 0.1});
        both(in, gradients(), {.scale = 0.1, .deterministic = false});
        // What adds launches: a gate, sinks, a bias that is trained.
        AttentionInputs relative = in, factors = in;
        AttentionGradients drelative = gradients(), dfactors = gradients();
        relative.gate = make({T, NH, HS}), relative.sinks = make({NH}), relative.relative = make({NH, relative_buckets});
        drelative.dgate = make({T, NH, HS}), drelative.dsinks = make.statistics({NH});
        drelative.drelative = make.statistics({NH, relative_buckets});
        both(relative, drelative, {.scale = 0.1, .window = 512, .softcap = 50});
        factors.q_factors = make({T, NH, 16}), factors.k_factors = make({T, NKV, 16});
        dfactors.dq_factors = make({T, NH, 16}), dfactors.dk_factors = make({T, NKV, 16});
        both(factors, dfactors, {.scale = 0.1});
    }
    set_attention_kernel(AttentionKernel::automatic);
}

// Runs body(stream, make, unit) for GPUs, types, and ways to lie in memory.
template <class Body>
void for_all_ways(Body body) {
    for (int capability : capabilities) {
        const simt::OnlyCheckLaunches only_check(capability);
        Stream stream(Device::cuda);
        CAPTURE(capability);
        for (Dtype dtype : {Dtype::bf16, Dtype::f32})
            for (bool aligned : {true, false}) {
                CAPTURE(std::string(name_of(dtype)));
                CAPTURE(aligned);
                body(stream, MadeUp{.dtype = dtype, .aligned = aligned});
            }
    }
}

ModelConfig model_of(const Shapes& s) {
    ModelConfig c;
    c.n_layer = 2, c.n_head = s.NH, c.n_kv_head = s.NKV, c.d_model = s.C, c.d_ff = s.F, c.head_size = s.HS, c.vocab_size = s.V;
    c.max_seq_len = 1024;
    if (s.NKV == s.NH) return c;
    c.norm = NormKind::rmsnorm, c.position = PositionKind::rope, c.mlp = MlpKind::swiglu, c.bias = false;
    c.qk_norm = s.HS == 128 && s.C == 1024, c.tie_embeddings = c.qk_norm;
    return c;
}

}  // namespace

TEST_SUITE("simt") {
    TEST_CASE("simt: launches that are only checked: nothing runs, and what a card would refuse is refused") {
        using namespace simt_test;
        Managed<int32_t> counters(4, 7);
        {
            const simt::OnlyCheckLaunches only_check(86);
            Stream stream = gpu_stream();
            CHECK(gpu::device_info().compute_capability == 86);
            simt_faults::count_atomically(counters.data, stream);
            CHECK_NOTHROW(simt_faults::idle(0x7FFFFFFF, 65535, 99 * 1024, stream));
            const auto refused = [&](unsigned gx, unsigned gy, int64_t shared_bytes, const char* why) {
                CHECK_THROWS_WITH_AS(simt_faults::idle(gx, gy, shared_bytes, stream), doctest::Contains(why), Error);
            };
            refused(1, 1, 99 * 1024 + 16, "a block cannot have so many bytes");
            refused(1, 65536, 0, "the grid is too large");
            refused(1u << 31, 1, 0, "the grid is too large");
            stream.synchronize();
            const Tensor large(gpu::allocate(int64_t{1} << 42), Dtype::f32, {int64_t{1} << 40});
            zero(large, stream);
            stream.download(counters.data, large.slice_rows(5, 4));
        }
        Stream stream = gpu_stream();
        CHECK(counters[0] == 7);
        CHECK_NOTHROW(simt_faults::idle(1, 1, gpu::device_info().shared_bytes, stream));
        CHECK(failure(stream) == "");
        CHECK(simt::compiled("adamw_kernel<traincu::bf16, 4>").registers > 16);
        CHECK(simt::compiled("adamw_kernel<traincu::bf16, 4>").shared_bytes > 0);
    }

    TEST_CASE("simt: real sizes: matrix products") {
        auto all_shapes = [](const MadeUp& make, Dtype stored, Stream& stream) {
            for (const Shapes& s : shapes) {
                CAPTURE(std::string(s.name));
                for (int64_t unit : {0, 256}) {
                    products(make, stored, s.T, s.C, (s.NH + 2 * s.NKV) * s.HS, unit, stream);
                    products(make, stored, s.T, s.F, s.C, unit, stream);
                    products(make, stored, s.T, s.C, s.Vp, unit, stream);  // more than 2^31 logits
                }
                products(make, stored, 1, s.C, s.Vp, 0, stream);
            }
        };
        for (GemmEngine engine : {GemmEngine::own, GemmEngine::automatic}) {
            set_gemm_engine(engine);
            for_all_ways([&](Stream& stream, const MadeUp& make) {
                all_shapes(make, make.dtype, stream);
                if (make.dtype != Dtype::f32) return;
                for (Dtype stored : {Dtype::bf16, Dtype::f16}) all_shapes(make, stored, stream);
                set_f32_products(F32Products::bf16x3);
                all_shapes(make, Dtype::bf16, stream);
                set_f32_products(F32Products::fp32);
            });
        }
        set_gemm_engine(GemmEngine::automatic);
    }

    TEST_CASE("simt: real sizes: attention, from one long document to one for each token") {
        for_all_ways([](Stream& stream, const MadeUp& make) {
            for (const Shapes& s : shapes)
                for (int64_t document : {s.T, int64_t{1024}, int64_t{1}}) {
                    CAPTURE(std::string(s.name));
                    attention(make, s.T, s.NH, s.NKV, s.HS, document, stream);
                }
            for (int64_t HS = 8; HS <= 256; HS += 8) {
                CAPTURE(HS);
                attention(make, 2048, 4, 2, HS, 2048, stream);
            }
            attention(make, 524288, 32, 8, 128, 524288, stream);
        });
    }

    TEST_CASE("simt: real sizes: all other operations") {
        for_all_ways([](Stream& stream, const MadeUp& make) {
            for (const Shapes& s : shapes) {
                CAPTURE(std::string(s.name));
                for (int64_t unit : {0, 256}) other_operations(make, s, unit, stream);
                optimizer_operations(make, s, stream);
                if (!make.aligned) continue;  // messages always are
                for (auto [M, m] : {std::pair<int64_t, int64_t>{1, 8}, {16, 8}, {64, 1}}) quantised_messages(make, s, M, m, stream);
            }
        });
    }

    TEST_CASE("simt: real sizes: a training step of two layers and as many micro-batches") {
        for (const Shapes& s : shapes)
            for (Dtype dtype : {Dtype::bf16, Dtype::f32}) {
                if (s.name == std::string("wide") || s.name == std::string("odd")) continue;
                CAPTURE(std::string(s.name));
                CAPTURE(std::string(name_of(dtype)));
                const StepBatch batch = test::random_batch(16, 1024, s.V, 8);
                for (int64_t unit : {0, 256}) {
                    const simt::OnlyCheckLaunches only_check(90);
                    test::TinyModel model(model_of(s), dtype, 8192, Recompute::none, 0, {}, unit, Stream(Device::cuda));
                    model.train_step(batch, 1e-3, 1);
                }
            }
    }

    TEST_CASE("simt: real sizes: no kernel was left out") {
        const std::set<std::string> checked = simt::OnlyCheckLaunches::checked();
        if (checked.empty()) return;  // only a part of the tests runs
        for (const auto& entry : std::filesystem::directory_iterator("kernels")) {
            if (entry.path().extension() != ".cu") continue;
            std::ifstream file(entry.path());
            for (const std::string& name : simt::kernels_in(std::string(std::istreambuf_iterator<char>(file), {}))) {
                CAPTURE(name);
                int count = 0;
                for (const std::string& instance : simt::functions_named(name)) {
                    if (!checked.contains(instance)) continue;
                    CAPTURE(instance);
                    CHECK(simt::compiled(instance).registers > 0);  // else its limits are not known: make cuda-report
                    count++;
                }
                CHECK(count > 0);
            }
        }
    }
}
