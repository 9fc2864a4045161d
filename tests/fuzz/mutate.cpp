#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <array>

namespace traincu::fuzz {

static bool is_number(char c) { return (c >= '0' && c <= '9') || c == '-' || c == '.'; }

// The first run of characters of a kind, from `at` on and around: its place and length.
template <class Kind>
static std::pair<size_t, size_t> run_near(const std::string& text, size_t at, Kind&& kind) {
    auto begin = static_cast<size_t>(std::find_if(text.begin() + static_cast<int64_t>(at), text.end(), kind) - text.begin()), end = begin;
    while (end < text.size() && kind(text[end])) end++;
    return {begin, end - begin};
}

std::string mutated(std::string text, const std::string& other, const Random& random, uint64_t number) {
    static constexpr std::array numbers = {"0",
                                           "-1",
                                           "1",
                                           "255",
                                           "65536",
                                           "2147483648",
                                           "4294967295",
                                           "4294967296",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "18446744073709551615",
                                           "99999999999999999999",
                                           "1e308",
                                           "1e999",
                                           "-0.0",
                                           "1.5",
                                           "1e-320",
                                           "nan",
                                           ""};
    static constexpr std::array values = {"null", "true", "\"\"",  "\"x\"",       "[]",       "{}",
                                          "[0]",  "-1",   "1e300", "\"\\u0000\"", "\"../x\"", "[[[[[[[[[["};
    uint32_t draw = 0;
    auto below = [&](size_t n) { return static_cast<size_t>(random.below(std::max<size_t>(n, 1), draw++, number)); };
    const size_t at = below(text.size() + 1), length = std::min(below(below(4) == 0 ? 300 : 8) + 1, text.size() - at);
    switch (below(9)) {
        case 0:
            if (!text.empty()) text[below(text.size())] ^= static_cast<char>(1 << below(8));
            break;
        case 1:
            if (!text.empty()) text[below(text.size())] = static_cast<char>(below(256));
            break;
        case 2:
            text.erase(at, length);
            break;
        case 3:
            text.resize(at);
            break;
        case 4:
            text.insert(at, text.substr(at, length));
            break;
        case 5:
            text.insert(at, 1 + below(8), static_cast<char>(below(256)));
            break;
        case 6: {  // a part of another input
            const size_t from = below(other.size() + 1);
            text.replace(at, length, other.substr(from, below(64)));
            break;
        }
        case 7: {
            const auto [begin, size] = run_near(text, at, is_number);
            text.replace(begin, size, numbers[below(numbers.size())]);
            break;
        }
        case 8: {  // what follows a colon, up to a comma or a bracket
            const size_t colon = text.find(": ", at);
            if (colon == std::string::npos) break;
            const auto [begin, size] = run_near(text, colon + 1, [](char c) { return c != ',' && c != '}' && c != ']' && c != '\n'; });
            text.replace(begin, size, values[below(values.size())]);
            break;
        }
    }
    return text;
}

}  // namespace traincu::fuzz
