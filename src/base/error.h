// Errors: one exception type for everything a user can cause or meet, with a documented exit code,
// one clear sentence, and a remedy. main() catches it once, prints it, and ends the process.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

namespace traincu {

// The documented exit codes of ./train (see README, "Exit codes").
enum class ExitCode : int {
    done = 0,
    usage = 2,       // command line or configuration
    data = 3,        // token shards, text, tokenizer
    checkpoint = 4,  // no usable or no matching checkpoint
    numerical = 5,   // training diverged and was stopped
    memory = 6,      // out of host or device memory
    peer = 7,        // another rank was lost
    io = 8,          // a file could not be written or read
    locked = 9,      // another run owns the directory
    hardware = 10,   // hardware is suspected
    saved = 75,      // stopped by a signal after saving: start again to continue
};

class Error : public std::exception {
public:
    // what: what is wrong and where. remedy: what to do about it.
    Error(ExitCode code, std::string what, std::string remedy = "");

    Error& file(std::string path);  // the file concerned
    Error& offset(int64_t bytes);   // where in that file
    Error& step(int64_t optimizer_step);

    ExitCode code() const { return code_; }
    const char* what() const noexcept override { return what_.c_str(); }
    const std::string& remedy() const { return remedy_; }

    // One line of JSON with code, step, file, offset, message and hint: the last line on stderr.
    std::string json() const;

private:
    ExitCode code_;
    std::string what_, remedy_, file_;
    int64_t offset_ = -1, step_ = -1;
};

// printf into a std::string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* fmt, ...);

[[noreturn]] void contract_failed(const char* expression, const char* file, int line);

}  // namespace traincu

// A contract between functions of this program. Stays on in every build; a failure is a bug, not bad input.
#define ENSURE(condition)                                                             \
    do {                                                                              \
        if (!(condition)) ::traincu::contract_failed(#condition, __FILE__, __LINE__); \
    } while (0)
