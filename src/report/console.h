// What a person sees on the terminal: lines and tables as strings, without colours, below 110 columns.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "src/base/arena.h"
#include "src/report/log.h"

namespace traincu {

constexpr size_t kConsoleColumns = 109;

std::string with_commas(int64_t number);  // 1,234,567
std::string short_count(double number);   // 950, 1.2M, 124M, 10.3B
std::string duration(double seconds);     // 42s, 5m02s, 3h12m, 2d03h; "?" where unknown
std::string milliseconds(double ms);      // 3.41 ms, 161 ms, 1,234 ms, 12.3 s

// step   120/2000 | loss 1.8423 | norm 0.412 | lr 9.8e-04 | 161 ms | 25,412 tok/s | mfu 41 % | eta 5m02s
// Where the machine's peak is unknown the share of the matrix products stands in mfu's place.
std::string step_line(const StepRecord& record);

// step   120 | val loss 1.7512 | 1.1020 bits/byte | hellaswag 29.55 % | 491,520 tokens
std::string validation_line(const ValidationRecord& record);

// Prints a run's steps: on a terminal every one, in place; a line that stays once a second, and for the first, the last and every
// skipped step.
class StepPrinter {
public:
    explicit StepPrinter(bool terminal) : terminal_(terminal) {}
    void step(const StepRecord& record);
    void end_line();  // before anything else is printed

private:
    bool terminal_, open_line_ = false;
    std::chrono::steady_clock::time_point last_ = {};
};

// Rows under a title, in aligned columns; a group's name is printed once; long values continue on lines of their own.
struct TableRow {
    std::string group, name, value;
};
std::string table(const std::string& title, const std::vector<TableRow>& rows);

// What each arena takes, how many tensors are in it, and the largest of them.
std::string memory_table(const std::vector<const Arena*>& arenas);

}  // namespace traincu
