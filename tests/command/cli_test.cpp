// What a person does with ./train, from text to a sample; and every mistake, with its exit code and its sentence.
#include "tests/support/cli.h"

#include <cmath>

namespace traincu::test {

TEST_SUITE("command line") {
    TEST_CASE("cli: text to tokens to a model to text") {
        TempDir f;
        make_corpus(f);
        Result trained = run(f, tiny_run + "--out run --max-steps 60 --lr 3e-3 --val-every 20 --checkpoint-every 30");
        REQUIRE(trained.code == 0);
        CHECK(trained.says("step    60/60"));
        CHECK(trained.says("val loss"));
        CHECK(fs::exists(f / "run/report.html"));
        CHECK(fs::exists(f / "run/step_0000000060/model.safetensors"));
        CHECK(nlohmann::json::parse(read_file(f / "run/run.json"))["options"]["max-steps"] == 60);

        Result eval = run(f, "eval --model run --data text_val_000000.bin");
        REQUIRE(eval.code == 0);
        CHECK(eval.says("bits per byte"));
        // the last validation of the run and eval agree
        std::string log = read_file(f / "run/log.jsonl"), line;
        double logged = 0;
        for (std::stringstream lines(log); std::getline(lines, line);)
            if (auto record = nlohmann::json::parse(line); record.contains("val_loss")) logged = record["val_loss"];
        CHECK(logged < 4.5);
        CHECK(std::stod(eval.out.substr(eval.out.find("loss") + 4)) == doctest::Approx(logged).epsilon(1e-4));

        Result a = run(f, "generate --model run --prompt 'In the' --tokens 30 --seed 5"),
               b = run(f, "generate --model run --prompt 'In the' --tokens 30 --seed 5");
        CHECK(a.code == 0);
        CHECK(a.out == b.out);
        CHECK(a.out.rfind("In the", 0) == 0);
        CHECK(run(f, "inspect run text_train_000000.bin").code == 0);
        CHECK(run(f, "report run --out page.html").code == 0);
        CHECK(fs::exists(f / "page.html"));
    }

    TEST_CASE("cli: an exported model, its vocabulary with it, is the run's model to every command") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out run --max-steps 20").code == 0);
        CHECK(fs::exists(f / "run/step_0000000020/tokenizer.json"));
        REQUIRE(run(f, "export --model run --out folder").code == 0);
        REQUIRE(run(f, "export --model folder --out model.bin --format llmc").code == 0);
        const std::string tail = " --prompt 'In the' --tokens 30 --seed 5 --context 64";
        const Result of_run = run(f, "generate --model run" + tail), of_folder = run(f, "generate --model folder" + tail);
        CHECK(of_run.code == 0);
        CHECK(of_folder.out == of_run.out);
        const Result unnamed = run(f, "generate --model model.bin" + tail);  // llm.c's files have no vocabulary
        CHECK(unnamed.code == 2);
        CHECK(unnamed.says("--tokenizer"));
        CHECK(run(f, "generate --model model.bin --tokenizer bytes" + tail).out == of_run.out);
        const std::string data = " --data text_val_000000.bin --seq-len 64";
        CHECK(run(f, "eval --model folder" + data).out == run(f, "eval --model run" + data).out);
        const Result inspected = run(f, "inspect folder");
        for (const char* part : {"gpt2: 2 layers", "F32", "tokenizer.json", "transformer.h.1.mlp.c_proj.weight"}) CHECK(inspected.says(part));

        fs::remove(f / "folder/tokenizer.json");
        CHECK(run(f, "generate --model folder" + tail).says("does not say how its tokens become text"));
        write_file(f / "folder/tokenizer.json", "{}");
        CHECK(run(f, "generate --model folder" + tail).code != 0);
        CHECK(run(f, "--model folder --data text_train_000000.bin -t 64 -x 1 --out tuned").code == 0);  // the shards name theirs
        CHECK(run(f, "export --model run --out folder").says("is there already"));
        CHECK(run(f, "export --model run --out folder --force").code == 0);
        CHECK(run(f, "export --model nowhere --out other").code == 2);
        CHECK(run(f, "export --model run --out other --dtype int8").code == 2);
        CHECK(run(f, "export --model run --out other --format llmc --dtype float16").says("fp16"));
        CHECK_FALSE(fs::exists(f / "other"));
    }

    TEST_CASE("cli: help, version, examples") {
        TempDir f;
        CHECK(run(f, "").says("./train tokenize"));
        CHECK(run(f, "--help").says("--total-batch-tokens"));
        CHECK(run(f, "--version").says("compiler"));
        CHECK(run(f, "--preset list").says("qwen3-0.6b"));
        for (const char* command : {"tokenize", "generate", "eval", "export", "inspect", "report"}) {
            Result help = run(f, std::string(command) + " --help");
            CHECK(help.code == 0);
            CHECK(help.out.size() > 200);
            Result wrong = run(f, std::string(command) + " --no-such-flag");
            CHECK(wrong.code == 2);
            CHECK(wrong.verdict()["code"] == 2);
        }
    }

