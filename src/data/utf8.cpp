#include "src/data/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace traincu {

namespace {

// What stands at the front of a text that is not empty: a whole character, the beginning of one that the text's end cuts off, or bytes
// that belong to none. The byte ranges are those of table 3-7 of the Unicode standard.
struct Front {
    enum Kind { character, cut_off, broken } kind;
    size_t bytes;
};

Front front_of(std::string_view text) {
    auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return {Front::character, 1};
    if (lead < 0xC2 || lead > 0xF4) return {Front::broken, 1};
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < length; i++) {
        if (i == text.size()) return {Front::cut_off, i};
        // The second byte excludes longer spellings than needed, surrogates, and what lies above U+10FFFF.
        const unsigned char lowest = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        const unsigned char highest = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (byte(i) < lowest || byte(i) > highest) return {Front::broken, i};
    }
    return {Front::character, length};
}

// How many bytes at the front are ASCII, in steps of eight.
size_t ascii_prefix(std::string_view text) {
    size_t n = 0;
    for (uint64_t eight; n + 8 <= text.size(); n += 8) {
        std::memcpy(&eight, text.data() + n, 8);
        if (eight & 0x8080808080808080) break;
    }
    return n;
}

}  // namespace

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        text.remove_prefix(ascii_prefix(text));
        // a few characters before the next try for a run of ASCII
        for (int i = 0; i < 8 && !text.empty(); i++) {
            const Front front = front_of(text);
            if (front.kind != Front::character) return false;
            text.remove_prefix(front.bytes);
        }
    }
    return true;
}

std::string mend_utf8(std::string_view text) {
    std::string mended;
    mended.reserve(text.size());
    while (!text.empty()) {
        const Front front = front_of(text);
        if (front.kind == Front::character)
            mended += text.substr(0, front.bytes);
        else
            mended += "\xEF\xBF\xBD";
        text.remove_prefix(front.bytes);
    }
    return mended;
}

size_t unfinished_utf8(std::string_view text) {
    for (size_t n = 1; n <= std::min<size_t>(3, text.size()); n++) {
        const Front front = front_of(text.substr(text.size() - n));
        if (front.kind == Front::cut_off && front.bytes == n) return n;
    }
    return 0;
}

}  // namespace traincu
