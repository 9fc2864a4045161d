#include "src/data/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/data/pretokenizer.h"
#include "src/data/tokenizer.h"
#include "src/data/utf8.h"

namespace traincu {

namespace {

using Json = nlohmann::json;

constexpr size_t max_tokens = size_t{1} << 21, max_merges = size_t{1} << 22, max_other = size_t{1} << 18;
constexpr size_t max_depth = 16, max_holes = size_t{1} << 16;
constexpr const char* remedy = "use the tokenizer.json of a byte-level BPE vocabulary such as GPT-2's, Llama 3's or Qwen's";

Error bad_file(const std::string& path, const std::string& what) { return Error(ExitCode::data, path + " " + what, remedy).file(path); }

// A text from the file for a message: short, and on one line.
std::string in_quotes(const std::string& text) {
    std::string shown = mend_utf8(text.substr(0, 60));  // which may end inside a character
    for (char& c : shown)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    return '"' + shown + (text.size() > 60 ? "...\"" : "\"");
}

// Listens to the JSON parser. The two long parts, model.vocab and model.merges, go into lists of their own; of the rest, which is short,
// a tree is built. A rule broken ends the parse at that word.
class FileListener : public nlohmann::json_sax<Json> {
public:
    Json rest;                                       // without the two long parts
    std::unordered_map<std::string, int64_t> vocab;  // as spelled in the file
    std::vector<std::pair<std::string, std::string>> merges;
    std::string broken_rule;
    bool has_vocab = false, has_merges = false;

    bool start_object(size_t) override {
        if (place_ == Place::vocab || place_ == Place::merges || place_ == Place::pair)
            return refuse("has an object inside " + name_of(place_));
        if (in_model() && key_ == "vocab") return has_vocab = true, enter(Place::vocab);
        return open(Json::object());
    }
    bool end_object() override { return leave(); }
    bool start_array(size_t) override {
        if (place_ == Place::merges) return pair_.clear(), enter(Place::pair);
        if (place_ != Place::rest) return refuse("has a list inside " + name_of(place_));
        if (in_model() && key_ == "vocab") return refuse("has a list as model.vocab, as Unigram vocabularies do: only BPE is read");
        if (in_model() && key_ == "merges") return has_merges = true, enter(Place::merges);
        return open(Json::array());
    }
    bool end_array() override {
        if (place_ != Place::pair) return leave();
        if (pair_.size() != 2) return refuse(format("has merge %zu with %zu parts instead of 2", merges.size(), pair_.size()));
        return add_merge(pair_[0], pair_[1]) && leave();
    }
    bool key(string_t& text) override {
        const bool again = in_model() && ((text == "vocab" && has_vocab) || (text == "merges" && has_merges));
        if (again || (place_ == Place::rest && open_.back()->contains(text)))
            return refuse("has the key " + in_quotes(text) + " twice in one object");
        key_ = std::move(text);
        return true;
    }
    bool string(string_t& text) override {
        if (place_ == Place::vocab) return refuse("has a string as the id of the token " + in_quotes(key_));
        if (place_ == Place::pair)
            return pair_.size() < 2 ? pair_.push_back(std::move(text)),
                   true             : refuse(format("has merge %zu with more than 2 parts", merges.size()));
        if (place_ == Place::merges) {
            const size_t space = text.find(' ');
            if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
                return refuse(
                    format("has merge %zu, %s, which is not two tokens with a space between", merges.size(), in_quotes(text).c_str()));
            return add_merge(text.substr(0, space), text.substr(space + 1));
        }
        return value(std::move(text));
    }
    bool number_unsigned(number_unsigned_t number) override {
        if (place_ != Place::vocab) return place_ == Place::rest ? value(number) : refuse("has a number inside model.merges");
        if (number >= 0x7FFFFFFF) return refuse("gives the token " + in_quotes(key_) + " the id " + std::to_string(number));
        if (vocab.size() >= max_tokens) return refuse(format("has more than %zu tokens", max_tokens));
        if (key_.empty()) return refuse("has a token that is empty");
        const std::string name = in_quotes(key_);
        return vocab.emplace(std::move(key_), static_cast<int64_t>(number)).second || refuse("has the token " + name + " twice");
    }
    bool number_integer(number_integer_t number) override { return other_value(number, std::to_string(number)); }
    bool number_float(number_float_t number, const string_t& text) override { return other_value(number, text); }
    bool boolean(bool truth) override { return other_value(truth, truth ? "true" : "false"); }
    bool null() override { return other_value(nullptr, "null"); }
    bool binary(binary_t&) override { return refuse("has binary data"); }
    bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
        return refuse(format("is not valid JSON in UTF-8: it breaks off at byte %zu", position));
    }

private:
    enum class Place { rest, vocab, merges, pair };