    TEST_CASE("cli: every mistake has its exit code and names itself") {
        TempDir f;
        make_corpus(f);
        struct Mistake {
            const char* arguments;
            int code;
            const char* says;
        };
        write_file(f / "empty.bin", "");
        write_file(f / "foreign.bin", std::string(4096, 'x'));
        write_file(f / "short.bin", read_file(f / "text_train_000000.bin").substr(0, 1500));
        std::string bad = read_file(f / "text_train_000000.bin");
        bad[1024 + 2 * 77] = '\x34', bad[1024 + 2 * 77 + 1] = '\x12';  // token 77 becomes 4660
        write_file(f / "bad_token.bin", bad);
        write_file(f / "page.json", "{\"options\": {\"n-layer\": \"many\"}}");
        write_file(f / "file", "");
        const std::string tiny = "--preset tiny --threads 1 --out r1 --max-steps 1 ";
        const Mistake mistakes[] = {
            {"--n-layers 3", 2, "--n-layers"},
            {"--data text_train_000000.bin --batch-size many", 2, "'many'"},
            {"--data text_train_000000.bin --n-head 5", 2, "--n-head 5 does not divide --d-model 32"},
            {"--data text_train_000000.bin --total-batch-tokens 100", 2, "--total-batch-tokens 100"},
            {"--config page.json --data text_train_000000.bin", 2, "'many'"},
            {"--max-steps 1", 2, "--data is missing"},
            {"--data nothing.bin", 3, "nothing.bin"},
            {"--data 'no*.bin'", 3, "no*.bin"},
            {"--data empty.bin", 3, "empty.bin"},
            {"--data foreign.bin", 3, "foreign.bin"},
            {"--data short.bin", 3, "short.bin"},
            {"--data bad_token.bin --shuffle 0 --max-steps 3", 3, "4660"},
            {"--data text_train_000000.bin --vocab-size 100", 3, "text_train_000000.bin"},
            {"--data text_train_000000.bin --seq-len 100000 --batch-size 1", 3, "text_train_000000.bin"},
            {"--data text_train_000000.bin --model missing.bin", 2, "missing.bin"},
            {"--data text_train_000000.bin --model foreign.bin", 4, "foreign.bin"},
            {"--data text_train_000000.bin --resume missing_checkpoint", 4, "missing_checkpoint"},
            {"--data text_train_000000.bin --out file/run", 8, "file/run"},
        };
        for (const Mistake& m : mistakes) {
            CAPTURE(m.arguments);
            Result r = run(f, tiny + m.arguments);
            CAPTURE(r.err);
            CHECK(r.code == m.code);
            CHECK(r.err.find(m.says) != std::string::npos);
            CHECK(r.verdict()["code"] == m.code);
            CHECK(!r.verdict()["hint"].get<std::string>().empty());
            if (m.code == 2) CHECK(!fs::exists(f / "r1"));  // a mistake on the command line leaves nothing behind
            fs::remove_all(f / "r1");
        }
        Result unknown = run(f, "trian");
        CHECK(unknown.code == 2);
        CHECK(unknown.says("'trian' is no command"));
    }

    TEST_CASE("cli: a sequence longer than the position table is refused") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out run --max-steps 1").code == 0);
        Result train = run(f, tiny_run + "--model run --out other --seq-len 65 --max-steps 1");
        CHECK(train.code == 2);
        CHECK(train.says("position table"));
        CHECK(run(f, tiny_run + "--model run --out other --seq-len 32 --max-steps 1").code == 0);
        Result eval = run(f, "eval --model run --data text_val_000000.bin --seq-len 65"),
               generate = run(f, "generate --model run --context 65");
        CHECK(eval.code == 2);
        CHECK(eval.says("position table"));
        CHECK(generate.code == 2);
        CHECK(generate.says("position table"));
    }

    TEST_CASE("cli: a model with more ids than its tokenizer draws only those that are text") {
        TempDir f;
        make_corpus(f);
        Result trained = run(f, tiny_run + "--vocab-size 5000 --max-steps 2 --sample-every 1 --sample-tokens 64 --out run");
        CHECK(trained.code == 0);
        CHECK(fs::exists(f / "run/step_0000000002/manifest.json"));
        CHECK(run(f, "generate --model run --tokens 64").code == 0);
    }

    TEST_CASE("cli: --config repeats a run") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out a --max-steps 5 --lr 2e-3 --weight-decay 0.05").code == 0);
        REQUIRE(run(f, "--config a/run.json --out b").code == 0);
        CHECK(read_file(f / "a/step_0000000005/model.safetensors") == read_file(f / "b/step_0000000005/model.safetensors"));
    }

    TEST_CASE("cli: overfitting one batch drives its loss towards zero") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out run --overfit-batch --max-steps 150 --lr 1e-2 --batch-size 1").code == 0);
        std::string log = read_file(f / "run/log.jsonl"), line;
        double first = 0, last = 0;
        for (std::stringstream lines(log); std::getline(lines, line);)
            if (auto record = nlohmann::json::parse(line); record.contains("loss")) last = record["loss"], first = first ? first : last;
        CHECK(first > 5);
        CHECK(last < 0.3);
    }

    TEST_CASE("cli: weights that are not numbers are never trained on; three steps, then exit 5") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out a --max-steps 1").code == 0);
        fs::copy(f / "a/step_0000000001/model.safetensors", f / "model.safetensors");
        fs::copy(f / "a/step_0000000001/config.json", f / "config.json");
        std::string model = read_file(f / "model.safetensors");
        for (size_t i = model.size() - 4096; i < model.size(); i++) model[i] = '\xff';  // NaN
        write_file(f / "model.safetensors", model);
        Result r = run(f, tiny_run + "--model model.safetensors --out b --max-steps 9");
        CHECK(r.code == 5);
        CHECK(r.says("three steps in a row were not finite"));
        CHECK(!fs::exists(f / "b/step_0000000003"));
    }

}  // TEST_SUITE
}  // namespace traincu::test
