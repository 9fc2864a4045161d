// The options table: precedence, round trips, and a clear refusal for everything that is wrong.
#include <doctest/doctest.h>

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "src/config/batch_options.h"
#include "src/config/model_options.h"
#include "src/config/rank_options.h"
#include "src/model/params.h"

namespace traincu::test {

namespace {

Options parse(std::vector<std::string> words) {
    std::vector<char*> argv = {const_cast<char*>("./train")};
    for (std::string& word : words) argv.push_back(word.data());
    return parse_options(static_cast<int>(argv.size()), argv.data());
}

// The message and exit code of a refused command line; "" if it was accepted.
std::string refusal(std::vector<std::string> words) {
    try {
        model_config(parse(std::move(words)));
    } catch (const Error& error) {
        CHECK(error.code() == ExitCode::usage);
        CHECK(!error.remedy().empty());
        return error.what();
    }
    return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("options") {
    TEST_CASE("options: long names, llm.c's letters, and both spellings of a value") {
        Options o = parse(
            {"--n-layer", "7", "--lr=3e-4", "-b", "8", "-t", "64", "-x", "12", "-i", "a.bin", "--qk-norm", "--bias", "0", "--shuffle=0"});
        CHECK(o.n_layer == 7);
        CHECK(o.lr == 3e-4);
        CHECK(o.batch_size == 8);
        CHECK(o.seq_len == 64);
        CHECK(o.max_steps == 12);
        CHECK(o.data == "a.bin");
        CHECK(o.qk_norm);
        CHECK(!o.bias);
        CHECK(!o.shuffle);
        CHECK(parse({"--qk-norm", "--data", "x"}).qk_norm);  // a switch that stands alone before another flag
    }

    TEST_CASE("options: the command line beats --config, which beats the preset") {
        const std::string path = std::filesystem::temp_directory_path() / ("options_test_" + std::to_string(getpid()) + ".json");
        std::ofstream(path) << R"({"options": {"preset": "gpt2-124m", "n-layer": 5, "lr": 0.002, "seed": 3}})";
        Options o = parse({"--config", path, "--seed", "4"});
        CHECK(o.d_model == 768);
        CHECK(o.n_layer == 5);
        CHECK(o.lr == 0.002);
        CHECK(o.seed == 4);
        CHECK(parse({"--preset", "qwen3-0.6b", "--n-layer", "2"}).n_layer == 2);
        std::remove(path.c_str());
    }

    TEST_CASE("options: rotary scaling comes back from its text, and through a ModelConfig") {
        for (const char* text : {"none", "llama3:32:1:4:8192", "llama3:8:0.1:3.3333333333333335:7", "llama3:1.0000000000000002:1:4:8192"}) {
            Options o = parse({"--position", "rope", "--vocab-size", "9", "--rope-scaling", text}), back;
            CHECK(RopeScaling::parse(text).text() == text);
            set_model_options(back, model_config(o));
            CHECK(back.rope_scaling == text);
        }
        CHECK(RopeScaling::parse("llama3:8:0.5:2:100") == RopeScaling{8, 0.5, 2, 100});
        CHECK(RopeScaling::parse("llama3:1:2:3:4") == RopeScaling{});  // a factor of 1 scales nothing
        Options o = parse({"--bias", "0", "--qkv-bias", "--vocab-size", "9"}), back;
        set_model_options(back, model_config(o));
        CHECK(back.qkv_bias);
    }

    TEST_CASE("options: attention's come back through a ModelConfig, and what makes none is refused") {
        for (const char* bias : {"none", "alibi", "relative", "factors:7", "fixed:32"}) {
            Options o = parse({"--vocab-size", "9", "--attn-bias", bias, "--attn-gate", "headwise", "--window", "9", "--attn-softcap", "30",
                               "--attn-sinks"}),
                    back;
            set_model_options(back, model_config(o));
            CHECK(back.attn_bias == bias);
            CHECK(back.attn_gate == "headwise");
            CHECK(back.window == "9");
            CHECK(back.attn_softcap == 30);
            CHECK(back.attn_sinks);
        }
        for (const char* bias :
             {"", "factor", "factors", "factors:", "factors:0", "factors:-1", "factors:2x", "alibi:1", "file:", "fixed:99999"})
            CHECK(has(refusal({"--vocab-size", "9", "--attn-bias", bias}), "--attn-bias"));
        CHECK(has(refusal({"--vocab-size", "9", "--attn-bias", "factors:33"}), "above the head size 32"));
        for (const char* window : {"0", "-1", "5x", ""}) CHECK(has(refusal({"--vocab-size", "9", "--window", window}), "--window"));
        CHECK(has(refusal({"--vocab-size", "9", "--attn-gate", "both"}), "--attn-gate"));
        CHECK(has(refusal({"--vocab-size", "9", "--attn-softcap", "nan"}), "--attn-softcap"));
        CHECK(has(refusal({"--vocab-size", "9", "--position", "none", "--attn-bias", "factors:2", "--max-seq-len", "99"}), "99 rows"));
        CHECK(refusal({"--vocab-size", "9", "--position", "none", "--attn-bias", "alibi", "--max-seq-len", "99"}) == "");
    }

    TEST_CASE("options: a model's attention is not to be contradicted") {
        ModelConfig model;
        model.attn_gate = GateKind::headwise;
        check_attention_options(parse({}), model, "m");
        check_attention_options(parse({"--attn-gate", "headwise"}), model, "m");
        CHECK_THROWS_WITH_AS(check_attention_options(parse({"--attn-gate", "elementwise"}), model, "m"),
                             "--attn-gate elementwise contradicts the model m, where it is headwise", Error);
        CHECK_THROWS_AS(check_attention_options(parse({"--window", "5"}), model, "m"), Error);
        CHECK_THROWS_AS(check_attention_options(parse({"--attn-bias", "file:x"}), model, "m"), Error);
    }

    TEST_CASE("options: JSON and back is the identity, for every preset") {
        for (const std::string& name : preset_names()) {
            CAPTURE(name);
            Options a = parse({"--preset", name, "--lr", "0.000123456789012345"}), b;
            apply_json(b, options_to_json(a), "test");
            CHECK(options_to_json(a) == options_to_json(b));
        }
    }

    TEST_CASE("options: every row has a group, a help and a name of its own; aliases too") {
        std::set<std::string> names, aliases;
        for (const OptionRow& row : option_table()) {
            CHECK(names.insert(row.name).second);
            CHECK(std::string(row.help).size() > 10);
            if (*row.alias) CHECK(aliases.insert(row.alias).second);
        }
        CHECK(names.size() > 40);
    }

    TEST_CASE("options: what is wrong is said by name") {
        CHECK(has(refusal({"--n-layers", "3"}), "--n-layers"));
        CHECK(has(refusal({"--n-layer", "three"}), "'three'"));
        CHECK(has(refusal({"--n-layer", "3x"}), "whole number"));
        CHECK(has(refusal({"--n-layer", "99999999999999999999"}), "n-layer"));
        CHECK(has(refusal({"--n-layer", "0"}), "from 1"));
        CHECK(has(refusal({"--n-layer", ""}), "n-layer"));
        CHECK(has(refusal({"--lr", "nan"}), "lr"));
        CHECK(has(refusal({"--lr", "-1"}), "from 0"));
        CHECK(has(refusal({"--grad-clip", "inf"}), "grad-clip"));
        CHECK(has(refusal({"--norm", "batchnorm"}), "layernorm rmsnorm"));
        CHECK(has(refusal({"--bias", "maybe"}), "0 or 1"));
        CHECK(has(refusal({"--preset", "gpt5"}), "gpt5"));
        CHECK(has(refusal({"--config", "no/such.json"}), "no/such.json"));
        CHECK(has(refusal({"stray"}), "stray"));
        CHECK(has(refusal({"--n-head", "5", "--d-model", "128"}), "divide"));
        CHECK(has(refusal({"--n-head", "4", "--n-kv-head", "3", "--vocab-size", "9"}), "n-kv-head"));
        CHECK(has(refusal({"--position", "rope", "--head-size", "7", "--vocab-size", "9"}), "odd"));
        CHECK(has(refusal({"--norm", "rmsnorm", "--bias", "1", "--vocab-size", "9"}), "RMSNorm"));
        CHECK(has(refusal({"--qkv-bias", "--vocab-size", "9"}), "--qkv-bias"));
        CHECK(has(refusal({"--rope-scaling", "llama3:32:1:4:8192", "--vocab-size", "9"}), "--position rope"));
        for (const char* scaling :
             {"", "yarn", "llama3", "llama3:", "llama3:8:1:4", "llama3:8:1:4:8192:1", "llama3:8:1:4:x", "llama3:8;1;4;9",
              "llama3:0.5:1:4:8192", "llama3:nan:1:4:8192", "llama3:inf:1:4:8192", "llama3:8:4:4:8192", "llama3:8:0:4:8192",
              "llama3:8:1:4:0", "llama3:8:1:4:1e300", "llama3:8:1:4:nan", "llama3:8:1:4:8192 "}) {
            CAPTURE(scaling);
            CHECK(has(refusal({"--position", "rope", "--vocab-size", "9", "--rope-scaling", scaling}), "--rope-scaling"));
        }
        try {
            parse({"--n-layrs", "3"});
            CHECK(false);
        } catch (const Error& error) {
            CHECK(has(error.remedy(), "--n-layer"));  // the nearest name is offered
        }
    }

    TEST_CASE("options: --help names every option") {
        try {
            parse({"--help"});
            CHECK(false);
        } catch (const HelpRequested& help) {
            for (const OptionRow& row : option_table()) CHECK(has(help.text, (std::string("--") + row.name).c_str()));
        }
    }

    TEST_CASE("options: a resume names what changed, and lets harmless ones pass") {
        Options a = parse({"--preset", "tiny"}), b = a;
        b.max_steps = 5000, b.keep = 9, b.batch_size = 2, b.recompute = "block";
        CHECK(resume_conflicts(options_to_json(a), b).empty());
        b.n_layer = 3, b.seed = 8;
        auto conflicts = resume_conflicts(options_to_json(a), b);
        REQUIRE(conflicts.size() == 2);
        CHECK(has(conflicts[0], "n-layer: 2 in the checkpoint, 3 now"));
        CHECK(has(conflicts[1], "seed"));
    }

    TEST_CASE("ranks: what is sent in few bits, all at once and one by one") {
        const auto kinds = [](const std::vector<std::string>& words) {
            Options o = parse(words);
            resolve_rank_options(o);
            return o.quant_weights + " " + o.quant_grads;
        };
        CHECK(kinds({}) == "none none");
        CHECK(kinds({"--zero", "1", "--comm-quant", "zeropp"}) == "int8 int4");
        CHECK(kinds({"--zero", "1", "--comm-quant", "sdp4bit"}) == "diff4 two-level-hadamard");
        CHECK(kinds({"--zero", "1", "--comm-quant", "sdp4bit", "--quant-weights", "none"}) == "none two-level-hadamard");
        CHECK(kinds({"--zero", "1", "--comm-quant", "sdp4bit", "--quant-grads", "int8"}) == "diff4 int8");
        Options o =
            parse({"--zero", "1", "--comm-quant", "sdp4bit", "--quant-weights-group", "64", "--quant-grads-group", "256", "--seed", "5"});
        resolve_rank_options(o);
        const CommQuant quant = comm_quant(o);
        CHECK((quant.weights == CommQuant::Weights::diff4 && quant.grads == CommQuant::Grads::two_level_hadamard));
        CHECK((quant.weights_group == 64 && quant.grads_group == 256 && quant.seed == 5));
    }

    TEST_CASE("ranks: options that do not go together are refused, on one rank too, with what to do") {
        const struct {
            std::vector<std::string> words;
            int64_t ranks;
            const char *why, *remedy;
        } cases[] = {
            {{"--quant-weights", "int4"}, 1, "--quant-weights int4", "--zero 1"},
            {{"--quant-grads", "two-level"}, 1, "--quant-grads two-level", "--zero 1"},
            {{"--comm-quant", "zeropp"}, 1, "--quant-weights int8", "--zero 1"},
            {{"--comm-quant", "sdp4bit", "--zero", "1", "--determinism", "ranks"}, 1, "the same bits for any number of ranks", "batch"},
            {{"--quant-grads", "int8", "--zero", "1", "--determinism", "ranks"}, 1, "--quant-grads int8", "batch"},
            {{"--quant-weights-group", "33"}, 1, "--quant-weights-group 33", "32"},
            {{"--quant-grads-group", "8191"}, 1, "--quant-grads-group 8191", "4096"},
            {{"--batch-size", "4", "--seq-len", "64", "--total-batch-tokens", "640"}, 3, "10 rows of 64 tokens, which 3 ranks", "192"},
            {{"--seq-len", "64", "--total-batch-tokens", "700"}, 1, "--total-batch-tokens 700", "--seq-len"},
            {{"--seq-len", "256", "--batch-size", "1", "--determinism", "ranks", "--total-batch-tokens", "6144"},
             3,
             "3 ranks",
             "1, 2, 4 or 8"},
            {{"--seq-len", "256", "--batch-size", "1", "--determinism", "ranks", "--total-batch-tokens", "3072"}, 4, "12 of 256", "2048"},
            {{"--seq-len", "64", "--batch-size", "3", "--determinism", "batch", "--total-batch-tokens", "768"},
             2,
             "units of 256",
             "of 4 for"},
            // a micro-batch is made smaller for so many ranks, and then has no whole unit
            {{"--seq-len", "64", "--batch-size", "4", "--determinism", "batch", "--total-batch-tokens", "512"},
             4,
             "micro-batch of 2 x 64",
             "256"},
        };
        for (const auto& c : cases) {
            CAPTURE(c.why);
            std::string why, remedy;
            try {
                Options o = parse(c.words);
                o.ranks = c.ranks;
                resolve_rank_options(o);
                resolve_batch(o);
            } catch (const Error& error) {
                CHECK(error.code() == ExitCode::usage);
                why = error.what(), remedy = error.remedy();
            }
            CHECK_MESSAGE(has(why, c.why), why);
            CHECK_MESSAGE(has(remedy, c.remedy), remedy);
        }
    }

    TEST_CASE("ranks: a step of no given size is one micro-batch a rank, and a micro-batch is no more than a rank's share") {
        Options o = parse({"--seq-len", "64", "--batch-size", "6"});
        o.ranks = 3;
        resolve_batch(o);
        CHECK((o.total_batch_tokens == 3 * 6 * 64 && o.batch_size == 6));
        o = parse({"--seq-len", "64", "--batch-size", "6", "--total-batch-tokens", "768"});
        o.ranks = 3;
        resolve_batch(o);
        CHECK((o.total_batch_tokens == 768 && o.batch_size == 4));
    }

    TEST_CASE("presets: llm.c's published recipes") {
        Options a = parse({"--preset", "gpt2-124m-llmc"}), b = parse({"--preset", "gpt2-350m-llmc"});
        CHECK(a.max_steps == 19560);
        CHECK(a.lr == 6e-4);
        CHECK(b.max_steps == 60000);
        CHECK(b.lr == 3e-4);
        for (const Options& o : {a, b}) {
            CHECK(o.seq_len == 1024);
            CHECK(o.total_batch_tokens == 524288);
            CHECK(o.warmup_steps == 700);
            CHECK(o.lr_schedule == "cosine");
            CHECK(o.min_lr_fraction == 0);
            CHECK(o.weight_decay == 0.1);
            CHECK(o.beta1 == 0.9);
            CHECK(o.beta2 == 0.95);
            CHECK(o.grad_clip == 1.0);
            CHECK(o.val_every == 250);
            CHECK(o.val_tokens == 10 * (int64_t{1} << 20));
            CHECK(o.shuffle);
        }
    }

    TEST_CASE("presets: published parameter counts") {
        auto count = [](const char* name) {
            return make_param_table(model_config(parse({"--preset", name, "--seq-len", "1024"}))).count();
        };
        CHECK(count("gpt2-124m") == 124439808);
        CHECK(count("gpt2-350m") == 354823168);
        CHECK(count("gpt2-774m") == 774030080);
        CHECK(count("gpt2-1558m") == 1557611200);
        CHECK(count("llama3-1b") == 1235814400);
        CHECK(count("llama3-3b") == 3212749824);
        CHECK(count("llama3-8b") == 8030261248);
        CHECK(count("qwen3-0.6b") == 596049920);
        CHECK(count("qwen3-1.7b") == 1720574976);
        CHECK(count("qwen3-4b") == 4022468096);
        CHECK(count("qwen3-8b") == 8190735360);
    }

}  // TEST_SUITE
}  // namespace traincu::test
