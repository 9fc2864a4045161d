// Models that transformers saved: the same logits, the same fine-tuning, the same bytes out again (make_huggingface.py).
#include <cmath>
#include <cstring>
#include <map>

#include "src/base/philox.h"
#include "src/checkpoint/export.h"
#include "src/checkpoint/state.h"
#include "src/data/shard.h"
#include "tests/support/cli.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {

namespace {

const std::vector<std::string> models = {"gpt2", "llama3_scaled", "llama_bf16_sharded", "qwen2", "qwen3_fp16"};
std::string folder_of(const std::string& model) { return fs::absolute("tests/golden/huggingface/" + model).string(); }

// (T,V) of one window, as the generation computes them.
std::vector<float> logits_of(const std::string& model, const std::vector<int32_t>& tokens) {
    const ModelOnDisk found = find_model(model);
    const int64_t T = static_cast<int64_t>(tokens.size());
    WeightStore weights(found.config, Dtype::f32, false);
    ModelOptions options;
    options.config = found.config, options.max_tokens = T, options.training = false;
    ModelInstance instance(options, weights.door, "test");
    Stream stream;
    weights.allocate(stream), instance.allocate(stream);
    load_model(found, weights.table, weights.door.flat_weights());
    MicroBatch batch;
    batch.tokens = tokens, batch.targets.assign(tokens.size(), -1), batch.loss_weights.assign(tokens.size(), 0);
    for (int32_t t = 0; t < T; t++) batch.positions.push_back(t);
    batch.segments = {{0, T, 0, T, 0}};
    instance.model.load(batch, stream);
    for (int part = 0; part + 1 < instance.model.n_parts(); part++) {
        weights.door.acquire(part, stream);
        instance.model.forward(part, 0, stream);
        weights.door.release(part);
    }
    const Tensor logits = instance.model.logits_of_last(T, stream);
    std::vector<float> values;
    for (int64_t t = 0; t < T; t++) {
        const float* row = logits.slice_rows(t, 1).as<float>();
        values.insert(values.end(), row, row + found.config.vocab_size);
    }
    return values;
}

// Every tensor by name: its type and its bytes.
std::map<std::string, std::pair<std::string, std::string>> tensors_in(const std::string& folder) {
    const bool sharded = fs::exists(folder + "/model.safetensors.index.json");
    const WeightFiles files(folder + (sharded ? "/model.safetensors.index.json" : "/model.safetensors"));
    std::map<std::string, std::pair<std::string, std::string>> tensors;
    for (const SafetensorsFile& file : files.files()) {
        const std::string bytes = read_file(file.path());
        for (const StoredTensor& t : file.tensors())
            tensors[t.name] = {name_of(t.type) + shape_text(t.shape),
                               bytes.substr(static_cast<size_t>(t.offset), static_cast<size_t>(t.bytes))};
    }
    return tensors;
}

}  // namespace

