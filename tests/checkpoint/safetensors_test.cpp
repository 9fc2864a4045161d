#include <cmath>
#include <limits>

#include "src/checkpoint/safetensors.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

// A file from its parts, with nothing checked.
static std::string raw_file(uint64_t length, const std::string& header, size_t data_bytes) {
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    return text + header + std::string(data_bytes, 'x');
}
static std::string raw_file(const std::string& header, size_t data_bytes) { return raw_file(header.size(), header, data_bytes); }

TEST_SUITE("safetensors") {
    TEST_CASE("safetensors: what is written is read back, with names, shapes, offsets and metadata") {
        TempDir dir;
        std::vector<StoredTensor> tensors = {{"a", StoredType::F32, {2, 3}, 0, 0},
                                             {"emoji \xF0\x9F\x98\x80 \"quoted\"", StoredType::BF16, {5}, 0, 0},
                                             {"scalar", StoredType::I64, {}, 0, 0},
                                             {"empty", StoredType::F64, {0, 7}, 0, 0},
                                             {"half", StoredType::F16, {3}, 0, 0}};
        std::string header = safetensors_header(tensors, {{"format", "pt"}});
        CHECK(header.size() % 64 == 0);
        std::string data;
        for (int i = 0; i < 24 + 10 + 8 + 6; i++) data += static_cast<char>(i * 7);
        write_file(dir / "x.safetensors", header + data);

        SafetensorsFile file(dir / "x.safetensors");
        REQUIRE(file.tensors().size() == 5);
        CHECK(file.metadata().at("format") == "pt");
        for (const StoredTensor& tensor : tensors) {
            const StoredTensor* found = file.find(tensor.name);
            REQUIRE(found);
            CHECK(found->type == tensor.type);
            CHECK(found->shape == tensor.shape);
            CHECK(found->offset == tensor.offset);
        }
        CHECK(file.find("b") == nullptr);
        float values[6];
        file.read_f32(*file.find("a"), 0, 6, values);
        CHECK(std::memcmp(values, data.data(), 24) == 0);
        file.read_f32(*file.find("a"), 4, 2, values);
        CHECK(std::memcmp(values, data.data() + 16, 8) == 0);
        CHECK(error_of([&] { file.read_f32(*file.find("scalar"), 0, 1, values); }).code() == ExitCode::checkpoint);
    }

    TEST_CASE("safetensors: every bf16 and fp16 value is widened exactly") {
        TempDir dir;
        std::vector<StoredTensor> tensors = {{"b", StoredType::BF16, {65536}, 0, 0}, {"h", StoredType::F16, {65536}, 0, 0}};
        std::string all = safetensors_header(tensors, {});
        for (int copy = 0; copy < 2; copy++)
            for (int i = 0; i < 65536; i++) all += static_cast<char>(i & 255), all += static_cast<char>(i >> 8);
        write_file(dir / "x.safetensors", all);
        SafetensorsFile file(dir / "x.safetensors");
        std::vector<float> b(65536), h(65536);
        file.read_f32(*file.find("b"), 0, 65536, b.data());
        file.read_f32(*file.find("h"), 0, 65536, h.data());
        int wrong = 0;
        for (uint32_t i = 0; i < 65536; i++) {
            uint32_t wide;
            std::memcpy(&wide, &b[i], 4);
            wrong += wide != i << 16;
            int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
            double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
            if (exponent == 31)
                wrong += mantissa ? !std::isnan(h[i]) : !std::isinf(h[i]);
            else
                wrong += h[i] != (i >> 15 ? -magnitude : magnitude);
            wrong += std::signbit(h[i]) != (i >> 15 != 0);
        }
        CHECK(wrong == 0);
    }

    TEST_CASE("safetensors: valid corner cases are accepted") {
        TempDir dir;
        for (const auto& sound : std::vector<std::pair<std::string, size_t>>{
                 {"{}", 0},
                 {"{}      ", 0},
                 {R"({"__metadata__":{"a":"b","nul in a value":"x\u0000y"}})", 0},
                 {R"({"b":{"data_offsets":[4,8],"shape":[1],"dtype":"F32"},"a":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})", 8},
                 {R"({"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}})", 0}}) {
            write_file(dir / "x", raw_file(sound.first, sound.second));
            CHECK_NOTHROW_MESSAGE(SafetensorsFile(dir / "x"), sound.first);
        }
    }

    TEST_CASE("safetensors: every lie in a header is refused, with file and rule") {
        TempDir dir;
        const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
        auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
            return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
        };
        auto two = [](const std::string& first, const std::string& second) {
            return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + first + R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" +
                   second + "}}";
        };
        struct Lie {
            std::string content, rule;
        };
        std::string deep = R"({"a":)" + std::string(50000, '[') + std::string(50000, ']') + "}";
        std::string many_ones;
        for (int i = 0; i < 32; i++) many_ones += ",1";
        std::string many = "{";
        for (int i = 0; i < 262145; i++) many += "\"" + std::to_string(i) + "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},";
        many.back() = '}';
        const std::vector<Lie> lies = {
            {"", "fewer than the 8"},
            {"1234567", "fewer than the 8"},
            {raw_file(0, "", 0), "begin with {"},
            {raw_file(good.size() + 9, good, 8), "claims"},
            {raw_file(100000001, good, 8), "claims"},
            {raw_file(uint64_t{1} << 63, good, 8), "claims"},
            {raw_file(~uint64_t{0}, good, 8), "claims"},
            {raw_file(~uint64_t{0} - 7, good, 8), "claims"},
            {raw_file(" " + good, 8), "begin with {"},
            {raw_file("[]", 0), "begin with {"},
            {raw_file("{", 0), "JSON"},
            {raw_file(good + "x", 8), "JSON"},
            {raw_file(good + good, 8), "JSON"},
            {raw_file(good + std::string(1, '\0') + "hidden", 8), "NUL byte"},
            {raw_file("{\"\xFF\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "JSON"},
            {raw_file("{\"\xC0\x80\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "JSON"},
            {raw_file(deep, 0), "deeper than 8"},
            {raw_file(R"({"a":{"b":{"c":{}}}})", 0), "object where none"},
            {raw_file(R"({"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{}}}}}}}}})", 0), "deeper than 8"},
            {raw_file(R"({"a":3})", 0), "number where none"},
            {raw_file(R"({"a":"x"})", 0), "string where none"},
            {raw_file(R"({"a":[]})", 0), "list where none"},
            {raw_file(R"({"a":null})", 0), "null"},
            {raw_file(R"({"a":{}})", 0), "exactly dtype"},
            {raw_file(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "exactly dtype"},
            {raw_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":[1]}})", 8), "list where none"},
            {raw_file(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "twice"},
            {raw_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}})", 8),
             "twice"},
            {raw_file(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
            {raw_file(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "twice"},
            {raw_file(R"({"__metadata__":{"k":1}})", 0), "number where none"},
            {raw_file(R"({"__metadata__":{"k":{}}})", 0), "object where none"},
            {raw_file(R"({"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "empty"},
            {raw_file(R"({")" + std::string(1025, 'n') + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "longer than 1024"},
            {raw_file(R"({"a\u0000b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "NUL"},
            {raw_file(tensor("\"F31\"", "[2]", "[0,8]"), 8), "not known"},
            {raw_file(tensor("3", "[2]", "[0,8]"), 8), "number where none"},
            {raw_file(tensor("\"F32\"", "[-2]", "[0,8]"), 8), "negative"},
            {raw_file(tensor("\"F32\"", "[2.0]", "[0,8]"), 8), "whole number"},
            {raw_file(tensor("\"F32\"", "[2e0]", "[0,8]"), 8), "whole number"},
            {raw_file(tensor("\"F32\"", "[\"2\"]", "[0,8]"), 8), "string where none"},
            {raw_file(tensor("\"F32\"", "[true]", "[0,8]"), 8), "true or false"},
            {raw_file(tensor("\"F32\"", "[[2]]", "[0,8]"), 8), "list where none"},
            {raw_file(tensor("\"F32\"", "[9223372036854775808]", "[0,8]"), 8), "2^63"},
            {raw_file(tensor("\"F32\"", "[18446744073709551616]", "[0,8]"), 8), "2^63"},
            {raw_file(tensor("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0), "overflows"},
            {raw_file(tensor("\"F32\"", "[2305843009213693952,2]", "[0,8]"), 8), "overflows"},
            {raw_file(tensor("\"F32\"", "[4611686018427387904]", "[0,8]"), 8), "overflows"},
            {raw_file(tensor("\"F32\"", "[3]", "[0,8]"), 8), "by its shape"},
            {raw_file(tensor("\"F32\"", "[2]", "[0,7]"), 7), "by its shape"},
            {raw_file(tensor("\"F32\"", "[2]", "[8,0]"), 8), "beginning and an end"},
            {raw_file(tensor("\"F32\"", "[2]", "[0,8,8]"), 8), "beginning and an end"},
            {raw_file(tensor("\"F32\"", "[2]", "[0]"), 8), "beginning and an end"},
            {raw_file(tensor("\"F32\"", "[2]", "[0,-8]"), 8), "negative"},
            {raw_file(tensor("\"F32\"", "[2]", "[9223372036854775800,9223372036854775808]"), 8), "2^63"},
            {raw_file(tensor("\"F32\"", "[2]", "[9223372036854775799,9223372036854775807]"), 8), "gap"},
            {raw_file(tensor("\"F32\"", "[1" + many_ones + "]", "[0,4]"), 4), "32 numbers"},
            {raw_file(tensor("\"F32\"", "[2]", "[4,12]"), 12), "gap"},
            {raw_file(tensor("\"F32\"", "[2]", "[0,8]"), 7), "past the end"},
            {raw_file(tensor("\"F32\"", "[2]", "[0,8]"), 9), "follow the last"},
            {raw_file("{}", 1), "follow the last"},
            {raw_file(two("[0,4]", "[0,4]"), 4), "overlap"},
            {raw_file(two("[0,4]", "[2,6]"), 6), "overlap"},
            {raw_file(two("[0,4]", "[5,9]"), 9), "gap"},
            {raw_file(many, 0), "262144 tensors"},
        };
        for (const Lie& lie : lies) {
            write_file(dir / "x.safetensors", lie.content);
            Error error = error_of([&] { SafetensorsFile(dir / "x.safetensors"); });
            CHECK(error.code() == ExitCode::checkpoint);
            CHECK_MESSAGE(std::string(error.what()).find(lie.rule) != std::string::npos,
                          lie.rule << " of " << lie.content.substr(std::min<size_t>(8, lie.content.size()), 200) << "\n -> "
                                   << std::string(error.what()));
            CHECK(std::string(error.what()).find("x.safetensors") != std::string::npos);
        }
        CHECK(lies.size() >= 60);
        MESSAGE(lies.size() << " lies refused");
    }

    TEST_CASE("safetensors: a header mutated at random is refused or read in full, never a crash") {
        TempDir dir;
        std::vector<StoredTensor> tensors = {{"a", StoredType::F32, {2, 3}, 0, 0}, {"b", StoredType::BF16, {4}, 0, 0}};
        const std::string sound = safetensors_header(tensors, {{"k", "v"}}) + std::string(32, 'd');
        Random random{7, RandomStream::sampling};
        int accepted = 0, refused = 0;
        for (uint32_t round = 0; round < 3000; round++) {
            std::string text = sound;
            for (uint64_t edits = 0; edits <= random.below(3, round, 0); edits++) {
                size_t at = random.below(text.size(), round, 10 * edits + 1);
                switch (random.below(3, round, 10 * edits + 2)) {
                    case 0:
                        text[at] = static_cast<char>(random.below(256, round, 10 * edits + 3));
                        break;
                    case 1:
                        text.erase(at, 1 + random.below(5, round, 10 * edits + 3));
                        break;
                    default:
                        text.insert(at, sound.substr(random.below(sound.size(), round, 10 * edits + 3),
                                                     1 + random.below(9, round, 10 * edits + 4)));
                }
            }
            write_file(dir / "x", text);
            try {
                SafetensorsFile file(dir / "x");
                std::vector<float> values(64);
                for (const StoredTensor& tensor : file.tensors())
                    if (size_of(tensor.type) <= 4 && tensor.type != StoredType::I32)
                        file.read_f32(tensor, 0, tensor.numel(), values.data());
                accepted++;
            } catch (const Error&) {
                refused++;
            }
        }
        CHECK(accepted + refused == 3000);
        CHECK(refused > 1000);
        CHECK(accepted > 10);  // changes in the data or in a name
    }

    TEST_CASE("safetensors: a folder, a missing file and a named pipe are refused at once") {
        TempDir dir;
        CHECK(error_of([&] { SafetensorsFile(dir.path); }).code() == ExitCode::checkpoint);
        CHECK(error_of([&] { SafetensorsFile(dir / "none"); }).code() == ExitCode::checkpoint);
        REQUIRE(std::system(("mkfifo " + dir.path + "/pipe").c_str()) == 0);
        CHECK(error_of([&] { SafetensorsFile(dir / "pipe"); }).code() == ExitCode::checkpoint);
    }
}
