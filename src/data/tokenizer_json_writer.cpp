#include "src/data/tokenizer_json_writer.h"

#include <nlohmann/json.hpp>

#include "src/data/pretokenizer.h"
#include "src/data/tokenizer.h"

namespace traincu {

std::string write_tokenizer_json(const BpeVocabulary& vocabulary, const std::string& pattern) {
    using Json = nlohmann::ordered_json;
    const char* end_of_text = "<|endoftext|>";
    auto characters = [](const std::string& bytes) {
        std::string text;
        for (unsigned char byte : bytes) text += byte_characters()[byte];
        return text;
    };
    Json::object_t vocab;  // as a list: its own insertion looks through all that is there
    for (const std::string& token : vocabulary.tokens) vocab.emplace_back(characters(token), vocab.size());
    const size_t eot = vocab.size();
    vocab.emplace_back(end_of_text, eot);
    Json merges = Json::array();
    for (auto [left, right] : vocabulary.merges)
        merges.push_back(characters(vocabulary.tokens[static_cast<size_t>(left)]) + " " +
                         characters(vocabulary.tokens[static_cast<size_t>(right)]));

    auto byte_level = [](bool use_regex) {
        return Json{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
    };
    Json pre_tokenizer = byte_level(pattern == gpt2_pattern);  // GPT-2's pattern is the one that ByteLevel itself knows
    if (!pattern.empty() && pattern != gpt2_pattern) {
        const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
        pre_tokenizer = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level(false)})}};
    }
    const Json special = {{"id", eot},       {"content", end_of_text}, {"single_word", false}, {"lstrip", false},
                          {"rstrip", false}, {"normalized", false},    {"special", true}};
    Json model = {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false}};
    model["vocab"] = std::move(vocab);
    model["merges"] = std::move(merges);
    const Json json = {
        {"version", "1.0"},         {"truncation", nullptr},          {"padding", nullptr},        {"added_tokens", Json::array({special})},
        {"normalizer", nullptr},    {"pre_tokenizer", pre_tokenizer}, {"post_processor", nullptr}, {"decoder", byte_level(false)},
        {"model", std::move(model)}};
    return json.dump(1) + "\n";
}

}  // namespace traincu
