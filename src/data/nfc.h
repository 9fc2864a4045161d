// Unicode's composed form NFC (Annex 15), as the normalizer of Hugging Face's tokenizers gives it.
#pragma once

#include <string>
#include <string_view>

namespace traincu {

// utf8 must be well formed. Error(usage) where utf8proc was not built in and the text holds characters that may change.
// The library knows the combining marks of Unicode 9 only: later ones neither move nor compose. So it is here, for those up to Unicode 16.
std::string nfc(std::string_view utf8);
bool nfc_built_in();

// Characters that NFC leaves alone, that have no combining class, and that never join one before them: Latin, Greek, Cyrillic, Hebrew,
// Arabic, Japanese, Chinese and Korean letters, punctuation, emoji. A text changes only next to other characters.
bool nfc_is_quiet(char32_t character);

}  // namespace traincu