TEST_SUITE("golden") {
    TEST_CASE("Hugging Face: logits are those of transformers, to 1e-4") {
        for (const std::string& model : models) {
            CAPTURE(model);
            const Golden expected(folder_of(model) + "/expected.safetensors");
            const std::vector<float> theirs = expected.get<float>("logits"),
                                     ours = logits_of(folder_of(model), expected.get<int32_t>("tokens"));
            REQUIRE(ours.size() == theirs.size());
            double worst = 0, largest = 0;
            for (size_t i = 0; i < ours.size(); i++)
                worst = std::max(worst, std::fabs(double(ours[i]) - theirs[i])), largest = std::max(largest, std::fabs(double(theirs[i])));
            CHECK(worst < 1e-4);
            CHECK(largest > 1);  // there is something to differ in
        }
    }

    TEST_CASE("Hugging Face: twenty fine-tuning steps of ./train follow PyTorch's losses to 1e-4") {
        for (const std::string& model : models) {
            CAPTURE(model);
            TempDir f;
            const Golden expected(folder_of(model) + "/expected.safetensors");
            ShardWriter shard(f / "stream.bin", 97, 96, 0);
            shard.append(expected.get<int32_t>("stream"));
            shard.commit();
            const Result r = run(f, "--model " + folder_of(model) +
                                        " --data stream.bin --shuffle 0 -b 2 -t 16 -x 20 -l 1e-2 -k constant --beta1 0.9 --beta2 0.95 "
                                        "--adam-eps 1e-8 -c 0.1 --grad-clip 1 --skip-zscore 0 --threads 1 --out run");
            REQUIRE_MESSAGE(r.code == 0, r.err);
            const std::vector<double> theirs = expected.get<double>("losses");
            size_t step = 0;
            std::string line;
            for (std::stringstream lines(read_file(f / "run/log.jsonl")); std::getline(lines, line);) {
                auto record = nlohmann::json::parse(line);
                if (!record.contains("loss")) continue;
                CAPTURE(step);
                REQUIRE(step < theirs.size());
                CHECK(std::fabs(record["loss"].get<double>() - theirs[step]) < 1e-4);
                step++;
            }
            CHECK(step == 20);
            CHECK(theirs[19] < theirs[0] - 0.3);  // the steps moved something
        }
    }

    TEST_CASE("Hugging Face: --from-scratch takes the shape and leaves the weights") {
        TempDir f;
        const Golden expected(folder_of("qwen2") + "/expected.safetensors");
        ShardWriter shard(f / "stream.bin", 97, 96, 0);
        shard.append(expected.get<int32_t>("stream"));
        shard.commit();
        const std::string common = "--data stream.bin -b 2 -t 16 -x 1 --threads 1 --model " + folder_of("qwen2");
        REQUIRE(run(f, common + " --from-scratch --out scratch").code == 0);
        REQUIRE(run(f, common + " --out tuned").code == 0);
        auto first_loss = [&](const std::string& out) {
            std::string line;
            for (std::stringstream lines(read_file(f / (out + "/log.jsonl"))); std::getline(lines, line);)
                if (auto record = nlohmann::json::parse(line); record.contains("loss")) return record["loss"].get<double>();
            return 0.0;
        };
        CHECK(std::fabs(first_loss("scratch") - std::log(97.0)) < 0.1);  // it knows nothing yet
        CHECK(first_loss("tuned") > 4.8);
        CHECK(find_model(f / "scratch").config == find_model(folder_of("qwen2")).config);
        const Result alone = run(f, "--data stream.bin --from-scratch");
        CHECK(alone.code == 2);
        CHECK(alone.says("--from-scratch needs the --model"));
    }

    TEST_CASE("Hugging Face: import and export give every tensor's bytes again, in its own type") {
        for (const std::string& model : models) {
            CAPTURE(model);
            TempDir f;
            REQUIRE(run(f, "export --model " + folder_of(model) + " --out out").code == 0);
            const auto before = tensors_in(folder_of(model)), after = tensors_in(f / "out");
            CHECK(before.size() >= 20);
            CHECK(before == after);
            CHECK(find_model(f / "out").config == find_model(folder_of(model)).config);
            // through a checkpoint of this program, which holds f32, and back to 16 bits
            const char* type = model == "qwen3_fp16" ? "float16" : model == "llama_bf16_sharded" ? "bfloat16" : "float32";
            CHECK(nlohmann::json::parse(read_file(f / "out/config.json"))["torch_dtype"] == type);
            REQUIRE(run(f, "export --model " + folder_of(model) + " --out wide --dtype float32").code == 0);
            REQUIRE(run(f, "export --model wide --out narrow --dtype " + std::string(type)).code == 0);
            CHECK(before == tensors_in(f / "narrow"));
            CHECK(read_file(f / "out/generation_config.json") == read_file(folder_of(model) + "/generation_config.json"));
            CHECK_FALSE(fs::exists(f / "out/manifest.json"));
            CHECK_FALSE(fs::exists(f / "out/expected.safetensors"));
            CHECK(run(f, "inspect out").says("parameters"));
        }
    }

    // With EXPORT_TO=FOLDER the models stay there, each with the tokens and logits that check_export.py compares with those of
    // transformers.
    TEST_CASE("Hugging Face: random models of every family, exported with the tokenizer of their checkpoint") {
        struct Case {
            const char* name;
            ModelConfig config;
            StoredType type;
        };
        ModelConfig gpt2 = gpt2_like(), llama = llama_like(), llama3 = llama3_like(), qwen2 = qwen2_like(), qwen3 = qwen3_like();
        llama3.tie_embeddings = true, qwen3.tie_embeddings = false;
        ModelConfig qwen3_next = qwen3;
        qwen3_next.attn_gate = GateKind::elementwise;
        const std::vector<Case> cases = {{"gpt2", gpt2, StoredType::F32},      {"llama", llama, StoredType::F32},
                                         {"llama3", llama3, StoredType::BF16}, {"qwen2", qwen2, StoredType::F32},
                                         {"qwen3", qwen3, StoredType::F16},    {"qwen3_next", qwen3_next, StoredType::F32}};
        const auto tokenizer = open_tokenizer("bytes");
        TempDir temporary;
        const char* kept = std::getenv("EXPORT_TO");
        const std::string folder = kept ? kept : temporary.path;
        for (const auto& [name, small, type] : cases) {
            CAPTURE(name);
            ModelConfig config = small;
            config.vocab_size = tokenizer->vocab_size();
            WeightStore weights(config, Dtype::f32, false);
            weights.allocate(Stream());
            const Tensor flat = weights.door.flat_weights();
            init_weights(flat, weights.table, 3);
            const Random random{5, RandomStream::init};
            for (const ParamRow& row : weights.table.rows)  // gains not 1, biases not 0
                for (int64_t i = 0; i < row.used_numel(); i++)
                    flat.as<float>()[row.offset + i] += static_cast<float>(0.1 * random.normal(0, static_cast<uint64_t>(row.offset + i)));
            RealIo io;
            const std::string at = folder + "/" + name;
            fs::create_directories(at);
            const nlohmann::ordered_json meta = {{"tokenizer", "bytes"}, {"bos_token_id", 256}, {"eos_token_id", 256}};
            const ModelOnDisk saved = find_model(write_checkpoint(io, at, 1, config, weights.table, flat, flat, flat, meta,
                                                                  tokenizer_files(*tokenizer, config.max_seq_len)));
            CHECK(tokenizer_of_model(saved)->kind() == tokenizer->kind());
            ExportOptions options;
            options.type = type;
            export_huggingface(io, saved, at + "/exported", options);
            CHECK(tokenizer_of_model(find_model(at + "/exported"))->kind() == tokenizer->kind());

            const std::vector<int32_t> tokens = tokenizer->encode("In the beginning was the number");
            const std::vector<float> logits = logits_of(at + "/exported", tokens);
            std::vector<StoredTensor> stored = {
                {"tokens", StoredType::I32, {static_cast<int64_t>(tokens.size())}, 0, 0},
                {"logits", StoredType::F32, {static_cast<int64_t>(tokens.size()), config.vocab_size}, 0, 0}};
            std::string file = safetensors_header(stored, {});
            file.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 4);
            file.append(reinterpret_cast<const char*>(logits.data()), logits.size() * 4);
            write_file(at + "/expected.safetensors", file);
            const std::vector<float> wide = logits_of(saved.folder, tokens);
            double worst = 0;
            for (size_t i = 0; i < wide.size(); i++) worst = std::max(worst, std::fabs(double(wide[i]) - logits[i]));
            CHECK(worst <= (type == StoredType::F32 ? 0 : 0.1));
        }
    }

    TEST_CASE("llm.c: versions 3 and 5 come out bit by bit as llm.c wrote them") {
        TempDir f;
        const std::string original = fs::absolute("tests/golden/llmc/model.bin").string();
        REQUIRE(run(f, "export --model " + original + " --out three.bin --format llmc").code == 0);
        CHECK(read_file(f / "three.bin") == read_file(original));
        REQUIRE(run(f, "export --model " + original + " --out hf --dtype float32").code == 0);
        REQUIRE(run(f, "export --model hf --out again.bin --format llmc").code == 0);
        CHECK(read_file(f / "again.bin") == read_file(original));

        // version 5: the values rounded to bf16, in the same places
        REQUIRE(run(f, "export --model hf --out five.bin --format llmc --dtype bfloat16").code == 0);
        const std::string wide = read_file(original), five = read_file(f / "five.bin");
        REQUIRE((five.size() - 1024) * 2 == wide.size() - 1024);
        int32_t header[256];
        std::memcpy(header, five.data(), sizeof header);
        CHECK(header[1] == 5);
        size_t wrong = 0;
        for (size_t i = 0; i < (five.size() - 1024) / 2; i++) {
            float value;
            uint16_t bits;
            std::memcpy(&value, wide.data() + 1024 + 4 * i, 4), std::memcpy(&bits, five.data() + 1024 + 2 * i, 2);
            const float back = bf16_to_float(bits);
            wrong += !(std::fabs(back - value) <= std::fabs(value) / 256);
        }
        CHECK(wrong == 0);
        REQUIRE(run(f, "export --model five.bin --out five_hf").code == 0);  // bf16 stays bf16
        REQUIRE(run(f, "export --model five_hf --out five_again.bin --format llmc").code == 0);
        CHECK(read_file(f / "five_again.bin") == five);
        for (const char* other : {"llama3_scaled", "qwen3_fp16"}) {
            const Result refused = run(f, "export --model " + folder_of(other) + " --out no.bin --format llmc");
            CHECK(refused.code == 2);
            CHECK(refused.says("llm.c has one architecture"));
            CHECK_FALSE(fs::exists(f / "no.bin"));
        }
    }

}  // TEST_SUITE
}  // namespace traincu::test
