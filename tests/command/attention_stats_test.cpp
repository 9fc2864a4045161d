// ./train eval --attention-stats against what can be said without it; the memory that ./train bench attention states.
#include "src/command/attention_stats.h"

#include <cmath>

#include "src/command/bench_attention.h"
#include "src/command/evaluation.h"
#include "src/device/transfer.h"
#include "src/model/init.h"
#include "tests/support/numeric.h"

namespace traincu::test {

namespace {

// The contract's sums in plain loops, every key looked at, lse of its own.
LayerAttention brute_force(const Tensor& q, const Tensor& k, const std::vector<Segment>& segments, double scale) {
    LayerAttention all;
    const int64_t NH = q.shape[1], HS = q.shape[2], group = NH / k.shape[1];
    for (const Segment& s : segments)
        for (int64_t h = 0; h < NH; h++)
            for (int64_t i = 0; i < s.q_len; i++) {
                const int64_t last = s.kv_len - s.q_len + i;
                if (last < 8) continue;
                std::vector<double> e;
                double sum = 0;
                for (int64_t j = 0; j <= last; j++) {
                    double dot = 0;
                    for (int64_t d = 0; d < HS; d++)
                        dot += Pool::get(q, (s.q_start + i) * q.row_stride + h * HS + d) *
                               Pool::get(k, (s.kv_start + j) * k.row_stride + h / group * HS + d);
                    e.push_back(std::exp(scale * dot)), sum += e.back();
                }
                double entropy = 0;
                for (double x : e) entropy -= x / sum * std::log(x / sum);
                all.rows++, all.first += e[0] / sum, all.entropy += entropy;
                all.uniform += 1.0 / static_cast<double>(last + 1);
                all.relative_entropy += entropy / std::log(static_cast<double>(last + 1));
            }
    return all;
}

}  // namespace

TEST_SUITE("attention_stats") {
    TEST_CASE("attention stats: grouped heads, slices with a past, short documents, as in plain loops") {
        Pool pool;
        const std::vector<Segment> segments = {{0, 20, 0, 20, 0}, {20, 1, 20, 1, 0}, {21, 8, 21, 8, 0}, {29, 9, 29, 14, 5}};
        const int64_t T = 38, Tk = 43, NH = 4, NKV = 2, HS = 6;
        const double scale = 0.7;
        const Tensor q = pool.normal(Dtype::f64, {T, NH * HS + 3}).slice_cols(0, NH * HS).view({T, NH, HS});
        const Tensor k = pool.normal(Dtype::f64, {Tk, NKV, HS}), lse = pool.poison(Dtype::f64, {T, NH});
        for (const Segment& s : segments)
            for (int64_t i = 0; i < s.q_len; i++)
                for (int64_t h = 0; h < NH; h++) {
                    double sum = 0;
                    for (int64_t j = 0; j <= s.kv_len - s.q_len + i; j++) {
                        double dot = 0;
                        for (int64_t d = 0; d < HS; d++)
                            dot += Pool::get(q, (s.q_start + i) * q.row_stride + h * HS + d) *
                                   Pool::get(k, (s.kv_start + j) * k.row_stride + h / 2 * HS + d);
                        sum += std::exp(scale * dot);
                    }
                    Pool::set(lse, (s.q_start + i) * NH + h, std::log(sum));
                }
        LayerAttention sums;
        add_attention(sums, q, k, lse, segments, scale);
        const LayerAttention expected = brute_force(q, k, segments, scale);
        CHECK(sums.rows == 4 * (12 + 6));  // queries 8..19 of the first, 3..8 of the last
        CHECK(sums.rows == expected.rows);
        CHECK(sums.first == doctest::Approx(expected.first));
        CHECK(sums.uniform == doctest::Approx(expected.uniform));
        CHECK(sums.entropy == doctest::Approx(expected.entropy));
        CHECK(sums.relative_entropy == doctest::Approx(expected.relative_entropy));
        LayerAttention wrong;  // scores that are not those of lse are refused
        CHECK_THROWS_AS(add_attention(wrong, q, k, lse, segments, 0.8), Error);
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
