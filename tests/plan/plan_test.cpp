// ./train plan and ./train bench as a person runs them: memory to the byte beside runs, also on several ranks; what fits, what is sent, and
// every mistake.
#include "kernels/quantize.h"
#include "src/plan/kernel_call.h"
#include "tests/plan/rates_file.h"
#include "tests/support/cli.h"

namespace traincu::test {

TEST_SUITE("plan") {
    using Json = nlohmann::json;

    // Plans with made-up times: nothing is measured.
    Json plan_of(const TempDir& f, const std::string& options) {
        if (!fs::exists(f / "rates.json")) write_rates(f / "rates.json", a_microsecond_each());
        const Result r = run(f, "plan --rates rates.json --json - " + options);
        CAPTURE(options);
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return Json::parse(r.out);
    }

    TEST_CASE("plan: memory is that of the run, to the byte") {
        TempDir f;
        make_corpus(f);
        const std::string data = "--data text_train_000000.bin ", validation = "--val-data text_val_000000.bin --val-tokens 128 ";
        const std::string llama = "--preset small-llama -b 2 -t 64 " + data;
        const std::vector<std::string> runs = {"--preset tiny " + data,
                                               "--preset tiny --packing documents " + data + validation,
                                               "--preset tiny -b 3 --total-batch-tokens 448 " + data,
                                               "--preset demo -b 2 " + data + validation,
                                               llama + "--recompute none " + validation,
                                               llama + "--recompute mlp",
                                               llama + "--recompute attention",
                                               llama + "--recompute block"};
        for (size_t i = 0; i < runs.size(); i++) {
            const std::string out = "run" + std::to_string(i);
            const Result trained = run(f, runs[i] + " --threads 1 --max-steps 1 --sample-tokens 1 --out " + out);
            CAPTURE(runs[i]);
            CAPTURE(trained.err);
            REQUIRE(trained.code == 0);
            const Json taken = Json::parse(read_file(f / out + "/run.json"))["memory"], plan = plan_of(f, runs[i]);
            CHECK(taken == plan["memory"]);
            CHECK(taken.size() == (runs[i].find("val-data") != std::string::npos ? 9 : 7));
            int64_t total = 0;
            for (const auto& [arena, bytes] : taken.items()) total += bytes.get<int64_t>();
            CHECK(plan["memory_total"] == total);
        }
        // another run starts from a model's file, and so does its plan
        const Json plan = plan_of(f, "--model run3 -t 128 -b 1 " + data);
        CHECK(plan["options"]["n-layer"] == 4);
        CHECK(plan["options"]["qk-norm"] == true);
    }

    TEST_CASE("plan: a model of 70 billion parameters is planned in little memory") {
        TempDir f;
        write_rates(f / "rates.json", a_microsecond_each());
        const Result r =
            shell(f,
                  "ulimit -v 4000000; \"$TRAIN\" plan --rates rates.json --preset llama3-8b --n-layer 80 --d-model 8192 --n-head 64 "
                  "--d-ff 28672 --total-batch-tokens 4194304 --memory 2TiB");
        CAPTURE(r.err);
        CHECK(r.code == 0);
        CHECK(r.says("70,553,706,496 parameters"));  // Llama 3 70B as published
        CHECK(r.says("1024 micro-batches of 4,096 tokens"));
        CHECK(r.says("It fits in 2.00 TiB"));
    }

    TEST_CASE("plan: what it proposes for --memory fits, and nothing larger does") {
        TempDir f;
        const std::string options = "--preset small-llama --vocab-size 257 -b 64 --total-batch-tokens 16384 --lr 0.001 ";
        const Json whole = plan_of(f, options + "--memory 64GiB")["fit"];
        CHECK(whole["fits"] == true);
        CHECK(whole["recompute"] == "none");
        CHECK(whole["batch_size"] == 64);
        for (const std::string memory : {"1GiB", "700MiB", "350MiB", "235MiB"}) {
            CAPTURE(memory);
            const Json fit = plan_of(f, options + "--memory " + memory)["fit"];
            CHECK(fit["fits"] == false);
            const std::string command = fit["command"];
            CHECK(command.starts_with("./train --preset small-llama --vocab-size 257 --lr 0.001 --batch-size "));
            CHECK(command.ends_with("--total-batch-tokens 16384"));
            const Json proposed = plan_of(f, command.substr(8));
            CHECK(proposed["memory_total"] == fit["bytes"]);
            CHECK(proposed["memory_total"] <= fit["limit"]);
            CHECK(proposed["step"]["tokens"] == 16384);
            // one micro-batch less would need more rows than fit
            const int64_t fewer = proposed["step"]["micro_batches"].get<int64_t>() - 1;
            REQUIRE(fewer > 0);
            const std::string more = " --batch-size " + std::to_string((64 + fewer - 1) / fewer);
            CHECK(plan_of(f, command.substr(8) + more)["memory_total"] > fit["limit"]);
        }
        const Json none = plan_of(f, options + "--memory 100MiB")["fit"];
        CHECK(!none.contains("command"));
        CHECK(none["smallest_need"] == plan_of(f, options + "-b 1 --recompute block")["memory_total"]);
    }

    TEST_CASE("plan: auto takes the least recomputation that leaves a tenth free") {
        TempDir f;
        const std::string options = "--preset small-llama --vocab-size 257 --recompute ";
        const int64_t none = plan_of(f, options + "none")["memory_total"], mlp = plan_of(f, options + "mlp")["memory_total"];
        REQUIRE(mlp < none);
        auto chosen = [&](int64_t memory) {
            return plan_of(f, options + "auto --memory " + std::to_string(memory))["options"]["recompute"].get<std::string>();
        };
        CHECK(chosen(none / 9 * 10 + 1000) == "none");
        CHECK(chosen(none / 9 * 10 - 1000) == "mlp");
        CHECK(chosen(mlp / 9 * 10 - 1000) == "block");  // of this shape, `attention` keeps more than `mlp`
        CHECK(chosen(1000) == "block");
    }

    TEST_CASE("plan: measured here, with a file for scripts") {
        TempDir f;
        const Result r = run(f, "plan --preset tiny --threads 1 --json plan.json");
        REQUIRE(r.code == 0);
        CHECK(r.says("tokens a day"));
        const Json plan = Json::parse(read_file(f / "plan.json"));
        CHECK(plan["step"]["seconds"] > 0);
        CHECK(plan["step"]["tok_per_s"].get<double>() == doctest::Approx(256 / plan["step"]["seconds"].get<double>()));
        CHECK(plan["machine"]["threads"] == 1);
    }

    int64_t number(const Json& object, const char* key) { return object.at(key).get<int64_t>(); }

    TEST_CASE("plan: memory of a rank and what it sends are those of ZeRO's formulas") {
        TempDir f;
        // widths of which no part needs padding: all arrays are as large for any number of ranks
        const std::string shape = "--preset tiny --n-layer 2 --d-model 128 --vocab-size 256 -t 64 -b 2 --total-batch-tokens 2048 ";
        const Json alone = plan_of(f, shape + "--ranks 1");
        CHECK(alone["sent"].is_null());
        CHECK(plan_of(f, shape) == alone);
        const int64_t W = number(alone["memory"], "weights"), G = number(alone["memory"], "gradients");
        for (const int64_t P : {2, 4, 8}) {
            CAPTURE(P);
            const Json whole = plan_of(f, shape + format("--ranks %lld --zero 0", static_cast<long long>(P))),
                       shared = plan_of(f, shape + format("--ranks %lld --zero 1", static_cast<long long>(P)));
            for (const Json* plan : {&whole, &shared}) {
                CHECK(number((*plan)["memory"], "weights") == W);
                CHECK(number((*plan)["memory"], "gradients") == G);
                CHECK(number((*plan)["step"], "tokens") == 2048);
                CHECK(number((*plan)["step"], "micro_batches") == 16 / P);
            }
            // both moments are as large as the gradients; what lies beside them (the guard, lists of ranges) takes no 4 KiB
            const int64_t saved = number(whole["memory"], "optimizer") - number(shared["memory"], "optimizer");
            CHECK(std::abs(saved - 2 * G / P * (P - 1)) < 4096);
            CHECK(std::abs(number(alone["memory"], "optimizer") - number(whole["memory"], "optimizer")) < 4096);

            CHECK(number(whole["sent"], "gradients_inside") == 2 * (P - 1) * G / P);
            CHECK(number(whole["sent"], "weights_inside") == 0);
            CHECK(number(shared["sent"], "gradients_inside") == (P - 1) * G / P);
            CHECK(number(shared["sent"], "weights_inside") == (P - 1) * W / P);
            for (const char* key : {"gradients_between", "weights_between"}) CHECK(number(shared["sent"], key) == 0);
        }
        // P - m of the other P - 1 ranks are on other nodes
        const Json nodes = plan_of(f, shape + "--ranks 8 --ranks-per-node 2 --zero 1");
        CHECK(number(nodes["sent"], "gradients_inside") == G / 8);
        CHECK(number(nodes["sent"], "gradients_between") == 6 * G / 8);
        CHECK(number(nodes["sent"], "weights_between") == 6 * W / 8);

        CHECK(run(f, "plan " + shape + "--ranks 8 --ranks-per-node 3").code == 2);
        CHECK(run(f, "plan " + shape + "--ranks 3").code == 2);  // 32 rows
        CHECK(run(f, "plan " + shape + "--ranks 0").code == 2);
        const Result proposed = run(f, "plan --rates rates.json --ranks 4 --memory 1GiB " + shape);
        CHECK(proposed.says("Memory of each of 4 ranks"));
        CHECK(proposed.says("Sent in a step by each rank"));
        CHECK(proposed.says("mpirun -np 4 ./train "));
    }

    TEST_CASE("plan: what a rank takes and sends is that of a run, to the byte") {
        TempDir f;
        if (shell(f, "command -v mpirun && ldd \"$TRAIN\" | grep libmpi").code != 0) {
            MESSAGE("skipped: no mpirun, or a build without MPI");
            return;
        }
        make_corpus(f);
        const std::string mpirun =
            "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
            "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMP_WAIT_POLICY=passive; timeout 100 mpirun --bind-to none -np ";
        // shares that are no multiple of a group, so that parts and messages are padded
        const std::string shape =
            "--preset tiny --n-layer 2 --d-model 36 --n-head 2 --d-ff 52 --device cpu "
            "--data text_train_000000.bin ";
        std::vector<std::pair<int, std::string>> runs;
        for (const char* mesh : {"--ranks-per-node 1 ", "--ranks-per-node 2 ", "--ranks-per-node 4 "})
            for (const char* how : {"--zero 0", "--zero 1", "--zero 1 --comm-quant zeropp", "--zero 1 --comm-quant sdp4bit"})
                runs.push_back({4, "-t 64 -b 4 --total-batch-tokens 2048 " + std::string(mesh) + how});
        runs.push_back({4, "-t 64 -b 4 --ranks-per-node 2 --zero 1 --quant-grads int8 --quant-weights int4"});
        for (const char* zero : {"0", "1"})
            runs.push_back({4, std::string("--ranks-per-node 2 --determinism ranks -b 1 -t 256 --total-batch-tokens 2048 --zero ") + zero});
        runs.push_back(
            {3, "-t 64 -b 4 --zero 1 --precision layercast --precision-of norm=fp32"});  // a share's bytes are not those of other ranks
        for (const auto& [ranks, options] : runs) {
            CAPTURE(ranks);
            CAPTURE(options);
            const std::string count = std::to_string(ranks);
            const Json plan = plan_of(f, shape + "--ranks " + count + " " + options);
            const Result trained = shell(f, "rm -rf run; " + mpirun + count + " \"$TRAIN\" " + shape +
                                                "--threads 1 --max-steps 1 --sample-tokens 1 --out run " + options);
            CAPTURE(trained.err);
            REQUIRE(trained.code == 0);
            const std::string log = read_file(f / "run/log.jsonl");
            Json sent = Json::parse(log.substr(0, log.find('\n'))).at("sent");
            CHECK(sent.erase("waited_ms") == 1);
            CHECK(sent == plan["sent"]);
            CHECK(number(sent, options.find("per-node 1") == std::string::npos ? "gradients_inside" : "gradients_between") > 0);
            CHECK(Json::parse(read_file(f / "run/run.json"))["memory"] == plan["memory"]);
        }
    }

    TEST_CASE("bench: a preset's calls, in the precision of this machine and in another") {
        TempDir f;
        for (const char* precision : {"", "--precision bf16"}) {
            const Result r =
                run(f, std::string("bench --preset tiny --only norm --batch-size 1 --threads 1 --json bench.json ") + precision);
            INFO(r.err);
            REQUIRE(r.code == 0);
            CHECK(Json::parse(read_file(f / "bench.json")).dump().find("\"kernel\"") != std::string::npos);
        }
    }

    TEST_CASE("bench: one operation at a shape, saved for a plan") {
        TempDir f;
        const Result r = run(f, "bench --only norm --shape 100,70 --threads 1 --save rates.json --json bench.json");
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        CHECK(r.says("norm backward"));
        const Json saved = Json::parse(read_file(f / "rates.json")), table = Json::parse(read_file(f / "bench.json"));
        CHECK(saved["rates"].size() == 2);
        CHECK(saved["threads"] == 1);
        REQUIRE(table["tables"][0]["rows"].size() == 2);
        CHECK(table["tables"][0]["rows"][0]["bytes"] == 4 * 4 * 100 * 70);  // with a branch: two reads, two writes
        const Result plan = run(f, "plan --preset tiny --rates rates.json");
        CHECK(plan.code == 2);
        CHECK(plan.says("no figure for"));

        const Result messages = run(f, "bench --only quantize --shape 4,2 --threads 1 --json messages.json");
        REQUIRE(messages.code == 0);
        const Json rows = Json::parse(read_file(f / "messages.json"))["tables"][0]["rows"];
        REQUIRE(rows.size() == 5);
        const int64_t n = 4 * 2048, first = message_bytes(n, {8, 128}), second = message_bytes(n, {4, 128}),
                      weights = message_bytes(n, {4, 2048});
        const int64_t bytes[5] = {2 * (4 * n + first), 2 * first + second, 2 * second + 4 * n, 8 * n + weights, 2 * (8 * n + weights)};
        for (size_t i = 0; i < 5; i++) CHECK(rows[i]["bytes"] == bytes[i]);
    }

    TEST_CASE("plan and bench: mistakes") {
        TempDir f;
        write_rates(f / "rates.json", a_microsecond_each());
        struct Mistake {
            const char *arguments, *says;
            int code = 2;
        };
        const Mistake mistakes[] = {
            {"plan --preset tiny --memory 12XB", "--memory must be an amount of memory, not '12XB'"},
            {"plan --preset tiny --rates nowhere.json", "nowhere.json"},
            {"plan --preset tiny --rates rates.json --precision bf16", "has times in fp32"},
            {"plan --preset tiny --device cpu --gemm cublaslt", "cuBLASLt"},
            {"plan --preset tiny --n-layers 3", "did you mean --n-layer"},
            {"plan --preset tiny --n-head 3", "does not divide"},
            {"plan --preset tiny --data nothing.bin", "nothing.bin", 3},
            {"plan --preset tiny --rates rates.json -b 1 -t 1 --total-batch-tokens 100000000", "more than a million micro-batches"},
            {"plan --preset tiny --rates rates.json -b 1048576 -t 16777216 --d-model 1048576", "2^60", 6},
            {"plan --preset tiny --rates rates.json --json no/such/folder.json", "cannot be written", 8},
            {"bench --only matmull", "no operation 'matmull'"},
            {"bench --shape 1,2", "--shape needs --only"},
            {"bench --only matmul --shape 64,x,64", "'x' is not a whole number"},
            {"bench --only matmul --shape 64,64", "give N,IC,OC,bias?"},
            {"bench --only attention --shape 100,4,2,16,64", "multiple of the context"},
            {"bench --only attention --shape 128,4,3,16,64", "NKV must divide NH"},
            {"bench --preset nothing", "nothing is not known"},
        };
        for (const Mistake& m : mistakes) {
            CAPTURE(m.arguments);
            const Result r = run(f, m.arguments);
            CAPTURE(r.err);
            CHECK(r.code == m.code);
            CHECK(r.says(m.says));
        }
        for (const char* command : {"plan", "bench"}) CHECK(run(f, std::string(command) + " --help").says("Examples:"));
    }

}  // TEST_SUITE
}  // namespace traincu::test
