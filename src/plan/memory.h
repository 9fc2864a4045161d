// Memory of a run: what the machine has, and whether the arenas fit before they are allocated.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/device/stream.h"

namespace traincu {

// Memory that can still be used on this machine (MemAvailable, and the container's limit where there is one), in bytes; 0 if unknown.
int64_t available_memory();
// The same for what arenas of the stream's device are allocated from.
int64_t available_memory(const Stream& stream);

int64_t total_bytes(const std::vector<const Arena*>& arenas);

// {"weights": bytes, ...}, as a plan and run.json tell it.
nlohmann::ordered_json memory_json(const std::vector<const Arena*>& arenas);

// "24GiB", "16G", "800MB" as bytes: K, M, G, T and KiB, MiB, ... are powers of 1024; KB, MB, ... powers of 1000; a plain number is bytes.
// `flag` asked for it. Error(usage) for anything else, or for nothing.
int64_t parse_bytes(const std::string& text, const char* flag);

// Error(memory) with the account by arena if they do not fit.
void check_fits(const std::vector<const Arena*>& arenas, int64_t available);

}  // namespace traincu
