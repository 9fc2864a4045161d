// Tokenizers: the built-in bytes, and whatever opens as a tokenizer.json. Text that is encoded decodes to itself, but for special tokens,
// which decode to nothing, for characters that NFC composes, and for a space that a vocabulary puts before a text.
#include "src/data/tokenizer.h"

#include <algorithm>

#include "tests/fuzz/input.h"

namespace traincu::fuzz {

static void check(const Tokenizer& tokenizer, std::string_view text) {
    const std::vector<int32_t> ids = tokenizer.encode(text);
    bool special = false;
    for (int32_t id : ids) {
        ENSURE(id >= 0 && id < tokenizer.vocab_size());
        special = special || tokenizer.decode({&id, 1}).empty();
    }
    const std::string back = tokenizer.decode(ids);
    const bool composes = !tokenizer.takes_any_bytes() && std::any_of(text.begin(), text.end(), [](char c) { return c < 0; });
    if (!special && !composes) ENSURE(back == text || back == " " + std::string(text));
}

bool fuzz_tokenizer(Bytes input) {
    const std::string_view all = text_of(input), separator = "\n---\n";
    const size_t at = all.find(separator);
    const std::string_view text = at == all.npos ? all : all.substr(at + separator.size());
    return accepted([&] {
        check(*open_tokenizer("bytes"), text);
        const auto tokenizer = open_tokenizer(put_file("tokenizer.json", all.substr(0, at)));
        ENSURE(tokenizer->kind() != 0 && tokenizer->eot() >= 0 && tokenizer->eot() < tokenizer->vocab_size());
        const auto again = open_tokenizer(put_file("again.json", tokenizer->json()));
        ENSURE(again->fingerprint() == tokenizer->fingerprint() && again->vocab_size() == tokenizer->vocab_size());
        check(*tokenizer, text);
        ENSURE(again->encode(text) == tokenizer->encode(text));
        // Any ids of the vocabulary decode, also those that no text gives.
        std::vector<int32_t> ids;
        for (unsigned char byte : text) ids.push_back(static_cast<int32_t>(byte * 7919 % tokenizer->vocab_size()));
        (void)tokenizer->decode(ids);
        ids.push_back(static_cast<int32_t>(tokenizer->vocab_size()));
        ENSURE(!accepted([&] { (void)tokenizer->decode(ids); }));
    });
}

Seeds tokenizer_seeds() { return {open_tokenizer("bytes")->json() + "\n---\nHello  world, it's \xC3\xA9t\xC3\xA9 1234!\n<|endoftext|>"}; }

}  // namespace traincu::fuzz
