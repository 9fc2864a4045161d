#include "src/data/choices.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/base/files.h"

namespace traincu {

namespace {

constexpr uint32_t magic = 20240522;
constexpr size_t header_bytes = 1024;
constexpr size_t units_before_context = 6;  // mark, bytes, index, label, number of completions, length of the context

Error bad_set(const std::string& path, const std::string& what, const std::string& remedy, size_t offset) {
    return Error(ExitCode::data, path + " " + what, remedy).file(path).offset(static_cast<int64_t>(offset));
}
const char* write_again =
    "it is damaged or cut off: write it again with  ./train tokenize --multiple-choice FILE.jsonl --out "
    "SET.bin";

uint32_t word_at(const std::string& bytes, size_t index) {
    uint32_t word;
    std::memcpy(&word, bytes.data() + 4 * index, 4);
    return word;
}

// ------------------------------------------------------------------------------------------------ reading

// The units of one example, none of which is read beyond its end.
template <class Unit>
class ExampleReader {
public:
    ExampleReader(const std::string& path, const std::string& bytes, size_t begin, size_t end, uint32_t index)
        : path_(path), bytes_(bytes), at_(begin), end_(end), index_(index) {}

    uint32_t unit(const char* what) {
        if (end_ - at_ < sizeof(Unit)) fail(format("ends before its %s", what));
        Unit value;
        std::memcpy(&value, bytes_.data() + at_, sizeof value);
        at_ += sizeof value;
        return value;
    }
    // A length, then as many tokens.
    std::vector<int32_t> tokens(const char* what, int64_t id_limit) {
        const uint32_t length = unit(what);
        if (length == 0) fail(format("has an empty %s", what));
        if (length > (end_ - at_) / sizeof(Unit)) fail(format("states a %s of %u tokens, more than it holds", what, length));
        std::vector<int32_t> ids(length);
        for (int32_t& id : ids) {
            const int64_t value = unit(what);
            if (value >= id_limit)
                throw bad_set(path_,
                              format("holds token id %lld in example %u, outside the vocabulary of %lld", static_cast<long long>(value),
                                     index_, static_cast<long long>(id_limit)),
                              "it was made with another tokenizer than the model's", at_ - sizeof(Unit));
            id = static_cast<int32_t>(value);
        }
        return ids;
    }
    size_t left() const { return end_ - at_; }
    void need(bool condition, const std::string& otherwise) const {
        if (!condition) fail(otherwise);
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw bad_set(path_, format("example %u %s", index_, what.c_str()), write_again, at_);
    }

