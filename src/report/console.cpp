#include "src/report/console.h"

#include <cstdio>

#include <algorithm>
#include <cmath>

#include "src/base/error.h"

namespace traincu {

namespace {

std::string cut(std::string line) {
    if (line.size() > kConsoleColumns) line.replace(kConsoleColumns - 3, std::string::npos, "...");
    return line;
}

// A rate in full while it is short enough to be read at a glance.
std::string per_second(double rate) {
    if (!std::isfinite(rate) || rate < 0) return "?";
    return rate < 1e6 ? with_commas(std::llround(rate)) : short_count(rate);
}

std::string pad(const std::string& text, size_t width) { return text + std::string(width > text.size() ? width - text.size() : 0, ' '); }

}  // namespace

std::string with_commas(int64_t number) {
    std::string text = std::to_string(number);
    for (int64_t i = static_cast<int64_t>(text.size()) - 3; i > (number < 0 ? 1 : 0); i -= 3) text.insert(static_cast<size_t>(i), ",");
    return text;
}

std::string short_count(double number) {
    if (!std::isfinite(number)) return "?";
    const char* unit[] = {"", "k", "M", "B", "T"};
    int u = 0;
    // 999.5 would be printed as 1000
    while (u < 4 && std::abs(number) >= 999.5) number /= 1000, u++;
    return format(u == 0 || std::abs(number) >= 99.95 ? "%.0f%s" : "%.1f%s", number, unit[u]);
}

std::string duration(double seconds) {
    if (!(seconds >= 0 && seconds < 1e15)) return "?";
    int64_t s = std::llround(seconds), m = s / 60, h = m / 60;
    if (s < 60) return format("%ds", static_cast<int>(s));
    if (m < 60) return format("%dm%02ds", static_cast<int>(m), static_cast<int>(s % 60));
    if (h < 24) return format("%dh%02dm", static_cast<int>(h), static_cast<int>(m % 60));
    return format("%lldd%02dh", static_cast<long long>(h / 24), static_cast<int>(h % 24));
}

std::string milliseconds(double ms) {
    if (!(ms >= 0 && ms < 1e15)) return "? ms";
    if (ms < 9.995) return format("%.2f ms", ms);
    if (ms < 9999.5) return with_commas(std::llround(ms)) + " ms";
    return format("%.1f s", ms / 1000);
}

std::string step_line(const StepRecord& r) {
    std::string line = format("step %5lld", static_cast<long long>(r.step));
    if (r.max_steps > 0) line += format("/%lld", static_cast<long long>(r.max_steps));
    line += format(" | loss %.4f | norm %.3f | lr %.1e | ", r.loss, r.grad_norm, r.lr);
    line += milliseconds(r.ms) + " | " + per_second(r.tok_per_s) + " tok/s";
    if (r.mfu >= 0)
        line += format(" | mfu %.0f %%", 100 * r.mfu);
    else if (r.gemm_fraction >= 0)
        line += format(" | matmul %.0f %%", 100 * r.gemm_fraction);
    if (!r.skipped.empty())
        line += " | skipped: " + r.skipped;
    else if (r.eta_seconds >= 0)
        line += " | eta " + duration(r.eta_seconds);
    return cut(line);
}

std::string validation_line(const ValidationRecord& r) {
    std::string line = format("step %5lld | val loss %.4f", static_cast<long long>(r.step), r.val_loss);
    if (r.bits_per_byte >= 0) line += format(" | %.4f bits/byte", r.bits_per_byte);
    if (r.hellaswag >= 0) line += format(" | hellaswag %.2f %%", 100 * r.hellaswag);
    if (r.tokens > 0) line += " | " + with_commas(r.tokens) + " tokens";
    return cut(line);
}

std::string table(const std::string& title, const std::vector<TableRow>& rows) {
    size_t group_width = 0, name_width = 0;
    for (const TableRow& row : rows)
        group_width = std::max(group_width, row.group.size()), name_width = std::max(name_width, row.name.size());
    size_t group_column = group_width > 0 ? group_width + 2 : 0;
    size_t indent = 2 + group_column + name_width + 2;
    size_t room = indent + 20 < kConsoleColumns ? kConsoleColumns - indent : 20;

    std::string text = title + "\n";
    for (size_t i = 0; i < rows.size(); i++) {
        const TableRow& row = rows[i];
        bool new_group = i == 0 || row.group != rows[i - 1].group;
        std::string line = "  " + pad(new_group ? row.group : "", group_column) + pad(row.name, name_width) + "  ";
        size_t at = 0;
        do {
            line += row.value.substr(at, room);
            text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
            line.assign(indent, ' ');
            at += room;
        } while (at < row.value.size());
    }
    return text;
}

std::string memory_table(const std::vector<const Arena*>& arenas) {
    std::vector<TableRow> rows;
    int64_t total = 0;
    for (const Arena* arena : arenas) {
        total += arena->bytes();
        std::string value = format("%11s", human_bytes(arena->bytes()).c_str());
        auto largest = std::max_element(arena->rows().begin(), arena->rows().end(), [](auto& a, auto& b) { return a.bytes < b.bytes; });
        if (largest != arena->rows().end())
            value += format("   %4zu tensors, largest %s (%s)", arena->rows().size(), largest->name.c_str(),
                            human_bytes(largest->bytes).c_str());
        rows.push_back({"", arena->name(), value});
    }
    rows.push_back({"", "total", format("%11s", human_bytes(total).c_str())});
    return table("Memory", rows);
}

void StepPrinter::step(const StepRecord& record) {
    const auto now = std::chrono::steady_clock::now();
    const bool stays =
        now - last_ >= std::chrono::seconds(1) || record.step <= 1 || record.step == record.max_steps || !record.skipped.empty();
    if (!terminal_ && !stays) return;
    std::printf("%s%s%s", terminal_ ? "\r\033[K" : "", step_line(record).c_str(), stays ? "\n" : "");
    std::fflush(stdout);
    open_line_ = !stays;
    if (stays) last_ = now;
}

void StepPrinter::end_line() {
    if (open_line_) std::printf("\n");
    open_line_ = false;
}

}  // namespace traincu