    static std::string name_of(Place place) { return place == Place::vocab ? "model.vocab" : "model.merges"; }
    bool refuse(std::string rule) {
        if (broken_rule.empty()) broken_rule = std::move(rule);
        return false;
    }
    // Inside the object "model" of the outermost one.
    bool in_model() const { return place_ == Place::rest && open_.size() == 2 && outer_key_ == "model"; }
    bool enter(Place place) {
        places_.push_back(place_);
        place_ = place;
        return true;
    }
    bool leave() {
        if (place_ == Place::rest) {
            open_.pop_back();
        } else {
            place_ = places_.back();
            places_.pop_back();
        }
        return true;
    }
    Json* put(Json&& value) {
        if (open_.empty()) return &(rest = std::move(value));
        Json& parent = *open_.back();
        if (parent.is_object()) return &(parent[key_] = std::move(value));
        parent.push_back(std::move(value));
        return &parent.back();
    }
    bool value(Json&& value) {
        if (++others_ > max_other) return refuse(format("has more than %zu values besides tokens and merges", max_other));
        put(std::move(value));
        return true;
    }
    bool open(Json&& container) {
        if (open_.size() >= max_depth) return refuse(format("is nested deeper than %zu levels", max_depth));
        if (++others_ > max_other) return refuse(format("has more than %zu values besides tokens and merges", max_other));
        if (open_.size() == 1) outer_key_ = key_;
        open_.push_back(put(std::move(container)));
        return true;
    }
    bool other_value(Json&& json, const std::string& text) {
        if (place_ == Place::vocab) return refuse("gives the token " + in_quotes(key_) + " the id " + text.substr(0, 40));
        if (place_ != Place::rest) return refuse("has " + text.substr(0, 40) + " inside model.merges");
        return value(std::move(json));
    }
    bool add_merge(std::string left, std::string right) {
        if (merges.size() >= max_merges) return refuse(format("has more than %zu merges", max_merges));
        merges.emplace_back(std::move(left), std::move(right));
        return true;
    }

    Place place_ = Place::rest;
    std::vector<Place> places_;
    std::vector<Json*> open_;  // of the rest: the containers that we are in; growing a list moves only the last one, which is none of these
    std::string key_, outer_key_;
    std::vector<std::string> pair_;
    size_t others_ = 0;
};

// The bytes that a token in byte characters stands for; false if it holds another character.
bool spelled_bytes(const std::string& token, std::string& bytes) {
    static const std::unordered_map<std::string, char> byte_of = [] {
        std::unordered_map<std::string, char> map;
        for (int byte = 0; byte < 256; byte++) map[byte_characters()[static_cast<size_t>(byte)]] = static_cast<char>(byte);
        return map;
    }();
    bytes.clear();
    for (size_t i = 0; i < token.size();) {
        const size_t length = static_cast<unsigned char>(token[i]) < 0x80 ? 1 : 2;
        const auto found = byte_of.find(token.substr(i, length));
        if (found == byte_of.end()) return false;
        bytes += found->second;
        i += length;
    }
    return true;
}

// What the listener heard, turned into a TokenizerFile.
class FileReader {
public:
    FileReader(FileListener&& heard, const std::string& path) : heard_(std::move(heard)), path_(path) {}

    TokenizerFile read() {
        if (!heard_.rest.is_object()) refuse("is not a JSON object");
        read_model();
        read_vocabulary();
        read_merges();
        read_added_tokens();
        read_normalizer(member(heard_.rest, "normalizer"));
        read_pre_tokenizer(member(heard_.rest, "pre_tokenizer"));
        const Json& decoder = member(heard_.rest, "decoder");
        if (!decoder.is_null() && type_of(decoder, "decoder") != "ByteLevel")
            refuse("has the decoder " + in_quotes(type_of(decoder, "decoder")) + ": only ByteLevel is read");
        return std::move(file_);
    }

private:
    [[noreturn]] void refuse(const std::string& what) const { throw bad_file(path_, what); }

    // null where there is none
    static const Json& member(const Json& object, const char* name) {
        static const Json none;
        const auto found = object.find(name);
        return found == object.end() ? none : *found;
    }
    bool flag(const Json& object, const char* name, const std::string& where, bool otherwise) const {
        const Json& value = member(object, name);
        if (value.is_null()) return otherwise;
        if (!value.is_boolean()) refuse("has a " + std::string(name) + " in " + where + " that is neither true nor false");
        return value.get<bool>();
    }
    std::string type_of(const Json& object, const char* where) const {
        const Json& type = object.is_object() ? member(object, "type") : object;
        if (!object.is_object() || !type.is_string()) refuse(std::string("has a ") + where + " without a type");
        return type.get<std::string>();
    }

