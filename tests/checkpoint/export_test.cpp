// Exports: what is written, in which type, and what must never happen to what is there already.
#include "src/checkpoint/export.h"

#include <cmath>
#include <cstring>

#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

std::string bits_of(const WeightFiles& files, const std::string& name) {
    const WeightFiles::Place place = files.find(name);
    REQUIRE(place);
    return read_file(place.file->path()).substr(static_cast<size_t>(place.tensor->offset), static_cast<size_t>(place.tensor->bytes));
}

// Small finite weights in a checkpoint of one run.
std::string checkpoint(const TempDir& dir, const std::string& family, float first_value = 0.125f) {
    Arenas arenas(small_model(family));
    arenas.fill(1);
    for (size_t i = 0; i < arenas.params_memory.size(); i++)
        arenas.params_memory[i] = std::ldexp(static_cast<float>(i % 8191) - 4000.0f, -12);
    for (const ParamRow& row : arenas.table.rows)
        for (int64_t i = row.used_numel(); i < row.numel(); i++) arenas.params_memory[static_cast<size_t>(row.offset + i)] = 0;
    arenas.params_memory[7] = first_value;
    RealIo io;
    fs::create_directory(dir / ("run_" + family));
    return save(io, dir / ("run_" + family), 10, arenas);
}

}  // namespace

TEST_SUITE("export") {
    TEST_CASE("export: 16-bit floats round to the nearest, to the even one of two") {
        // All values that 16 bits can hold come back; a value between two neighbours goes to the nearer one.
        int wrong = 0;
        for (uint32_t bits = 0; bits < 65536; bits++) {
            const uint16_t half = static_cast<uint16_t>(bits);
            wrong += float_to_half(half_to_float(half)) != half;
            wrong += float_to_bf16(bf16_to_float(half)) != half;
        }
        CHECK(wrong == 0);
        auto between = [&](auto widen, auto narrow, uint16_t last) {
            for (uint16_t low = 0; low < last; low++) {
                const double a = widen(low), b = widen(static_cast<uint16_t>(low + 1)), middle = (a + b) / 2;
                const uint16_t even = low % 2 == 0 ? low : static_cast<uint16_t>(low + 1);
                const float m = static_cast<float>(middle);
                if (static_cast<double>(m) != middle) continue;  // bf16's smallest steps have no middle in f32
                for (float sign : {1.0f, -1.0f}) {
                    const uint16_t s = sign < 0 ? 0x8000 : 0;
                    wrong += narrow(sign * m) != (even | s);
                    wrong += narrow(sign * std::nextafter(m, -1.0f)) != (low | s);
                    wrong += narrow(sign * std::nextafter(m, INFINITY)) != ((low + 1) | s);
                }
            }
        };
        between(half_to_float, float_to_half, 0x7BFF);
        between(bf16_to_float, float_to_bf16, 0x7F7F);
        CHECK(wrong == 0);
        CHECK(float_to_half(65519.996f) == 0x7BFF);
        CHECK(float_to_half(65520.0f) == 0x7C00);
        CHECK(float_to_half(1e30f) == 0x7C00);
        CHECK(float_to_half(-1e30f) == 0xFC00);
        CHECK(float_to_half(1e-30f) == 0);
        CHECK(float_to_bf16(3.4e38f) == 0x7F80);
        for (uint32_t payload : {0x7F800001u, 0x7FC00000u, 0xFF800001u, 0x7FFFFFFFu}) {
            CHECK(std::isnan(half_to_float(float_to_half(std::bit_cast<float>(payload)))));
            CHECK(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(payload)))));
        }
#ifdef __FLT16_MANT_DIG__  // the compiler's own
        for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 65537) {
            const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
            if (std::isnan(value)) continue;
            wrong += float_to_half(value) != std::bit_cast<uint16_t>(static_cast<_Float16>(value));
        }
        CHECK(wrong == 0);
