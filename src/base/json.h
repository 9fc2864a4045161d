// JSON from files that nobody vouches for.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "src/base/error.h"

namespace traincu {

// The text as one JSON value. Error(fault) naming `path` and the byte where the text is not JSON in UTF-8, is nested deeper than
// max_depth, or names a key twice in one object. Objects are sorted by key: a hundred thousand of them cost no quadratic time.
nlohmann::json parse_untrusted(const std::string& text, int max_depth, const std::string& path, ExitCode fault);

}  // namespace traincu