    void read_model() {
        const Json& model = member(heard_.rest, "model");
        if (!model.is_object()) refuse("has no object \"model\"");
        const Json& type = member(model, "type");  // the oldest files do not name it
        if (!type.is_null() && type != "BPE")
            refuse("has a model of type " + in_quotes(type.is_string() ? type.get<std::string>() : "?") + ": only BPE is read");
        if (!heard_.has_vocab || !heard_.has_merges) refuse("lacks model.vocab or model.merges");
        const Json& dropout = member(model, "dropout");
        if (!dropout.is_null() && dropout != 0) refuse("has dropout: its ids would be random");
        for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
            if (const Json& value = member(model, affix); !value.is_null() && value != "")
                refuse(std::string("has a ") + affix + ": that is not read");
        if (flag(model, "byte_fallback", "model", false)) refuse("has byte_fallback: only vocabularies in byte characters are read");
        file_.whole_words = flag(model, "ignore_merges", "model", false);
        // unk_token and fuse_unk never come to bear: every byte has its token
    }

    void read_vocabulary() {
        int64_t largest = -1;
        for (const auto& [token, id] : heard_.vocab) largest = std::max(largest, id);
        check_holes(largest, heard_.vocab.size());
        std::vector<std::string>& tokens = file_.vocabulary.tokens;
        tokens.resize(static_cast<size_t>(largest + 1));
        taken_.assign(tokens.size(), false);
        std::string bytes;
        for (const auto& [token, id] : heard_.vocab) {
            if (taken_[static_cast<size_t>(id)])
                refuse(format("gives the id %lld to two tokens, one of them %s", static_cast<long long>(id), in_quotes(token).c_str()));
            taken_[static_cast<size_t>(id)] = true;
            if (spelled_bytes(token, bytes))
                tokens[static_cast<size_t>(id)] = bytes;
            else
                file_.unspelled.emplace_back(static_cast<int32_t>(id), token);
        }
        for (size_t byte = 0; byte < 256; byte++)
            if (!heard_.vocab.count(byte_characters()[byte]))
                refuse(format("has no token for the byte 0x%02zX: it is no byte-level vocabulary", byte));
        file_.vocab_size = largest + 1;
    }

    void check_holes(int64_t largest, size_t count) const {
        if (largest + 1 > static_cast<int64_t>(count + max_holes))
            refuse(format("has the id %lld, but only %zu tokens: more than %zu ids stand for nothing", static_cast<long long>(largest),
                          count, max_holes));
    }

    void read_merges() {
        std::unordered_set<uint64_t> pairs;
        pairs.reserve(heard_.merges.size());
        for (size_t rank = 0; rank < heard_.merges.size(); rank++) {
            const auto& [left, right] = heard_.merges[rank];
            std::array<int32_t, 3> ids;
            const std::array<std::string, 3> names = {left, right, left + right};
            for (size_t i = 0; i < 3; i++) {
                const auto found = heard_.vocab.find(names[i]);
                if (found == heard_.vocab.end())
                    refuse(format("has merge %zu with %s, which is no token", rank, in_quotes(names[i]).c_str()));
                ids[i] = static_cast<int32_t>(found->second);
                if (file_.vocabulary.tokens[static_cast<size_t>(ids[i])].empty())
                    refuse(format("has merge %zu with %s, which is not written in byte characters", rank, in_quotes(names[i]).c_str()));
            }
            if (!pairs.insert(static_cast<uint64_t>(ids[0]) << 32 | static_cast<uint32_t>(ids[1])).second)
                refuse(format("has merge %zu, %s and %s, twice", rank, in_quotes(left).c_str(), in_quotes(right).c_str()));
            file_.vocabulary.merges.emplace_back(ids[0], ids[1]);
        }
    }

    void read_added_tokens() {
        const Json& list = member(heard_.rest, "added_tokens");
        if (!list.is_null() && !list.is_array()) refuse("has added_tokens that are no list");
        std::unordered_set<std::string> contents;
        for (const Json& entry : list) {
            const Json &content = entry.is_object() ? member(entry, "content") : entry,
                       &id = entry.is_object() ? member(entry, "id") : entry;
            if (!entry.is_object() || !content.is_string() || !id.is_number_unsigned())
                refuse("has an added token without a content and an id");
            AddedToken token;
            token.content = content.get<std::string>();
            const std::string name = "the added token " + in_quotes(token.content);
            if (token.content.empty()) refuse("has an added token that is empty");
            if (!contents.insert(token.content).second) refuse("has " + name + " twice");
            if (id.get<uint64_t>() >= 0x7FFFFFFF) refuse("gives " + name + " the id " + id.dump());
            token.id = id.get<int32_t>();
            for (const char* option : {"single_word", "lstrip", "rstrip"})
                if (flag(entry, option, name, false)) refuse("has " + std::string(option) + " on " + name + ": that is not read");
            token.special = flag(entry, "special", name, false);
            token.normalized = flag(entry, "normalized", name, !token.special);
            file_.vocab_size = std::max<int64_t>(file_.vocab_size, int64_t{token.id} + 1);
            file_.added.push_back(std::move(token));
        }
        check_holes(file_.vocab_size - 1, heard_.vocab.size() + file_.added.size());
        taken_.resize(static_cast<size_t>(file_.vocab_size), false);
        for (const AddedToken& token : file_.added) {
            const std::string name = "the added token " + in_quotes(token.content);
            const auto known = heard_.vocab.find(token.content);
            if (known != heard_.vocab.end()) {
                if (known->second != token.id)
                    refuse(format("gives %s the id %d, and %lld in model.vocab", name.c_str(), token.id,
                                  static_cast<long long>(known->second)));
            } else {
                if (taken_[static_cast<size_t>(token.id)])
                    refuse(format("gives %s the id %d, which is another token's", name.c_str(), token.id));
                taken_[static_cast<size_t>(token.id)] = true;
            }
        }
    }