#endif
    }

    TEST_CASE("export: a folder for other programs from a checkpoint of every family") {
        for (const std::string& family : families()) {
            CAPTURE(family);
            TempDir dir;
            RealIo io;
            const ModelOnDisk model = find_model(checkpoint(dir, family));
            export_huggingface(io, model, dir / "out", {});
            CHECK(names_in(dir / "out") == std::vector<std::string>{"config.json", "model.safetensors"});
            CHECK(read_file(dir / "out/config.json") == read_file(model.folder + "/config.json"));
            const ModelOnDisk again = find_model(dir / "out");
            CHECK(again.config == model.config);
            Arenas a(model.config), b(model.config);
            load_model(model, a.table, a.params), load_model(again, b.table, b.params);
            CHECK(a.same_params(b));
            int64_t steps = 0, of = 0;
            ExportOptions narrow;
            narrow.type = StoredType::BF16, narrow.progress = [&](int64_t done, int64_t all) {
                CHECK(done == ++steps);
                of = all;
            };
            export_huggingface(io, model, dir / "narrow/", narrow);
            CHECK(steps == of);
            const WeightFiles wide_files(dir / "out/model.safetensors"), narrow_files(dir / "narrow/model.safetensors");
            CHECK(wide_files.files()[0].tensors().size() == static_cast<size_t>(of));
            for (const StoredTensor& tensor : wide_files.files()[0].tensors()) {
                const std::string wide = bits_of(wide_files, tensor.name), half = bits_of(narrow_files, tensor.name);
                REQUIRE(half.size() * 2 == wide.size());
                for (size_t i = 0; i < half.size() / 2; i++) {
                    float value;
                    uint16_t bits;
                    std::memcpy(&value, wide.data() + 4 * i, 4), std::memcpy(&bits, half.data() + 2 * i, 2);
                    REQUIRE(bits == float_to_bf16(value));
                }
            }
            CHECK(nlohmann::json::parse(read_file(dir / "narrow/config.json"))["torch_dtype"] == "bfloat16");
        }
    }

    TEST_CASE("export: a value too large for the type is refused with its tensor, and nothing is left") {
        TempDir dir;
        RealIo io;
        const ModelOnDisk model = find_model(checkpoint(dir, "gpt2", 70000.0f));
        ExportOptions options;
        options.type = StoredType::F16;
        Error error = error_of([&] { export_huggingface(io, model, dir / "out", options); });
        CHECK(error.code() == ExitCode::usage);
        CHECK(std::string(error.what()).find("transformer.wte.weight") != std::string::npos);
        CHECK(std::string(error.what()).find("70000") != std::string::npos);
        CHECK(error.remedy().find("bfloat16") != std::string::npos);
        CHECK(names_in(dir.path) == std::vector<std::string>{"run_gpt2"});
        const ModelOnDisk huge = find_model(checkpoint(dir, "llama", 3.4e38f));
        options.type = StoredType::BF16;
        CHECK(std::string(error_of([&] { export_huggingface(io, huge, dir / "out", options); }).what()).find("model.embed_tokens.weight") !=
              std::string::npos);
        const ModelOnDisk infinite = find_model(checkpoint(dir, "qwen2", INFINITY));  // what is infinite already stays so
        CHECK_NOTHROW(export_huggingface(io, infinite, dir / "out", options));
    }

    TEST_CASE("export: nothing that is there is lost without --force, and nothing but exports with it") {
        TempDir dir;
        RealIo io;
        const ModelOnDisk model = find_model(checkpoint(dir, "qwen3"));
        ExportOptions force;
        force.replace = true;
        auto refused = [&](const std::string& out, const ExportOptions& options, const char* part) {
            Error error = error_of([&] { export_huggingface(io, model, out, options); });
            CHECK(error.code() == ExitCode::usage);
            CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos, std::string(error.what()));
        };
        export_huggingface(io, model, dir / "out", {});
        const std::string first = read_file(dir / "out/config.json");
        refused(dir / "out", {}, "is there already");
        force.type = StoredType::BF16;
        export_huggingface(io, model, dir / "out", force);
        CHECK(read_file(dir / "out/config.json") != first);
        write_file(dir / "out/diary.txt", "dear diary");
        refused(dir / "out", force, "diary.txt");
        CHECK(read_file(dir / "out/diary.txt") == "dear diary");
        refused(model.folder, force, "also holds");  // a checkpoint is no export
        write_file(dir / "file", "text");
        refused(dir / "file", {}, "is there already");
        refused(dir / "file", force, "is no folder");
        for (const char* name : {"", ".", "..", "/"}) refused(name, {}, "is no name");
        CHECK(error_of([&] { export_huggingface(io, model, dir / "no/such/place", {}); }).code() == ExitCode::io);
        CHECK(names_in(dir.path) == std::vector<std::string>{"file", "out", "run_qwen3"});

        const ModelOnDisk other = find_model(checkpoint(dir, "gpt2"));
        Error wide = error_of([&] { export_llmc(io, other, dir / "model.bin", {}); });
        CHECK(std::string(wide.what()).find("feed-forward layer is 37 wide") != std::string::npos);
    }

    TEST_CASE("export: llm.c's file holds its header, its order, its padding; it replaces only its like") {
        TempDir dir;
        RealIo io;
        ModelConfig config = small_model("gpt2");
        config.d_ff = 4 * config.d_model;
        Arenas arenas(config);
        arenas.fill(9);
        fs::create_directory(dir / "run");
        const ModelOnDisk model = find_model(save(io, dir / "run", 3, arenas));
        export_llmc(io, model, dir / "model.bin", {});
        const std::string file = read_file(dir / "model.bin");
        int32_t header[8];
        std::memcpy(header, file.data(), sizeof header);
        const int32_t expected[8] = {20240326, 3, 5, 67, 2, 3, 18, 128};
        CHECK(std::memcmp(header, expected, sizeof header) == 0);
        CHECK(std::memcmp(file.data() + 1024, arenas.params_memory.data(), 67 * 18 * 4) == 0);
        CHECK(file.substr(1024 + 67 * 18 * 4, 61 * 18 * 4) == std::string(61 * 18 * 4, '\0'));
        const ModelOnDisk back = find_model(dir / "model.bin");
        Arenas loaded(back.config);
        load_model(back, loaded.table, loaded.params);
        CHECK(loaded.same_params(arenas));
        CHECK(error_of([&] { export_llmc(io, model, dir / "model.bin", {}); }).code() == ExitCode::usage);
        ExportOptions force;
        force.replace = true;
        CHECK_NOTHROW(export_llmc(io, model, dir / "model.bin", force));
        CHECK(read_file(dir / "model.bin") == file);
        write_file(dir / "notes.txt", "a text");
        CHECK(error_of([&] { export_llmc(io, model, dir / "notes.txt", force); }).code() == ExitCode::usage);
        CHECK(read_file(dir / "notes.txt") == "a text");
        CHECK(names_in(dir.path) == std::vector<std::string>{"model.bin", "notes.txt", "run"});
        force.type = StoredType::F16;
        CHECK(std::string(error_of([&] { export_llmc(io, model, dir / "half.bin", force); }).what()).find("fp16") != std::string::npos);
    }
}
