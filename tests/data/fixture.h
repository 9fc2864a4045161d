// Helpers of the data tests: a folder that disappears, files and shards in it, and the error that something throws.
#pragma once

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/data/pretokenizer.h"
#include "src/data/shard.h"
#include "tests/support/files.h"

namespace traincu::test {

// A shard as another program would write it, byte by byte: header words, then tokens of `width` bytes.
inline std::string raw_shard(const std::vector<uint32_t>& words, const std::vector<uint32_t>& tokens, int width) {
    std::string bytes(1024, '\0');
    auto put = [&](size_t at, uint32_t value, int count) {
        for (int i = 0; i < count; i++) bytes[at + static_cast<size_t>(i)] = static_cast<char>(value >> (8 * i));
    };
    for (size_t i = 0; i < words.size(); i++) put(4 * i, words[i], 4);
    bytes.resize(1024 + tokens.size() * static_cast<size_t>(width));
    for (size_t i = 0; i < tokens.size(); i++) put(1024 + i * static_cast<size_t>(width), tokens[i], width);
    return bytes;
}

inline std::string gpt2_shard(const std::vector<uint32_t>& tokens) {
    return raw_shard({20240520, 1, static_cast<uint32_t>(tokens.size())}, tokens, 2);
}

// A shard as our own writer makes it.
inline std::string write_shard(const std::string& path, const std::vector<int32_t>& tokens, int64_t vocab_size, int32_t eot,
                               int32_t kind = 0) {
    ShardWriter writer(path, vocab_size, eot, kind);
    writer.append(tokens);
    writer.commit();
    return path;
}

inline std::vector<int32_t> read_all(const std::string& path) {
    Shard shard(path);
    std::vector<int32_t> ids(static_cast<size_t>(shard.tokens()), -7);
    shard.read(0, shard.tokens(), ids.data());
    return ids;
}

// The Error that body throws; nothing if it throws none.
inline std::optional<Error> error_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& error) {
        return error;
    }
    return std::nullopt;
}

// True, with a line that says so, where a test of vocabulary files cannot run.
inline bool lacks_pcre2() {
    if (!Pretokenizer::built_in()) MESSAGE("skipped: built without PCRE2");
    return !Pretokenizer::built_in();
}

// Whether body throws an Error with this code, with a remedy, that says all of these words.
inline bool refuses(ExitCode code, const std::vector<std::string>& words, const std::function<void()>& body) {
    std::optional<Error> error = error_of(body);
    if (!error || error->code() != code || error->remedy().empty()) return false;
    for (const std::string& word : words)
        if (std::string(error->what()).find(word) == std::string::npos) return false;
    return true;
}

}  // namespace traincu::test
