#include "src/data/pretokenizer.h"

#ifdef TRAIN_HAS_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "src/base/error.h"
#include "src/data/utf8.h"

namespace traincu {

#ifndef TRAIN_HAS_PCRE2

struct Pretokenizer::Program {};
bool Pretokenizer::built_in() { return false; }
Pretokenizer Pretokenizer::for_pattern(const std::string&) {
    throw Error(ExitCode::usage, "this vocabulary splits text by a regular expression, and ./train was built without PCRE2",
                "install the package libpcre2-dev (sh scripts/setup.sh) and run make again");
}
void Pretokenizer::split(std::string_view, const std::function<void(std::string_view)>&) const { ENSURE(built_in()); }

#else

bool Pretokenizer::built_in() { return true; }

namespace {

Error bad_pattern(const std::string& pattern, const std::string& what) {
    std::string shown = pattern.substr(0, 300);
    for (char& c : shown)
        if (static_cast<unsigned char>(c) < 0x20) c = '?';
    return Error(ExitCode::data, "the pre-tokenizer's pattern " + mend_utf8(shown) + " " + what,
                 "use a vocabulary with the pattern of GPT-2, Llama 3 or Qwen");
}

// What Unicode 15 and 16 added to a category since Unicode 14, as the inside of a class.
constexpr const char* young_letters =
    R"(\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}\x{10D6F}-\x{10D85})"
    R"(\x{10EC2}-\x{10EC4}\x{1123F}-\x{11240}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7}\x{113D1})"
    R"(\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02}\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F}\x{13441}-\x{13446})"
    R"(\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1DF25}-\x{1DF2A})"
    R"(\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739}\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";
constexpr const char* young_numbers =
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59}\x{16130}-\x{16139}\x{16D70}-\x{16D79})"
    R"(\x{1CCF0}-\x{1CCF9}\x{1D2C0}-\x{1D2D3}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})";
constexpr const char* young_marks =
    R"(\x{897}\x{CF3}\x{ECE}\x{10D69}-\x{10D6D}\x{10EFC}-\x{10EFF}\x{11241}\x{113B8}-\x{113C0}\x{113C2}\x{113C5})"
    R"(\x{113C7}-\x{113CA}\x{113CC}-\x{113D0}\x{113D2}\x{113E1}-\x{113E2}\x{11F00}-\x{11F01}\x{11F03}\x{11F34}-\x{11F3A})"
    R"(\x{11F3E}-\x{11F42}\x{11F5A}\x{13440}\x{13447}-\x{13455}\x{1611E}-\x{1612F}\x{1E08F}\x{1E4EC}-\x{1E4EF})"
    R"(\x{1E5EE}-\x{1E5EF})";

// Rewrites a pattern for PCRE2, from left to right.
class Translation {
public:
    explicit Translation(const std::string& pattern) : in_(pattern) {
        while (at_ < in_.size()) item();
        if (ignores_case_.size() > 1) refuse("an open (");
    }
    const std::string& text() const { return out_; }

private:
    // White_Space, the inside of a class.
    static constexpr const char* white_space =
        R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

    [[noreturn]] void refuse(const std::string& what) const {
        throw bad_pattern(in_, format("holds %s at byte %zu, which this program does not read", what.c_str(), at_));
    }
    char peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
    bool next_is(std::string_view text) const { return in_.compare(at_, text.size(), text) == 0; }
    void copy(size_t bytes) {
        out_ += in_.substr(at_, bytes);
        at_ += bytes;
    }

    void item() {
        const char c = peek();
        if (c == '\0') refuse("a NUL byte");
        if (c == '\\') return escape(false);
        if (c == '[') return character_class();
        if (c == '(') return open_group();
        if (c == '{') return interval();
        if (c == '^' || c == '$' || c == '.') refuse(std::string("the sign ") + c);
        if (c == ')') {
            if (ignores_case_.size() == 1) refuse("a ) without its (");
            ignores_case_.pop_back();
        }
        copy(1);
    }

    void open_group() {
        bool ignores_case = ignores_case_.back();
        for (std::string_view kind : {"(?:", "(?=", "(?!", "(?i:"})
            if (next_is(kind)) {
                ignores_case_.push_back(ignores_case || kind == "(?i:");
                return copy(kind.size());
            }
        if (peek(1) == '?' || peek(1) == '*') refuse("a group that begins with " + in_.substr(at_, 3));
        ignores_case_.push_back(ignores_case);
        copy(1);
    }

