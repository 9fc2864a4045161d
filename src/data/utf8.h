// UTF-8 as vocabularies need it: is a text well formed, and if not, what stands in its place.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace traincu {

bool is_utf8(std::string_view text);

// Every piece that is not UTF-8 becomes one U+FFFD, as in Python's bytes.decode("utf-8", "replace"): a piece is the longest beginning of
// a character that goes no further, else a single byte (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts").
std::string mend_utf8(std::string_view text);

// How many bytes at the end of `text` begin a character and wait for the rest of it: 0 to 3.
size_t unfinished_utf8(std::string_view text);

}  // namespace traincu
