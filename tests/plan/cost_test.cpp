// The cost table beside the engine: every instruction's matrix products, counted while they are made; rates and simulator by hand.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/matmul.h"
#include "src/plan/memory.h"
#include "src/plan/simulator.h"
#include "tests/plan/rates_file.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {

TEST_SUITE("plan") {
    double product_flops(const std::vector<KernelCall>& calls) {
        double total = 0;
        for (const KernelCall& call : calls)
            if (std::string(info(call.kernel).op) == "matmul") total += call.flops();
        return total;
    }

    StepShape shape_of(const TinyModel& m, int64_t seq_len, int64_t rows) { return {m.instance->model.options(), seq_len, rows}; }

    TEST_CASE("cost: every instruction makes the matrix products that the table says") {
        ModelConfig untied_gpt2 = gpt2_like();
        untied_gpt2.tie_embeddings = false;
        ModelConfig large_vocabulary = gpt2_like();  // logits in chunks of 64 rows
        large_vocabulary.vocab_size = 262200, large_vocabulary.d_model = 12, large_vocabulary.n_layer = 1;
        ModelConfig headwise = llama_like(), elementwise = qwen3_like();  // the packed projection is wider
        headwise.attn_gate = GateKind::headwise, elementwise.attn_gate = GateKind::elementwise;
        for (const ModelConfig& config : {gpt2_like(), untied_gpt2, llama_like(), qwen3_like(), large_vocabulary, headwise, elementwise})
            for (Recompute recompute : {Recompute::none, Recompute::mlp, Recompute::attention, Recompute::block}) {
                if (config.vocab_size > 1000 && recompute != Recompute::none) continue;
                constexpr int64_t T = 21, rows = 7, rows_together = 4;  // the second micro-batch has three rows
                TinyModel m(config, Dtype::f32, rows_together * T, recompute);
                const StepBatch batch = random_batch(rows, T, config.vocab_size, rows_together);
                const StepShape shape = shape_of(m, T, rows);
                REQUIRE(shape.micro_batches() == 2);
                int with_products = 0;
                for (const Instruction& i : training_schedule(shape.n_parts(), shape.micro_batches(), recompute != Recompute::none)) {
                    const double before = matmul_flops();
                    m.executor->run({i}, batch, m.stream);
                    CAPTURE(to_string(i));
                    CAPTURE(static_cast<int>(recompute));
                    const double counted = matmul_flops() - before;
                    CHECK(product_flops(kernel_calls(shape, i)) == counted);
                    with_products += counted > 0;
                }
                CHECK(with_products >= 2 * (3 * config.n_layer + 1));  // forward, backward_input, backward_weight; the head
            }
    }

    TEST_CASE("cost: a step without recomputation makes three products per weight and token, and 7 n^2 per head and layer in attention") {
        for (const ModelConfig& c : {gpt2_like(), llama_like(), qwen3_like()}) {
            StepShape shape;
            shape.model.config = c, shape.model.max_tokens = 40, shape.seq_len = 20, shape.rows_per_step = 6;
            double products = 0, attention = 0;
            int64_t updated = 0;
            for (const Instruction& i : training_schedule(shape.n_parts(), shape.micro_batches(), false)) {
                const auto calls = kernel_calls(shape, i);
                products += product_flops(calls);
                for (const KernelCall& call : calls) {
                    if (std::string(info(call.kernel).op) == "attention") attention += call.flops();
                    if (call.kernel == Kernel::adamw) updated += call.sizes[0];
                }
            }
            const double block = static_cast<double>(c.d_model * (c.qkv_width() + c.q_width() + c.fc_width() + c.d_ff));
            const double weights = static_cast<double>(c.n_layer) * block + static_cast<double>(c.d_model * c.padded_vocab());
            CHECK(products == 6 * 120 * weights);
            CHECK(attention == 7.0 * static_cast<double>(c.n_layer * c.q_width()) * 20 * 120);
            CHECK(updated == make_param_table(c).flat_size);
        }
    }

    TEST_CASE("timing: every kernel runs at odd sizes, and at the reduced size of large ones") {
        omp_set_num_threads(1);
        Stream stream;
        KernelTimer timer(stream, Dtype::f32, 1 << 20);
        for (const KernelInfo& k : kernel_table())
            for (int64_t flag : {0, 1})
                for (bool large : {false, true}) {
                    KernelCall call{k.kernel};
                    for (size_t i = 0; i < k.n_sizes(); i++) {
                        const std::string name = k.size_names[i];
                        call.sizes[i] = name.back() == '?' ? flag : name == "context" ? 11 : name == "NKV" ? 2 : name == "NH" ? 4 : 22;
                        if (large && name.back() != '?' && name != "HS") call.sizes[i] *= name == "NH" || name == "NKV" ? 20 : 5000;
                    }
                    CAPTURE(k.name());
                    CAPTURE(call.shape_text());
                    const KernelCall timed = timer.of_timed_size(call);
                    CAPTURE(timed.shape_text());
                    if (!large) CHECK(timed.same_shape(call));
                    CHECK(timed.work() > 0);
                    CHECK(timed.bytes() < 160e6);  // what is added to counts twice; the timer would refuse what does not fit
                    if (large) CHECK(timed.work() <= call.work());
                    if (large && timed.flops() > 1e8) continue;  // too long for a test
                    CHECK(timer.seconds(timed, 0) > 0);
                }
        omp_set_num_threads(2);
    }

    TEST_CASE("rates: from a file, the same shape's time or the nearest one's by work") {
        TempDir f;
        write_rates(f / "rates.json", {{"matmul forward", {64, 32, 16, 0}, 2.0},
                                       {"matmul forward", {1024, 512, 512, 0}, 1000.0},
                                       {"norm forward", {10, 100, 1, 0}, 0.5}});
        Rates rates(f / "rates.json");
        CHECK(!rates.measures());
        CHECK(rates.seconds({Kernel::matmul_forward, {64, 32, 16, 0}}) == 2.0);
        CHECK(rates.seconds({Kernel::matmul_forward, {128, 32, 16, 0}}) == 4.0);                // twice the FLOPs of the small one
        CHECK(rates.seconds({Kernel::matmul_forward, {1024, 512, 256, 0}}) == 500.0);           // half those of the large one
        CHECK(rates.seconds({Kernel::norm_forward, {10, 100, 1, 1}}) == doctest::Approx(1.0));  // a branch doubles the bytes
        CHECK_THROWS_WITH_AS(rates.seconds({Kernel::gelu_forward, {8, 8}}), doctest::Contains("no figure for gelu forward"), Error);
        rates.save(f / "again.json");
        CHECK(Rates(f / "again.json").json()["rates"] == rates.json()["rates"]);
    }

    TEST_CASE("rates: a damaged file is refused with a sentence") {
        TempDir f;
        const std::vector<TestRate> good = {{"norm forward", {10, 100, 1, 0}, 0.5}};
        write_rates(f / "good.json", good);
        CHECK(Rates(f / "good.json").machine().threads == 2);
        auto refused = [&](const std::string& name, const std::string& says) {
            CAPTURE(name);
            CHECK_THROWS_WITH_AS(Rates(f / name), doctest::Contains(says.c_str()), Error);
        };
        write_file(f / "text.json", "no JSON");
        write_file(f / "empty.json", "{}");
        write_rates(f / "kernel.json", {{"norm sideways", {1, 1, 1, 1}, 1.0}});
        write_rates(f / "few.json", {{"norm forward", {1, 1}, 1.0}});
        write_rates(f / "zero.json", {{"norm forward", {0, 1, 1, 0}, 1.0}});
        write_rates(f / "flag.json", {{"norm forward", {1, 1, 2, 0}, 1.0}});
        write_rates(f / "time.json", {{"norm forward", {1, 1, 1, 0}, -1.0}});
        refused("missing.json", "missing.json");
        refused("text.json", "not JSON");
        refused("empty.json", "no file of kernel rates");
        refused("kernel.json", "no kernel 'norm sideways'");
        refused("few.json", "4 sizes");
        refused("zero.json", "N of norm forward is 0");
        refused("flag.json", "layernorm? of norm forward is 2");
        refused("time.json", "seconds");
    }

    TEST_CASE("simulator: a step is the sum of its calls, each counted once in its group") {
        TempDir f;
        write_rates(f / "rates.json", a_microsecond_each());
        Rates rates(f / "rates.json");
        for (Recompute recompute : {Recompute::none, Recompute::block}) {
            StepShape shape;
            shape.model.config = qwen3_like(), shape.model.config.n_layer = 4, shape.model.recompute = recompute;
            shape.model.max_tokens = 64, shape.seq_len = 16, shape.rows_per_step = 10;  // micro-batches of 4, 4 and 2 rows
            const auto schedule = training_schedule(shape.n_parts(), shape.micro_batches(), recompute != Recompute::none);
            double seconds = 0, head = 0, recomputed = 0;
            for (const Instruction& i : schedule)
                for (const KernelCall& call : kernel_calls(shape, i)) {
                    const double t = rates.seconds(call);
                    seconds += t;
                    if (call.group == CostGroup::head) head += t;
                    if (i.op == Op::recompute) recomputed += t;
                }
            const StepTime step = simulate(schedule, shape, rates);
            CHECK(step.seconds == doctest::Approx(seconds));
            CHECK(step.by_group[static_cast<size_t>(CostGroup::head)] == doctest::Approx(head));
            CHECK(step.recompute == doctest::Approx(recomputed));
            CHECK((step.recompute > 0) == (recompute != Recompute::none));
            double groups = 0;
            for (double g : step.by_group) groups += g;
            CHECK(groups == doctest::Approx(seconds));
        }
    }

    TEST_CASE("memory: amounts in text") {
        CHECK(parse_bytes("24GiB", "--memory") == int64_t{24} << 30);
        CHECK(parse_bytes("16G", "--memory") == int64_t{16} << 30);
        CHECK(parse_bytes("800MB", "--memory") == 800000000);
        CHECK(parse_bytes("1.5K", "--memory") == 1536);
        CHECK(parse_bytes("2TiB", "--memory") == int64_t{2} << 40);
        CHECK(parse_bytes("4096", "--memory") == 4096);
        CHECK(parse_bytes("12B", "--memory") == 12);
        for (const char* text : {"", "G", "24 GiB", "-1G", "0", "nan", "inf", "24GG", "24iB", "24XB", "1e30G", "24GiBs", "0.2"}) {
            CAPTURE(text);
            CHECK_THROWS_AS(parse_bytes(text, "--memory"), Error);
        }
        Arena arena("test");
        Tensor a, b;
        arena.add(a, "a", Dtype::f32, {1 << 20, 1 << 20});
        CHECK_THROWS_WITH_AS(arena.add(b, "b", Dtype::f32, {int64_t{1} << 40, int64_t{1} << 40}),
                             doctest::Contains("with b the test arena"), Error);
    }

}  // TEST_SUITE
}  // namespace traincu::test
