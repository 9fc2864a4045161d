// One line that rewrites itself while something goes on, on a terminal only: "hellaswag  42 %   1m03s left".
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "src/report/console.h"

namespace traincu {

class ProgressLine {
public:
    explicit ProgressLine(std::string what) : what_(std::move(what)) {}
    void operator()(double share) {
        const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
        if (!terminal_ || elapsed - printed_ < 0.2) return;
        printed_ = elapsed;
        std::fprintf(stderr, "\r%s %3.0f %%   %s left   ", what_.c_str(), 100 * share,
                     share > 0 ? duration(elapsed * (1 - share) / share).c_str() : "?");
        std::fflush(stderr);
    }
    ~ProgressLine() {
        if (printed_ > 0) std::fprintf(stderr, "\r%60s\r", "");
    }

private:
    using Clock = std::chrono::steady_clock;
    std::string what_;
    bool terminal_ = ::isatty(STDERR_FILENO) == 1;
    Clock::time_point start_ = Clock::now();
    double printed_ = 0;
};

}  // namespace traincu
