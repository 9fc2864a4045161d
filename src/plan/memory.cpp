#include "src/plan/memory.h"

#include <algorithm>
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

int64_t total_bytes(const std::vector<const Arena*>& arenas) {
    int64_t total = 0;
    for (const Arena* arena : arenas) total += arena->bytes();
    return total;
}

void check_fits(const std::vector<const Arena*>& arenas) {
    const int64_t available = available_memory();
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
