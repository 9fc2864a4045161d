// Small changes to an input, drawn from a counter: the same seed makes the same change everywhere.
#pragma once

#include <string>

#include "src/base/philox.h"

namespace traincu::fuzz {

// One change: bytes flipped, cut, repeated, inserted, replaced by a part of `other`; or, since most formats are text, a number or a
// value of JSON exchanged for one that parsers stumble over.
std::string mutated(std::string text, const std::string& other, const Random& random, uint64_t number);

}  // namespace traincu::fuzz
