// Division and multiples of whole numbers, on both sides.
#pragma once

#include <cstdint>

namespace traincu {

// For n >= 0, d > 0: n / d rounded up; the next multiple of d.
constexpr int64_t div_ceil(int64_t n, int64_t d) { return (n + d - 1) / d; }
constexpr int64_t round_up(int64_t n, int64_t d) { return div_ceil(n, d) * d; }

}  // namespace traincu
