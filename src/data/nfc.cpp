#include "src/data/nfc.h"

#include <algorithm>
#include <array>
#include <vector>

#ifdef TRAIN_HAS_UTF8PROC
#include <utf8proc.h>
#endif

#include "src/base/error.h"

namespace traincu {

namespace {

struct Range {
    char32_t first, last;
};

template <size_t N>
bool is_in(const std::array<Range, N>& ranges, char32_t c) {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t value, const Range& r) { return value < r.first; });
    return after != ranges.begin() && c <= std::prev(after)->last;
}

constexpr std::array<Range, 17> quiet = {{{0x0000, 0x02FF},
                                          {0x0388, 0x03FF},
                                          {0x0400, 0x0482},
                                          {0x048A, 0x0560},
                                          {0x05D0, 0x05EA},
                                          {0x0620, 0x064A},
                                          {0x0E01, 0x0E30},
                                          {0x2010, 0x2027},
                                          {0x2030, 0x205E},
                                          {0x20A0, 0x20BF},
                                          {0x2190, 0x22FF},
                                          {0x2500, 0x27BF},
                                          {0x3001, 0x3029},
                                          {0x3041, 0x3096},
                                          {0x4E00, 0x9FFF},
                                          {0xAC00, 0xD7A3},
                                          {0x1F300, 0x1FAFF}}};

// What the library does not know of: marks that came after Unicode 9 up to 16, and three characters that marks are joined to.
constexpr std::array<Range, 60> unknown = {
    {{0x07FD, 0x07FD},   {0x0897, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},   {0x0C3C, 0x0C3C},   {0x0CF3, 0x0CF3},
     {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x0ECE, 0x0ECE},   {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
     {0xA82C, 0xA82C},   {0x105D2, 0x105D2}, {0x105DA, 0x105DA}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
     {0x10EFC, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x11241, 0x11241}, {0x1133B, 0x1133B},
     {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2},
     {0x113E1, 0x113E2}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935}, {0x1193D, 0x1193E},
     {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
     {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F00, 0x11F01}, {0x11F03, 0x11F03}, {0x11F34, 0x11F3A}, {0x11F3E, 0x11F42},
     {0x11F5A, 0x11F5A}, {0x13440, 0x13440}, {0x13447, 0x13455}, {0x1611E, 0x1612F}, {0x16D67, 0x16D67}, {0x16FF0, 0x16FF1},
     {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}}};

// The character that begins at text[i]; bytes: how many it takes.
char32_t decode(std::string_view text, size_t i, size_t& bytes) {
    auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
    auto tail = [&](size_t k) { return static_cast<char32_t>(byte(k) & 0x3F); };
    bytes = byte(0) < 0x80 ? 1 : byte(0) < 0xE0 ? 2 : byte(0) < 0xF0 ? 3 : 4;
    if (bytes == 1) return byte(0);
    if (bytes == 2) return static_cast<char32_t>(byte(0) & 0x1F) << 6 | tail(1);
    if (bytes == 3) return static_cast<char32_t>(byte(0) & 0x0F) << 12 | tail(1) << 6 | tail(2);
    return static_cast<char32_t>(byte(0) & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}

#ifdef TRAIN_HAS_UTF8PROC

// utf8proc in three steps, because its own second one is quadratic in the marks that stand together.
void append_composed(std::string_view text, std::string& out) {
    constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    std::vector<utf8proc_int32_t> points;
    points.reserve(text.size());
    for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
        std::array<utf8proc_int32_t, 16> parts;
        int boundary = 0;
        const auto n =
            utf8proc_decompose_char(static_cast<utf8proc_int32_t>(decode(text, i, bytes)), parts.data(), parts.size(), options, &boundary);
        ENSURE(n >= 0 && n <= static_cast<utf8proc_ssize_t>(parts.size()));
        points.insert(points.end(), parts.begin(), parts.begin() + n);
    }
    auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
    for (auto first = points.begin(), last = first; first != points.end(); first = last) {
        last = std::find_if(first, points.end(), [&](utf8proc_int32_t c) { return combining_class(c) == 0; });
        if (last - first > 1)
            std::stable_sort(first, last, [&](utf8proc_int32_t a, utf8proc_int32_t b) { return combining_class(a) < combining_class(b); });
        if (last != points.end()) last++;
    }
    const auto n = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), options);
    ENSURE(n >= 0);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        std::array<utf8proc_uint8_t, 4> bytes;
        const auto length = utf8proc_encode_char(points[static_cast<size_t>(i)], bytes.data());
        out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(length));
    }
}

#else

void append_composed(std::string_view, std::string&) {
    throw Error(ExitCode::usage, "this vocabulary needs Unicode normalization (NFC), and ./train was built without utf8proc",
                "install the package libutf8proc-dev (sh scripts/setup.sh) and run make again");
}

#endif

}  // namespace

#ifdef TRAIN_HAS_UTF8PROC
bool nfc_built_in() { return true; }
#else
bool nfc_built_in() { return false; }
#endif

bool nfc_is_quiet(char32_t character) { return is_in(quiet, character); }

std::string nfc(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    size_t done = 0, base = 0;  // `base`: where the last quiet character begins, to which what follows may be joined
    for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
        // below U+0300, that is below the byte CC, all is quiet
        if (static_cast<unsigned char>(text[i]) < 0xCC || nfc_is_quiet(decode(text, i, bytes))) {
            base = i;
            bytes = static_cast<unsigned char>(text[i]) < 0x80 ? 1 : static_cast<unsigned char>(text[i]) < 0xCC ? 2 : bytes;
            continue;
        }
        out += text.substr(done, base - done);
        size_t begin = base, end = i;
        while (end < text.size()) {
            const char32_t c = decode(text, end, bytes);
            if (nfc_is_quiet(c)) break;
            if (is_in(unknown, c)) {
                append_composed(text.substr(begin, end - begin), out);
                out += text.substr(end, bytes);
                begin = end + bytes;
            }
            end += bytes;
        }
        append_composed(text.substr(begin, end - begin), out);
        done = base = end;
        i = end, bytes = 0;
    }
    return out += text.substr(done);
}

}  // namespace traincu
