// What the targets share: a folder in memory for the files that the readers want as paths, and the verdict on an input.
#pragma once

#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "tests/fuzz/targets.h"

namespace traincu::fuzz {

namespace fs = std::filesystem;

// A folder of this process, removed when it ends: in /dev/shm where there is one, since every input becomes a file.
const std::string& scratch_folder();
std::string put_file(const std::string& name, std::string_view content);  // replaces scratch_folder()/name; returns its path
std::string content_of(const std::string& path);

inline std::string_view text_of(Bytes input) { return {reinterpret_cast<const char*>(input.data()), input.size()}; }
inline Bytes bytes_of(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

// True where body returns. False where it refuses with an Error that is fit for people: one sentence, a remedy, a documented code.
template <class Body>
bool accepted(Body&& body) {
    try {
        body();
        return true;
    } catch (const Error& error) {
        const std::string what = error.what();
        ENSURE(!what.empty() && !error.remedy().empty() && error.code() != ExitCode::done);
        ENSURE(error.json().find('\n') == std::string::npos);
        return false;
    }
}

// Numbers taken off the front of an input; zeros once it is used up.
class Taker {
public:
    explicit Taker(Bytes input) : rest_(input) {}

    template <class Number>
    Number take() {
        Number value{};
        const size_t size = std::min(sizeof value, rest_.size());
        std::memcpy(&value, rest_.data(), size);
        rest_ = rest_.subspan(size);
        return value;
    }
    Bytes rest() const { return rest_; }

private:
    Bytes rest_;
};

// The other way round, for seeds.
template <class... Numbers>
std::string packed(Numbers... numbers) {
    std::string text;
    (text.append(reinterpret_cast<const char*>(&numbers), sizeof numbers), ...);
    return text;
}

}  // namespace traincu::fuzz