    const std::string& path_;
    const std::string& bytes_;
    size_t at_, end_;
    uint32_t index_;
};

template <class Unit>
std::vector<ChoiceExample> read_examples(const std::string& path, const std::string& bytes, int64_t id_limit) {
    const uint32_t count = word_at(bytes, 2), longest = word_at(bytes, 3);
    std::vector<ChoiceExample> examples;
    size_t at = header_bytes;
    for (uint32_t index = 0; index < count; index++) {
        const size_t begin = at, left = bytes.size() - at;
        if (left < units_before_context * sizeof(Unit))
            throw bad_set(path, format("states %u examples but ends in example %u", count, index), write_again, at);
        Unit front[2];  // mark, bytes
        std::memcpy(front, bytes.data() + at, sizeof front);
        if (front[0] != std::numeric_limits<Unit>::max())
            throw bad_set(path, format("has no mark where example %u begins", index), write_again, at);
        if (front[1] % sizeof(Unit) != 0 || front[1] < units_before_context * sizeof(Unit) || front[1] > left || front[1] > longest)
            throw bad_set(path, format("states impossible %llu bytes for example %u", static_cast<unsigned long long>(front[1]), index),
                          write_again, at + sizeof(Unit));
        at += front[1];

        ExampleReader<Unit> reader(path, bytes, begin + sizeof front, at, index);
        reader.need(reader.unit("index") == index, "has another index than its place");
        ChoiceExample example;
        example.label = reader.unit("label");
        const uint32_t completions = reader.unit("number of completions");
        reader.need(completions >= 2, format("has %u completions, which is no choice", completions));
        reader.need(example.label < completions,
                    format("is labelled %lld of %u completions", static_cast<long long>(example.label), completions));
        example.context = reader.tokens("context", id_limit);
        reader.need(completions <= reader.left() / (2 * sizeof(Unit)), format("states %u completions, more than it holds", completions));
        for (uint32_t i = 0; i < completions; i++) example.completions.push_back(reader.tokens("completion", id_limit));
        reader.need(reader.left() == 0, "is longer than its completions");
        examples.push_back(std::move(example));
    }
    if (at != bytes.size()) throw bad_set(path, format("goes on after its %u examples", count), write_again, at);
    return examples;
}

// ------------------------------------------------------------------------------------------------ writing

template <class Unit>
std::string write_units(std::span<const ChoiceExample> examples, uint32_t& longest) {
    std::string bytes;
    auto put = [&](size_t value) {
        const auto unit = static_cast<Unit>(value);
        bytes.append(reinterpret_cast<const char*>(&unit), sizeof unit);
    };
    auto put_tokens = [&](const std::vector<int32_t>& ids) {
        put(ids.size());
        for (int32_t id : ids) put(static_cast<size_t>(id));
    };
    for (size_t i = 0; i < examples.size(); i++) {
        const ChoiceExample& e = examples[i];
        const size_t begin = bytes.size();
        for (size_t value : {size_t{std::numeric_limits<Unit>::max()}, size_t{0}, i, static_cast<size_t>(e.label), e.completions.size()})
            put(value);
        put_tokens(e.context);
        for (const auto& completion : e.completions) put_tokens(completion);
        ENSURE(bytes.size() - begin <= std::numeric_limits<Unit>::max());
        const auto size = static_cast<Unit>(bytes.size() - begin);
        std::memcpy(bytes.data() + begin + sizeof(Unit), &size, sizeof size);
        longest = std::max(longest, uint32_t{size});
    }
    return bytes;
}

bool fits_16_bits(std::span<const ChoiceExample> examples) {
    constexpr size_t limit = 65535;
    if (examples.size() > limit) return false;
    for (const ChoiceExample& e : examples) {
        size_t units = units_before_context + e.context.size();
        auto narrow = [&](const std::vector<int32_t>& ids) { return std::ranges::all_of(ids, [](int32_t id) { return id < 65535; }); };
        if (!narrow(e.context)) return false;
        for (const auto& completion : e.completions) {
            units += 1 + completion.size();
            if (!narrow(completion)) return false;
        }
        if (2 * units > limit) return false;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------ JSON lines

using Json = nlohmann::json;

// The value under the first of these keys that is there; null if none is.
const Json* first_of(const Json& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (auto found = object.find(key); found != object.end()) return &*found;
    return nullptr;
}

// 2, "2" and "C" are the third answer. -1: none of these.
int64_t answer_index(const Json& value) {
    if (value.is_number_unsigned()) return static_cast<int64_t>(std::min<uint64_t>(value.get<uint64_t>(), 1 << 20));
    if (!value.is_string()) return -1;
    const std::string text = value.get<std::string>();
    if (text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z') return text[0] - 'A';
    if (text.empty() || text.size() > 6 || !std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; })) return -1;
    return std::stoll(text);
}

}  // namespace

std::vector<ChoiceExample> read_choices(const std::string& path, int64_t vocab_size) {
    const std::string bytes = read_whole_file(path, ExitCode::data);
    if (bytes.size() < header_bytes || word_at(bytes, 0) != magic)
        throw bad_set(path, "is not a multiple-choice set", "make one with  ./train tokenize --multiple-choice FILE.jsonl --out SET.bin",
                      0);
    const uint32_t version = word_at(bytes, 1), count = word_at(bytes, 2), stated = word_at(bytes, 4);
    if (version != 1 && version != 2)
        throw bad_set(path, format("has version %u; this program reads versions 1 and 2", version), "use the program that wrote it", 4);
    if (count == 0) throw bad_set(path, "holds no examples", "write it again from a file that has some", 8);
    if (vocab_size > 0 && stated > vocab_size)
        throw bad_set(path,
                      format("was written with a vocabulary of %u, but the model has %lld", stated, static_cast<long long>(vocab_size)),
                      "write the set with the tokenizer of the model", 16);
    const int64_t id_limit = vocab_size > 0 ? vocab_size : int64_t{1} << 31;
    return version == 1 ? read_examples<uint16_t>(path, bytes, id_limit) : read_examples<uint32_t>(path, bytes, id_limit);
}

void write_choices(const std::string& path, std::span<const ChoiceExample> examples, int64_t vocab_size) {
    for (const ChoiceExample& e : examples) {
        ENSURE(!e.context.empty() && e.completions.size() >= 2 && e.label >= 0 && e.label < static_cast<int64_t>(e.completions.size()));
        for (const auto& completion : e.completions) ENSURE(!completion.empty());
    }
    const bool narrow = fits_16_bits(examples);
    uint32_t longest = 0;
    const std::string units = narrow ? write_units<uint16_t>(examples, longest) : write_units<uint32_t>(examples, longest);
    const uint32_t words[] = {magic, narrow ? 1u : 2u, static_cast<uint32_t>(examples.size()), longest, static_cast<uint32_t>(vocab_size)};
    std::string bytes(header_bytes, '\0');
    std::memcpy(bytes.data(), words, sizeof words);
    write_whole_file(path, bytes + units);
}

ChoiceExample parse_choice(std::string_view line, const Tokenizer& tokenizer, const std::string& file, int64_t number) {
    auto bad = [&](const std::string& what, const char* remedy) {
        return Error(ExitCode::data, format("%s, line %lld: %s", file.c_str(), static_cast<long long>(number), what.c_str()), remedy)
            .file(file);
    };
    const char* shape =
        R"(a line is {"ctx": "text", "endings": ["text", "text"], "label": 0}; see ./train tokenize --multiple-choice FILE --help)";
    const Json object = Json::parse(line, nullptr, false);
    if (!object.is_object()) throw bad("not a JSON object", shape);
    const Json *context = first_of(object, {"ctx", "context", "question"}), *endings = first_of(object, {"endings", "choices"}),
               *label = first_of(object, {"label", "answer"});
    if (!context || !context->is_string()) throw bad("no text under ctx, context or question", shape);
    if (!endings || !endings->is_array() || endings->size() < 2) throw bad("no list of two texts or more under endings or choices", shape);
    if (!label) throw bad("no label or answer", "the set must say which choice is right: test sets often do not");

    ChoiceExample example;
    example.label = answer_index(*label);
    if (example.label < 0 || example.label >= static_cast<int64_t>(endings->size()))
        throw bad(format("the label%s names none of its %zu choices",
                         label->is_primitive() ? (" " + label->dump(-1, ' ', true)).c_str() : "", endings->size()),
                  shape);
    example.context = tokenizer.encode(context->get_ref<const std::string&>());
    if (example.context.empty()) example.context = {tokenizer.eot()};
    for (const Json& ending : *endings) {
        if (!ending.is_string()) throw bad("a choice is not a text", shape);
        example.completions.push_back(tokenizer.encode(" " + ending.get_ref<const std::string&>()));
    }
    return example;
}

std::string describe_choices(const std::string& path) {
    const std::vector<ChoiceExample> examples = read_choices(path, 0);
    size_t fewest = examples[0].completions.size(), most = fewest, completions = 0, tokens = 0, longest = 0;
    int32_t widest = 0;
    for (const ChoiceExample& example : examples) {
        const size_t n = example.completions.size();
        fewest = std::min(fewest, n), most = std::max(most, n), completions += n;
        widest = std::max(widest, std::ranges::max(example.context));
        for (const auto& completion : example.completions) {
            tokens += example.context.size() + completion.size();
            longest = std::max(longest, example.context.size() + completion.size());
            widest = std::max(widest, std::ranges::max(completion));
        }
    }
    std::string text = format("file        %s: multiple-choice set\n", path.c_str());
    text += format("examples    %zu, of %s completions\n", examples.size(),
                   fewest == most ? std::to_string(most).c_str() : format("%zu to %zu", fewest, most).c_str());
    text += format("tokens      %zu to score; the longest context with a completion has %zu\n", tokens, longest);
    text += format("integrity   every example fits its counts; the largest id is %d\n", widest);
    return text;
}

bool is_choice_set(const std::string& path) {
    uint32_t word = 0;
    std::ifstream file(path, std::ios::binary);
    return file.read(reinterpret_cast<char*>(&word), sizeof word) && word == magic;
}

}  // namespace traincu
