// Attention biases from files: what the factors say, and what is refused.
#include "src/command/attention_bias.h"

#include <cmath>

#include "src/base/philox.h"
#include "src/checkpoint/safetensors.h"
#include "src/model/transformer.h"
#include "tests/support/cli.h"

namespace traincu::test {

namespace {

void write_tensor(const std::string& path, const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    std::vector<StoredTensor> tensors = {{name, StoredType::F32, shape, 0, 0}};
    const std::string header = safetensors_header(tensors, {});
    write_file(path, header + std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
}

ModelConfig small() {
    ModelConfig c;
    c.n_layer = 2, c.n_head = 6, c.n_kv_head = 2, c.head_size = 32, c.max_seq_len = 40, c.position = PositionKind::none;
    return c;
}

// sum_r q[i,h,r] k[j,h/group,r]
double product(const FixedBias& bias, const ModelConfig& c, int64_t layer, int64_t h, int64_t i, int64_t j) {
    const FixedBias::Factors& f = bias.layers[bias.layers.size() > 1 ? static_cast<size_t>(layer) : 0];
    const int64_t group = c.n_head / c.n_kv_head, R = bias.rank;
    double sum = 0;
    for (int64_t r = 0; r < R; r++)
        sum += static_cast<double>(f.q[static_cast<size_t>((i * c.n_head + h) * R + r)]) *
               static_cast<double>(f.k[static_cast<size_t>((j * c.n_kv_head + h / group) * R + r)]);
    return sum;
}

// A smooth bias that differs by layer and head, and below the diagonal from above it.
double smooth(int64_t layer, int64_t h, int64_t i, int64_t j) {
    const double x = static_cast<double>(i) / 45, y = static_cast<double>(j) / 45;
    return static_cast<double>(layer + 1) * std::exp(-x * y * static_cast<double>(h + 1)) - x * static_cast<double>(h % 3) + 0.5 * y * y;
}

std::string refusal(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& error) {
        CHECK(error.code() == ExitCode::usage);
        CHECK(!error.remedy().empty());
        return error.what();
    }
    return "";
}

}  // namespace

TEST_SUITE("command line") {
    TEST_CASE("attention bias: the factors of a matrix are near it, for each layer and head, of every shape a file may have") {
        TempDir dir;
        const ModelConfig c = small();
        const int64_t N = 45, L = c.n_layer, NH = c.n_head;  // larger than the model needs: the leading block counts
        for (int rank : {2, 3, 4}) {
            std::vector<float> values;
            for (int64_t layer = 0; layer < (rank == 4 ? L : 1); layer++)
                for (int64_t h = 0; h < (rank >= 3 ? NH : 1); h++)
                    for (int64_t i = 0; i < N; i++)
                        for (int64_t j = 0; j < N; j++) values.push_back(static_cast<float>(smooth(layer, h, i, j)));
            const std::vector<int64_t> shape = rank == 2   ? std::vector<int64_t>{N, N}
                                               : rank == 3 ? std::vector<int64_t>{NH, N, N}
                                                           : std::vector<int64_t>{L, NH, N, N};
            write_tensor(dir / "b", "bias", shape, values);
            const FixedBias bias = bias_of_matrix(dir / "b", c, 0.999999);
            CHECK(bias.rank >= 2);
            CHECK(bias.rank <= 12);
            CHECK(static_cast<int64_t>(bias.layers.size()) == (rank == 4 ? L : 1));
            for (int64_t layer = 0; layer < L; layer++)
                for (int64_t h = 0; h < NH; h++) {
                    double squares = 0, energy = 0;
                    for (int64_t i = 0; i < c.max_seq_len; i++)
                        for (int64_t j = 0; j < c.max_seq_len; j++) {
                            const double exact = smooth(rank == 4 ? layer : 0, rank >= 3 ? h : 0, i, j),
                                         off = exact - product(bias, c, layer, h, i, j);
                            squares += off * off, energy += exact * exact;
                        }
                    CHECK(std::sqrt(squares / energy) < 5e-3);  // the share is of a group's energy, of which one head may have little
                }
            const FixedBias rough = bias_of_matrix(dir / "b", c, 0.8);
            CHECK(rough.rank < bias.rank);
            CHECK(bias.report.find(format("rank %lld", static_cast<long long>(bias.rank))) != std::string::npos);
        }
    }

    TEST_CASE("attention bias: distances of coordinates are exact in bf16, up to a constant for each query") {
        TempDir dir;
        const ModelConfig c = small();
        const Random random{4, RandomStream::init};
        std::vector<float> x(40 * 8);
        for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(random.normal(0, i) + 20);  // far from the origin: it is centred
        write_tensor(dir / "c", "coordinates", {40, 8}, x);
        const FixedBias bias = bias_of_coordinates(dir / "c", c);
        CHECK(bias.rank == 27);
        for (const auto* list : {&bias.layers[0].q, &bias.layers[0].k})
            for (float value : *list) REQUIRE(bf16_to_float(float_to_bf16(value)) == value);
        const std::vector<double> slopes = alibi_slopes(c.n_head);
        auto dense = [&](int64_t h, int64_t i, int64_t j) {
            double square = 0;
            for (int64_t d = 0; d < 8; d++) {
                const double off =
                    static_cast<double>(x[static_cast<size_t>(i * 8 + d)]) - static_cast<double>(x[static_cast<size_t>(j * 8 + d)]);
                square += off * off;
            }
            return -slopes[static_cast<size_t>(h)] * square;
        };
        for (int64_t h = 0; h < c.n_head; h++)
            for (int64_t i = 0; i < 40; i++) {
                const double constant = product(bias, c, 1, h, i, i) - dense(h, i, i);
                double worst = 0;
                for (int64_t j = 0; j <= i; j++)
                    worst = std::max(worst, std::fabs(product(bias, c, 1, h, i, j) - constant - dense(h, i, j)));
                CHECK(worst <
                      slopes[static_cast<size_t>(h)] * 40 * 0x1p-14);  // squares up to about 40; a plain bf16 product errs by 2^-8 of it
            }
    }

    TEST_CASE("attention bias: what is wrong with a file is said in a sentence") {
        TempDir dir;
        const ModelConfig c = small();
        std::vector<float> square(40 * 40, 0.5f), noise(40 * 40);
        const Random random{4, RandomStream::init};
        for (size_t i = 0; i < noise.size(); i++) noise[i] = static_cast<float>(random.normal(0, i));
        auto matrix = [&](const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
            write_tensor(dir / "f", name, shape, values);
            return refusal([&] { bias_of_matrix(dir / "f", c, 0.999); });
        };
        CHECK(matrix("bias", {40, 40}, square) == "");
        CHECK(matrix("other", {40, 40}, square).find("has no tensor \"bias\"") != std::string::npos);
        CHECK(matrix("bias", {1600}, square).find("has shape (1600)") != std::string::npos);
        CHECK(matrix("bias", {20, 80}, square).find("has shape (20, 80)") != std::string::npos);
        CHECK(matrix("bias", {1, 40, 40}, square).find("has shape (1, 40, 40)") != std::string::npos);
        CHECK(matrix("bias", {39, 39}, std::vector<float>(39 * 39)).find("has shape (39, 39)") != std::string::npos);
        CHECK(matrix("bias", {40, 40}, noise).find("more than the head size 32") != std::string::npos);
        square[77] = NAN;
        CHECK(matrix("bias", {40, 40}, square).find("holds nan at element 77") != std::string::npos);
        auto coordinates = [&](const std::vector<int64_t>& shape) {
            write_tensor(dir / "f", "coordinates", shape, std::vector<float>(static_cast<size_t>(shape[0] * shape[1])));
            return refusal([&] { bias_of_coordinates(dir / "f", c); });
        };
        CHECK(coordinates({40, 3}) == "");
        CHECK(coordinates({39, 3}).find("has shape (39, 3)") != std::string::npos);
        CHECK(coordinates({40, 9}).find("has shape (40, 9)") != std::string::npos);
    }

    TEST_CASE("attention: a gated ALiBi run trains, resumes to the same bits, generates, is exported and read back") {
        TempDir f;
        make_corpus(f);
        const std::string common = tiny_run + "--attn-gate headwise --attn-bias alibi --position none --window 40 --attn-sinks --keep 0 ";
        REQUIRE(run(f, common + "--max-steps 12 --checkpoint-every 6 --out whole").code == 0);
        REQUIRE(run(f, common + "--max-steps 12 --out again --resume whole/step_0000000006").code == 0);
        CHECK(read_file(f / "whole/step_0000000012/model.safetensors") == read_file(f / "again/step_0000000012/model.safetensors"));
        CHECK(run(f, "generate --model whole --tokens 80 --temperature 0").code == 0);
        CHECK(run(f, "export --model whole --out exported").out.find("traincu") != std::string::npos);
        const std::string evaluate = " --data text_val_000000.bin --seq-len 32 --threads 1";
        const Result there = run(f, "eval --model whole" + evaluate), back = run(f, "eval --model exported" + evaluate);
        CHECK(there.code == 0);
        CHECK(there.out.substr(there.out.find("loss")) == back.out.substr(back.out.find("loss")));
        CHECK(run(f, tiny_run + "--model whole --attn-gate elementwise --max-steps 1 --out x").says("contradicts the model whole"));
        CHECK(run(f, common + "--window 39 --max-steps 14 --out again --resume auto").says("--window: 40 in the checkpoint, 39 now"));
        CHECK(run(f, tiny_run + "--device cpu --attention-kernel hopper --max-steps 1 --out x").says("computes on the CPU"));
    }

    TEST_CASE("attention bias: a checkpoint needs the file no more") {
        TempDir f;
        make_corpus(f);
        std::vector<float> x(64 * 2);
        for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 7);
        write_tensor(f / "c.safetensors", "coordinates", {64, 2}, x);
        const std::string common = tiny_run + "--position none ";
        REQUIRE(run(f, common + "--attn-bias spatial:c.safetensors --max-steps 4 --out a").code == 0);
        fs::remove(f / "c.safetensors");
        REQUIRE(run(f, "--config a/run.json --resume auto --max-steps 8").code == 0);
        CHECK(read_file(f / "a/run.json").find("\"fixed:9\"") != std::string::npos);
        CHECK(run(f, "generate --model a --tokens 9").code == 0);
        CHECK(run(f, common + "--model a --max-steps 1 --out b").code == 0);
        CHECK(run(f, common + "--model a --from-scratch --max-steps 1 --out c").code == 0);
        CHECK(run(f, "--config a/run.json --out d").says("there is no --model"));
        CHECK(run(f, "generate --model a --context 65").says("longer than the model's tables of attention's bias"));
    }

}  // TEST_SUITE
}  // namespace traincu::test
