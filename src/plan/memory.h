// Memory of a run: what the machine has, and whether the arenas fit before they are allocated.
#pragma once

#include <vector>

#include "src/base/arena.h"

namespace traincu {

// Memory that can still be used on this machine (MemAvailable, and the container's limit where there is one), in bytes; 0 if unknown.
int64_t available_memory();

int64_t total_bytes(const std::vector<const Arena*>& arenas);

// Error(memory) with the account by arena if they do not fit.
void check_fits(const std::vector<const Arena*>& arenas);

}  // namespace traincu
