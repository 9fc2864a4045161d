#include "src/plan/memory.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>

namespace traincu {

int64_t available_memory() {
    int64_t bytes = 0;
    std::ifstream meminfo("/proc/meminfo");
    for (std::string word; meminfo >> word;)
        if (word == "MemAvailable:" && meminfo >> bytes) bytes *= 1024;
    int64_t limit = 0, used = 0;
    std::ifstream limit_file("/sys/fs/cgroup/memory.max"), used_file("/sys/fs/cgroup/memory.current");
    if (limit_file >> limit && used_file >> used)
        bytes = std::min(bytes, std::max<int64_t>(limit - used, 0));  // "max" fails to parse: no limit
    return bytes;
}

int64_t available_memory(const Stream& stream) {
    return stream.on_gpu() ? gpu::device_info().free_memory - stream.workspace_bytes() : available_memory();
}

int64_t total_bytes(const std::vector<const Arena*>& arenas) {
    int64_t total = 0;
    for (const Arena* arena : arenas) total += arena->bytes();
    return total;
}

nlohmann::ordered_json memory_json(const std::vector<const Arena*>& arenas) {
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    for (const Arena* arena : arenas) json[arena->name()] = arena->bytes();
    return json;
}

int64_t parse_bytes(const std::string& text, const char* flag) {
    double number = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    std::string unit(stop, end);
    int64_t base = 1024;
    if (unit.ends_with("iB"))
        unit.resize(unit.size() - 2);
    else if (unit.ends_with("B"))
        unit.pop_back(), base = 1000;
    int power = 0;
    for (size_t i = 0; i < 4; i++)
        if (unit == std::string(1, "KMGT"[i])) power = static_cast<int>(i) + 1;
    const double bytes = number * std::pow(static_cast<double>(base), power);
    const bool known_unit = unit.empty() ? text.find("iB") == std::string::npos : power > 0;
    if (error != std::errc() || !known_unit || !(bytes >= 1) || bytes > 0x1p62)
        throw Error(ExitCode::usage, format("%s must be an amount of memory, not '%s'", flag, text.c_str()),
                    "write a number with a unit, like 24GiB, 16G or 800MB");
    return static_cast<int64_t>(bytes);
}

void check_fits(const std::vector<const Arena*>& arenas, int64_t available) {
    if (available == 0 || total_bytes(arenas) <= available) return;
    std::string account;
    for (const Arena* arena : arenas)
        account += format("%s%s %s", account.empty() ? "" : ", ", arena->name().c_str(), human_bytes(arena->bytes()).c_str());
    throw Error(ExitCode::memory,
                format("the run needs %s of memory (%s), and %s are available", human_bytes(total_bytes(arenas)).c_str(), account.c_str(),
                       human_bytes(available).c_str()),
                "use a smaller --batch-size (and --total-batch-tokens for the same step), --recompute auto, a shorter --seq-len, or a "
                "smaller model");
}

}  // namespace traincu
