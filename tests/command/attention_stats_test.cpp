// ./train eval --attention-stats against what can be said without it; the memory that ./train bench attention states.
#include "src/command/attention_stats.h"

#include <cmath>

#include "src/command/bench_attention.h"
#include "src/command/evaluation.h"
#include "src/device/transfer.h"
#include "src/model/init.h"
#include "src/base/philox.h"
#include "tests/kernels/attention_fixture.h"
#include "tests/support/numeric.h"

namespace traincu::test {

namespace {

// The contract's sums in plain loops over every pair of the segment: the sum of a row is its own, not lse.
LayerAttention brute_force(const AttentionInputs& in, const std::vector<Segment>& segments, const AttentionParams& params) {
    LayerAttention all;
    all.has_sinks = static_cast<bool>(in.sinks);
    const int64_t NH = in.q.shape[1], NKV = in.k.shape[1], HS = in.q.shape[2], R = in.q_factors ? in.q_factors.shape[2] : 0;
    for (const Segment& s : segments)
        for (int64_t h = 0; h < NH; h++)
            for (int64_t i = 0; i < s.q_len; i++) {
                const int64_t width = in.gate ? in.gate.shape[2] : 0;
                for (int64_t d = 0; d < width; d++) {
                    const double g = 1 / (1 + std::exp(-Pool::get(in.gate, (s.q_start + i) * in.gate.row_stride + h * width + d)));
                    all.gates++, all.gate += g, all.closed += g < 0.05 ? 1 : 0;
                }
                const int64_t beside = s.kv_len - s.q_len + i;
                if (beside < 8) continue;
                const double sink = in.sinks ? std::exp(Pool::get(in.sinks, h)) : 0;
                std::vector<double> e;
                double sum = 0;
                int64_t seen = 0;
                for (int64_t j = 0; j <= beside; j++) {
                    double x = 0;
                    for (int64_t d = 0; d < HS; d++)
                        x += Pool::get(in.q, (s.q_start + i) * in.q.row_stride + h * HS + d) *
                             Pool::get(in.k, (s.kv_start + j) * in.k.row_stride + h / (NH / NKV) * HS + d);
                    x *= params.scale;
                    if (params.softcap > 0) x = params.softcap * std::tanh(x / params.softcap);
                    if (in.slopes) x -= Pool::get(in.slopes, h) * static_cast<double>(beside - j);
                    if (in.relative) x += Pool::get(in.relative, h * relative_buckets + relative_bucket(beside - j));
                    for (int64_t r = 0; r < R; r++)
                        x += Pool::get(in.q_factors, ((s.first_position + i) * NH + h) * R + r) *
                             Pool::get(in.k_factors, ((s.first_position + i - beside + j) * NKV + h / (NH / NKV)) * R + r);
                    const bool in_sight = params.window == 0 || beside - j < params.window;
                    e.push_back(in_sight ? std::exp(x) : 0), sum += e.back(), seen += in_sight;
                }
                double entropy = 0;
                for (double x : e)
                    if (x > 0) entropy -= x / sum * std::log(x / sum);
                all.rows++, all.first += e[0] / (sum + sink), all.sink += sink / (sum + sink), all.entropy += entropy;
                if (e[0] > 0) all.uniform += 1.0 / static_cast<double>(seen);
                if (seen > 1) all.relative_entropy += entropy / std::log(static_cast<double>(seen));
            }
    return all;
}

void check_same(const LayerAttention& a, const LayerAttention& b, double epsilon) {
    auto same = [&](double x, double y) { CHECK(x == doctest::Approx(y).epsilon(epsilon)); };
    CHECK(a.rows == b.rows);
    CHECK(a.gates == b.gates);
    CHECK(a.closed == b.closed);
    CHECK(a.has_sinks == b.has_sinks);
    same(a.first, b.first), same(a.uniform, b.uniform), same(a.entropy, b.entropy), same(a.relative_entropy, b.relative_entropy);
    same(a.sink, b.sink), same(a.gate, b.gate);
}

}  // namespace

TEST_SUITE("attention_stats") {
    TEST_CASE("attention stats: grouped heads, slices with a past, short documents, every variant, as in plain loops") {
        using Gate = Variant::Gate;
        using Bias = Variant::Bias;
        const Shape shape = {4, 2, 6, {{0, 20, 0, 20, 0}, {20, 1, 20, 1, 0}, {21, 8, 21, 8, 0}, {29, 9, 29, 14, 5}}};
        std::vector<Variant> variants(11);
        variants[1].window = 12, variants[2].window = 1, variants[3].softcap = 0.8, variants[4].sinks = true;
        variants[5].gate = Gate::headwise, variants[6].gate = Gate::elementwise;
        variants[7].bias = Bias::alibi, variants[8].bias = Bias::relative, variants[9].bias = Bias::factors;
        variants[10] = {.window = 11, .softcap = 1.5, .sinks = true, .gate = Gate::headwise, .bias = Bias::factors};
        for (size_t i = 0; i < variants.size(); i++) {
            CAPTURE(i);
            Pool pool;
            Problem x(pool, Dtype::f64, shape, 1.5, variants[i]);
            x.forward();
            LayerAttention sums;
            add_attention(sums, x.in, x.lse, x.shape.segments, x.params);
            CHECK(sums.rows == 4 * (12 + 6));  // queries 8..19 of the first segment, 3..8 of the last
            check_same(sums, brute_force(x.in, x.shape.segments, x.params), 1e-9);
            x.params.scale *= 1.2;  // scores that are not those of lse are refused
            LayerAttention wrong;
            if (variants[i].window != 1) CHECK_THROWS_AS(add_attention(wrong, x.in, x.lse, x.shape.segments, x.params), Error);
        }
    }

    TEST_CASE("attention stats: models with a gate, a bias, a window, a softcap, sinks; what they report is what their last block did") {
        ModelConfig plain;
        plain.n_layer = 2, plain.n_head = 4, plain.n_kv_head = 2, plain.head_size = 4, plain.d_model = 16, plain.d_ff = 16;
        plain.vocab_size = 11, plain.max_seq_len = 32;
        std::vector<ModelConfig> models(9, plain);
        models[0].attn_gate = GateKind::headwise, models[1].attn_gate = GateKind::elementwise;
        models[2].attn_bias = BiasKind::alibi, models[2].position = PositionKind::none;
        models[3].attn_bias = BiasKind::relative;
        models[4].attn_bias = BiasKind::factors, models[4].bias_rank = 3;
        models[5].window = 10, models[5].position = PositionKind::rope;
        models[6].attn_softcap = 0.7, models[6].qk_norm = true;
        models[7].attn_sinks = true;
        models[8] = models[6];
        models[8].attn_gate = GateKind::headwise, models[8].attn_bias = BiasKind::fixed, models[8].bias_rank = 2;
        models[8].window = 12, models[8].attn_sinks = true, models[8].position = PositionKind::rope;
        for (size_t m = 0; m < models.size(); m++) {
            CAPTURE(m);
            const ModelConfig& c = models[m];
            WeightStore weights(c, Dtype::f32, false);
            ForwardPass pass(weights, 48);
            Stream stream;
            weights.allocate(stream), pass.allocate(stream);
            Random random{5, RandomStream::init};
            const Tensor flat = weights.door.flat_weights();  // tables and sinks that start at 0 have to count
            for (int64_t i = 0; i < flat.numel(); i++)
                flat.as<float>()[i] = static_cast<float>(0.6 * random.normal(0, static_cast<uint64_t>(i)));
            MicroBatch batch;
            batch.segments = {{0, 30, 0, 30, 0}, {30, 16, 30, 16, 0}};
            for (int32_t t = 0; t < 46; t++)
                batch.tokens.push_back(t * t % 11), batch.targets.push_back(1), batch.positions.push_back(t < 30 ? t : t - 30);
            batch.loss_weights.assign(46, 1.0f);
            AttentionStats stats(c);
            pass.loss_sum(batch, stream, &stats);
            const Transformer& model = pass.instance().model;
            const BlockSlot& last = model.slot().blocks[1];
            const AttentionInputs in = model.attention_inputs(1, last.qk.slice_rows(0, 46), last.qkv.slice_rows(0, 46));
            CHECK(static_cast<bool>(in.gate) == (c.attn_gate != GateKind::none));
            CHECK(static_cast<bool>(in.sinks) == c.attn_sinks);
            CHECK(static_cast<bool>(in.slopes) == (c.attn_bias == BiasKind::alibi));
            CHECK(static_cast<bool>(in.relative) == (c.attn_bias == BiasKind::relative));
            CHECK(static_cast<bool>(in.q_factors) == c.has_factors());
            const AttentionParams params{0.5, c.window, c.attn_softcap};
            check_same(stats.layers()[1], brute_force(in, batch.segments, params), 1e-4);
        }
    }

    TEST_CASE("attention stats: a model whose queries are zero attends uniformly, in every layer") {
        ModelConfig config;
        config.n_layer = 3, config.n_head = 2, config.n_kv_head = 2, config.head_size = 4, config.d_model = 8, config.d_ff = 16;
        config.vocab_size = 11, config.max_seq_len = 16;
        WeightStore weights(config, Dtype::f32, false);
        ForwardPass pass(weights, 32);
        Stream stream;
        weights.allocate(stream), pass.allocate(stream);
        init_weights(weights.door.flat_weights(), weights.table, 1);
        MicroBatch batch;
        for (int32_t t = 0; t < 28; t++) batch.tokens.push_back(t % 11), batch.targets.push_back(1), batch.positions.push_back(t % 16);
        batch.loss_weights.assign(28, 1.0f), batch.segments = {{0, 16, 0, 16, 0}, {16, 12, 16, 12, 0}};
        AttentionStats untouched(config);
        const double loss = pass.loss_sum(batch, stream);
        CHECK(pass.loss_sum(batch, stream, &untouched) == loss);
        for (const BlockTensors& block : weights.door.weights().blocks) {  // the rows of Wqkv that make q
            std::fill_n(block.qkv.as<float>(), 8 * 8, 0.0f);
            if (block.qkv_bias) std::fill_n(block.qkv_bias.as<float>(), 8, 0.0f);
        }
        AttentionStats stats(config);
        pass.loss_sum(batch, stream, &stats);
        double share = 0, entropy = 0;
        for (int n = 9; n <= 16; n++) share += 1.0 / n, entropy += std::log(n);
        for (int n = 9; n <= 12; n++) share += 1.0 / n, entropy += std::log(n);
        REQUIRE(stats.layers().size() == 3);
        for (const LayerAttention& a : stats.layers()) {
            CHECK(a.rows == 2 * 12);
            CHECK(a.mean(a.first) == doctest::Approx(share / 12));
            CHECK(a.mean(a.entropy) == doctest::Approx(entropy / 12));
            CHECK(a.mean(a.relative_entropy) == doctest::Approx(1));
            CHECK(a.largest > 0);
        }
        // the last block's memory is still there: x_mid, and what joins it
        const Slot& slot = pass.instance().model.slot();
        double largest = 0;
        for (int64_t i = 0; i < 28 * 8; i++) {
            const double x = Pool::get(slot.blocks[2].x_mid, i), added = Pool::get(slot.branch, i);
            largest = std::max({largest, std::abs(x), std::abs(x + added)});
        }
        CHECK(stats.layers()[2].largest == doctest::Approx(largest));
    }
}

TEST_SUITE("bench_attention") {
    TEST_CASE("bench attention: the memory it states is that of the tensors it declares") {
        using Variant = AttentionBenchRow::Variant;
        for (Variant variant : {Variant::none, Variant::alibi, Variant::factors, Variant::dense, Variant::headwise, Variant::elementwise}) {
            const AttentionBenchRow row{variant, 96, 3, 16, 5};
            CAPTURE(row.name());
            const AttentionBenchTensors t(row, Dtype::f32);
            int64_t inputs = 0, gradients = 0;
            for (const Tensor* x : {&t.gate, &t.slopes, &t.dense}) inputs += x->numel();
            if (variant == Variant::factors) inputs += t.q_factors.numel() + t.k_factors.numel();
            for (const Tensor* x : {&t.dgate, &t.dq_factors, &t.dk_factors}) gradients += x->numel();
            CHECK(row.extra_numbers() == inputs);
            CHECK(row.extra_gradients() == gradients);
        }
    }
}

}  // namespace traincu::test