    void read_normalizer(const Json& normalizer) {
        if (normalizer.is_null()) return;
        const std::string type = type_of(normalizer, "normalizer");
        if (type == "Sequence") {
            const Json& parts = member(normalizer, "normalizers");
            if (!parts.is_array()) refuse("has a sequence of normalizers without its list");
            for (const Json& part : parts) {
                if (type_of(part, "normalizer") == "Sequence") refuse("has a sequence of normalizers inside another");
                read_normalizer(part);
            }
        } else if (type == "NFC") {
            file_.nfc = true;
        } else {
            refuse("has the normalizer " + in_quotes(type) + ": only NFC is read");
        }
    }

    void read_pre_tokenizer(const Json& pre_tokenizer) {
        const char* known = ": only ByteLevel is read, alone or in a sequence behind one Split";
        if (pre_tokenizer.is_null()) refuse(std::string("has no pre_tokenizer") + known);
        const std::string type = type_of(pre_tokenizer, "pre_tokenizer");
        if (type == "ByteLevel") {
            if (read_byte_level(pre_tokenizer)) file_.pattern = gpt2_pattern;
            return;
        }
        if (type != "Sequence") refuse("has the pre-tokenizer " + in_quotes(type) + known);
        const Json& parts = member(pre_tokenizer, "pretokenizers");
        if (!parts.is_array()) refuse("has a sequence of pre-tokenizers without its list");
        for (const Json& part : parts)
            if (const std::string name = type_of(part, "pre_tokenizer"); name != "Split" && name != "ByteLevel")
                refuse("has the pre-tokenizer " + in_quotes(name) + known);
        if (parts.size() != 2 || type_of(parts[0], "pre_tokenizer") != "Split" || type_of(parts[1], "pre_tokenizer") != "ByteLevel")
            refuse(std::string("has another sequence of pre-tokenizers") + known);
        read_split(parts[0]);
        if (read_byte_level(parts[1]) || file_.prefix_space)
            refuse("has a ByteLevel behind a Split that splits again or adds spaces (use_regex, add_prefix_space): that is not read");
    }

    // Whether it splits as well.
    bool read_byte_level(const Json& byte_level) {
        file_.prefix_space = flag(byte_level, "add_prefix_space", "ByteLevel", true);
        return flag(byte_level, "use_regex", "ByteLevel", true);
    }

    void read_split(const Json& split) {
        const Json& pattern = member(split, "pattern");
        const Json& regex = pattern.is_object() ? member(pattern, "Regex") : pattern;
        if (!pattern.is_object() || !regex.is_string()) refuse("has a Split whose pattern is no Regex");
        if (member(split, "behavior") != "Isolated") refuse("has a Split with another behavior than Isolated: that is not read");
        if (flag(split, "invert", "Split", false)) refuse("has a Split with invert: that is not read");
        file_.pattern = regex.get<std::string>();
        if (file_.pattern.empty()) refuse("has a Split with an empty pattern");
    }

    FileListener heard_;
    const std::string& path_;
    TokenizerFile file_;
    std::vector<bool> taken_;  // of the ids
};

}  // namespace

TokenizerFile parse_tokenizer_json(std::string_view text, const std::string& path) {
    if (text.size() > max_tokenizer_file) throw bad_file(path, format("is %zu bytes long: more than a vocabulary needs", text.size()));
    if (const size_t nul = text.find('\0'); nul != std::string_view::npos)  // the parser takes it for the end
        throw bad_file(path, format("holds a NUL byte, at byte %zu", nul));
    FileListener listener;
    Json::sax_parse(text, &listener);
    if (!listener.broken_rule.empty()) throw bad_file(path, listener.broken_rule);
    return FileReader(std::move(listener), path).read();
}

}  // namespace traincu
