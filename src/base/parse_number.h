// Numbers from text that a person wrote.
#pragma once

#include <charconv>
#include <string>
#include <system_error>

namespace traincu {

// The whole text must be a number: "12x", "", "nan" and "0x10" are refused. value: an integer or a floating-point number.
template <class T>
bool parse_whole(const std::string& text, T& value) {
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end && !text.empty();
}

}  // namespace traincu
