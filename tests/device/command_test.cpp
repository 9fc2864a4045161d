// ./train on a device, as a person runs it: its losses beside the CPU's, resume as equality of bits, the other commands, and what is
// refused. Under the runner the executable is build/train_simt, where a GPU is here it is ./train.
#include <cstdlib>

#include "tests/support/cli.h"
#include "tests/support/device.h"

namespace traincu::test {
namespace {

// Chooses the executable for a test's time.
struct DeviceBinary {
    DeviceBinary() {
        if (gpu::device_info().name == "SIMT runner") setenv("TRAIN_BINARY", fs::absolute("build/train_simt").c_str(), 0);
    }
};

const std::string run_options =
    "--preset tiny --n-layer 1 --d-ff 64 --batch-size 1 --total-batch-tokens 64 --seq-len 32 --data text_train_000000.bin --val-data "
    "text_val_000000.bin "
    "--val-tokens 32 --sample-tokens 2 --threads 1 ";

std::vector<nlohmann::json> steps_of(const std::string& log) {
    std::vector<nlohmann::json> steps;
    std::istringstream lines(read_file(log));
    for (std::string line; std::getline(lines, line);) {
        const auto record = nlohmann::json::parse(line);
        if (record.contains("loss")) steps.push_back(record);
    }
    return steps;
}

std::string weights_of(const std::string& run, int step) { return read_file(run + format("/step_%010d/model.safetensors", step)); }

}  // namespace

TEST_SUITE("device command") {
    TEST_CASE("device command: the losses of a run in fp32 are the CPU's, those in bf16 near them") {
        if (!on_gpu()) return;
        DeviceBinary binary;
        TempDir folder;
        make_corpus(folder, 60);
        for (const std::string how : {"cpu", "cuda --precision fp32", "cuda --precision bf16", "cuda --precision bf16 --adam-moments bf16"})
            REQUIRE(run(folder, run_options + "--max-steps 3 --out '" + how + "' --device " + how).code == 0);
        const auto expected = steps_of(folder / "cpu/log.jsonl"), fp32 = steps_of(folder / "cuda --precision fp32/log.jsonl"),
                   bf16 = steps_of(folder / "cuda --precision bf16/log.jsonl"),
                   moments = steps_of(folder / "cuda --precision bf16 --adam-moments bf16/log.jsonl");
        REQUIRE(expected.size() == 3);
        REQUIRE(fp32.size() == 3);
        REQUIRE(bf16.size() == 3);
        REQUIRE(moments.size() == 3);
        for (size_t i = 0; i < 3; i++) {
            const double loss = expected[i]["loss"];
            CHECK(double(fp32[i]["loss"]) == doctest::Approx(loss).epsilon(1e-5));
            CHECK(double(fp32[i]["grad_norm"]) == doctest::Approx(double(expected[i]["grad_norm"])).epsilon(1e-4));
            CHECK(double(bf16[i]["loss"]) == doctest::Approx(loss).epsilon(3e-3));
            CHECK(double(moments[i]["loss"]) == doctest::Approx(loss).epsilon(3e-3));
            CHECK(fp32[i]["tokens"] == expected[i]["tokens"]);
        }
        CHECK(bf16[2]["loss"] != fp32[2]["loss"]);
    }

    TEST_CASE("device command: a run that was stopped and resumed ends with the bits of one that was not; so does a second run") {
        if (!on_gpu()) return;
        DeviceBinary binary;
        TempDir folder;
        make_corpus(folder, 60);
        for (const std::string moments : {"fp32", "bf16"}) {
            const std::string options = run_options + "--device cuda --adam-moments " + moments + " ";
            const std::string whole = "whole_" + moments, parts = "parts_" + moments;
            REQUIRE(run(folder, options + "--max-steps 4 --out " + whole).code == 0);
            REQUIRE(run(folder, options + "--max-steps 4 --checkpoint-every 2 --max-minutes 0.00001 --out " + parts).code == 75);
            REQUIRE(run(folder, options + "--max-steps 4 --resume auto --out " + parts).code == 0);
            CHECK(weights_of(folder / whole, 4) == weights_of(folder / parts, 4));
            CHECK(!weights_of(folder / whole, 4).empty());
            const auto a = steps_of(folder / whole + "/log.jsonl"), b = steps_of(folder / parts + "/log.jsonl");
            REQUIRE(a.size() == 4);
            REQUIRE(b.size() == 4);
            for (size_t i = 0; i < 4; i++) CHECK(a[i]["loss"] == b[i]["loss"]);
            // the library's algorithms go with the checkpoint
            auto json = [&](const std::string& name) { return nlohmann::json::parse(read_file(folder / (whole + "/" + name))); };
            const bool by_library = json("run.json")["gemm_engine"].get<std::string>().rfind("cuBLASLt", 0) == 0;
            CHECK(json("step_0000000004/manifest.json")["meta"]["gemm_choices"].empty() == !by_library);
        }
        REQUIRE(run(folder, run_options + "--device cuda --max-steps 4 --out again").code == 0);
        CHECK(weights_of(folder / "again", 4) == weights_of(folder / "whole_fp32", 4));
    }

    TEST_CASE("device command: a model trained on the GPU is evaluated and continued on both devices") {
        if (!on_gpu()) return;
        DeviceBinary binary;
        TempDir folder;
        make_corpus(folder, 60);
        REQUIRE(run(folder, run_options + "--device cuda --max-steps 2 --out r").code == 0);
        double loss[2];
        for (int i = 0; i < 2; i++) {
            const std::string device = i == 0 ? "cpu" : "cuda --precision fp32";
            const Result eval = run(folder, "eval --model r --data text_val_000000.bin --max-tokens 64 --json - --device " + device);
            REQUIRE(eval.code == 0);
            loss[i] = nlohmann::json::parse(eval.out)["data"][0]["loss"];
            const Result text = run(folder, "generate --model r --prompt In --tokens 4 --temperature 0 --device " + device);
            REQUIRE(text.code == 0);
            static std::string first;
            if (i == 0) first = text.out;
            CHECK(text.out == first);
        }
        CHECK(loss[1] == doctest::Approx(loss[0]).epsilon(1e-5));
        CHECK(run(folder, run_options + "--device cpu --max-steps 3 --resume auto --out r").code == 0);  // goes on in fp32
    }

    TEST_CASE("device command: what this device cannot do, and a run that does not fit, are refused in one sentence") {
        if (!on_gpu()) return;
        DeviceBinary binary;
        TempDir folder;
        make_corpus(folder, 60);
        const Result terms = run(folder, run_options + "--device cpu --precision layercast --fp32-products bf16x3 --max-steps 1 --out r");
        CHECK(terms.code == 2);
        CHECK(terms.says("and this run computes on the CPU"));
        const Result mode = run(folder, run_options + "--device cuda --precision bf16 --fp32-products bf16x3 --max-steps 1 --out r");
        CHECK(mode.code == 2);
        CHECK(mode.says("a matter of --precision layercast"));
        const Result halves = run(folder, run_options +
                                              "--device cuda --precision layercast --precision-of fc=fp16 --fp32-products bf16x2 "
                                              "--max-steps 1 --out r");
        CHECK(halves.code == 2);
        CHECK(halves.says("not all linear weights of this run are bf16"));
        const Result library = run(folder, run_options + "--device cuda --gemm cublaslt --determinism batch --max-steps 1 --out r");
        CHECK(library.code == 2);
        const Result engine = run(folder, run_options + "--device cuda --gemm onednn --max-steps 1 --out r");
        CHECK(engine.code == 2);
        CHECK(engine.says("oneDNN"));
        const Result large = run(folder, run_options + "--device cuda --d-model 65536 --d-ff 1000000 --n-layer 64 --max-steps 1 --out r");
        CHECK(large.code == 6);
        CHECK(large.says("--recompute"));
        CHECK(!fs::exists(folder / "r/step_0000000001"));
    }

    TEST_CASE("device command: LayerCast by bf16 terms trains to the losses of fp32, and its checkpoint goes on on the CPU") {
        if (!on_gpu()) return;
        DeviceBinary binary;
        TempDir folder;
        make_corpus(folder, 60);
        auto val_loss = [&](const std::string& options) {
            const Result result = run(folder, run_options + "--max-steps 3 --lr 1e-3 " + options);
            REQUIRE(result.code == 0);
            const std::string text = result.out.substr(result.out.rfind("val loss ") + 9);
            return std::stod(text);
        };
        const double plain = val_loss("--device cuda --precision layercast --fp32-products fp32 --out plain");
        CHECK(val_loss("--device cuda --precision layercast --fp32-products bf16x3 --out terms") == doctest::Approx(plain).epsilon(1e-4));
        CHECK(val_loss("--device cpu --precision layercast --out host") == doctest::Approx(plain).epsilon(1e-4));
        CHECK(run(folder, run_options + "--device cpu --precision bf16-sr --max-steps 5 --lr 1e-3 --resume auto --out terms").code == 0);
    }
}

}  // namespace traincu::test