    // {n}, {n,} and {n,m}; a + or ? behind one is possessive or lazy in PCRE2 only.
    void interval() {
        const size_t end = in_.find('}', at_);
        const std::string inside = end == std::string::npos ? "" : in_.substr(at_ + 1, end - at_ - 1);
        const bool plain = !inside.empty() && inside[0] >= '0' && inside[0] <= '9' && std::count(inside.begin(), inside.end(), ',') <= 1 &&
                           inside.find_first_not_of("0123456789,") == std::string::npos;
        if (!plain) refuse("a { that begins no {n}, {n,} or {n,m}");
        copy(inside.size() + 2);
        if (peek() == '+' || peek() == '?') refuse(std::string("the sign ") + peek() + " behind {" + inside + "}");
    }

    void escape(bool in_class) {
        const char c = peek(1);
        if (c == 'p' || c == 'P') return property(in_class);
        if (c == 's' || (c == 'S' && !in_class)) {
            at_ += 2;
            if (in_class && peek() == '-' && peek(1) != ']') refuse("a range that begins with \\s");
            out_ += in_class ? std::string(white_space) : (c == 's' ? "[" : "[^") + std::string(white_space) + "]";
            return;
        }
        const bool control = c == 'r' || c == 'n' || c == 't' || c == 'f';
        if (!control && !(c > ' ' && c < 0x7F && !std::isalnum(static_cast<unsigned char>(c)))) refuse(std::string("the escape \\") + c);
        copy(2);
    }

    // A category with what PCRE2 may not know yet. Inside (?i:) PCRE2 would widen it.
    void property(bool in_class) {
        const std::string name = in_.substr(at_, 5);
        const bool letters = name == R"(\p{L})", numbers = name == R"(\p{N})", marks = name == R"(\p{M})";
        if (!letters && !numbers && !marks) refuse("a \\p or \\P that is none of \\p{L}, \\p{N} and \\p{M}");
        if (ignores_case_.back()) refuse("a category inside (?i:)");
        at_ += name.size();
        if (in_class && peek() == '-' && peek(1) != ']') refuse("a range that begins with a category");
        const std::string inside = name + (letters ? young_letters : numbers ? young_numbers : young_marks);
        out_ += in_class ? inside : "[" + inside + "]";
    }

    void character_class() {
        copy(1);
        if (peek() == '^') copy(1);
        if (peek() == ']') refuse("an empty class");
        while (peek() != ']') {
            if (at_ >= in_.size()) refuse("an open [");
            if (peek() == '\0') refuse("a NUL byte");
            if (peek() == '[') refuse("a class inside a class");
            if (next_is("&&")) refuse("&& inside a class");
            if (peek() == '\\')
                escape(true);
            else
                copy(1);
        }
        copy(1);
    }

    const std::string& in_;
    std::string out_;
    size_t at_ = 0;
    std::vector<bool> ignores_case_ = {false};  // of the groups that are open
};

}  // namespace

struct Pretokenizer::Program {
    std::string pattern;
    pcre2_code* code = nullptr;

    explicit Program(const std::string& source) : pattern(source) {
        const Translation translation(pattern);
        const std::string& text = translation.text();
        int error = 0;
        PCRE2_SIZE where = 0;
        code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr);
        if (!code) throw bad_pattern(pattern, "is no regular expression: " + message(error));
        uint32_t matches_nothing = 0;
        pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_nothing);
        if (matches_nothing) {
            pcre2_code_free(code);
            throw bad_pattern(pattern, "can match nothing at all, which makes no words");
        }
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where the processor has no JIT, matching is slower
    }
    ~Program() { pcre2_code_free(code); }
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    static std::string message(int error) {
        std::array<PCRE2_UCHAR, 256> text{};
        pcre2_get_error_message(error, text.data(), text.size());
        return reinterpret_cast<const char*>(text.data());
    }
};

Pretokenizer Pretokenizer::for_pattern(const std::string& pattern) {
    Pretokenizer pretokenizer;
    pretokenizer.program_ = std::make_shared<const Program>(pattern);
    return pretokenizer;
}

void Pretokenizer::split(std::string_view text, const std::function<void(std::string_view)>& word) const {
    ENSURE(program_ && is_utf8(text));
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                    &pcre2_match_data_free);
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(match.get());
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    for (size_t at = 0; at < text.size(); at = found[1]) {
        const int result = pcre2_match(program_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
        if (result == PCRE2_ERROR_NOMATCH) return word(text.substr(at));
        if (result < 0)
            throw bad_pattern(program_->pattern, format("cannot be matched at byte %zu of a text of %zu bytes: %s", at, text.size(),
                                                        Program::message(result).c_str()));
        if (found[0] > at) word(text.substr(at, found[0] - at));
        word(text.substr(found[0], found[1] - found[0]));
    }
}

#endif

}  // namespace traincu
