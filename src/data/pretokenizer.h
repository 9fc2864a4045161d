// Pre-tokenization: text to words, inside which byte-pair encoding merges and over whose borders it does not.
//
// A vocabulary names its words by a regular expression, written for Oniguruma, the engine of Hugging Face's tokenizers. Here PCRE2 runs
// it (with Unicode and its JIT compiler). Where the two engines read a pattern differently it is rewritten:
//   \s     Oniguruma: Unicode's White_Space. PCRE2 adds U+180E, so \s and \S are spelled out.
//   \p{L}  Oniguruma 6.9.10, in tokenizers 0.23, knows Unicode 16; PCRE2 knows Unicode 14 (version 10.39), 15 (10.43) or 16 (10.45). What
//          was added since 14 is named beside \p{L}, \p{N} and \p{M}. So all code points fall on the same side in both; with a PCRE2
//          newer than Unicode 16, letters that are new in it are the exception.
// (?i:) folds U+017F into s and U+212A into k in both. What has no part in the known patterns and may mean something else is refused by
// name: anchors, ., \w, \b, scripts, class intersections, look-behind, possessive intervals.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace traincu {

inline constexpr const char* gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr const char* llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr const char* qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

class Pretokenizer {
public:
    // Error(data) where the pattern is no regular expression, can match nothing at all, or holds what is refused above; Error(usage)
    // where PCRE2 was not built in.
    static Pretokenizer for_pattern(const std::string& pattern);
    static bool built_in();

    // Calls word() with every match in order, and with what lies between two matches, so that the words together are the text.
    // utf8 must be well formed (is_utf8). Any number of threads at a time. Error(data) where a match takes beyond all measure.
    void split(std::string_view utf8, const std::function<void(std::string_view word)>& word) const;

private:
    struct Program;  // what PCRE2 made of the pattern
    std::shared_ptr<const Program> program_;
};

}  // namespace traincu
