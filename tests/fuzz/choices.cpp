// Multiple-choice sets. The first byte of an input says what follows: even, 5 words of a set's header, then its examples (the header's
// other words are filled in); odd, a line of JSON.
#include "src/data/choices.h"

#include "tests/fuzz/input.h"

namespace traincu::fuzz {

constexpr size_t header_bytes = 1024, given_bytes = 20;

static void check_written_again(const std::vector<ChoiceExample>& examples) {
    const std::string path = scratch_folder() + "/again.bin";
    write_choices(path, examples, 0);
    ENSURE(is_choice_set(path) && read_choices(path, 0) == examples);
}

bool fuzz_choices(Bytes input) {
    const std::string_view text = text_of(input).substr(std::min<size_t>(1, input.size()));
    return accepted([&] {
        if (!input.empty() && input[0] % 2 == 1)
            return check_written_again({parse_choice(text, *open_tokenizer("bytes"), "questions.jsonl", 1)});
        std::string file(text.substr(0, given_bytes));
        file.resize(header_bytes);
        if (text.size() > given_bytes) file += text.substr(given_bytes);
        const std::string path = put_file("set.bin", file);
        const std::vector<ChoiceExample> examples = read_choices(path, 0);
        ENSURE(!examples.empty() && !describe_choices(path).empty());
        check_written_again(examples);
        accepted([&] {
            for (const ChoiceExample& example : read_choices(path, 300))
                for (int32_t id : example.context) ENSURE(id >= 0 && id < 300);
        });
    });
}

Seeds choices_seeds() {
    Seeds seeds;
    for (int32_t widest : {200, 70000}) {  // in 16 and in 32 bits
        const std::vector<ChoiceExample> examples = {{1, {5, 6, widest}, {{7}, {8, 9}}}, {0, {256}, {{1}, {2}, {3, 4, 5}}}};
        const std::string path = scratch_folder() + "/seed.bin";
        write_choices(path, examples, 0);
        const std::string file = content_of(path);
        seeds.push_back(packed(uint8_t{0}) + file.substr(0, given_bytes) + file.substr(header_bytes));
    }
    seeds.push_back(
        "\x01"
        R"({"ctx": "A man", "endings": ["sits", "st\u00e4nds"], "label": 1, "ind": 4})");
    seeds.push_back(
        "\x01"
        R"({"question": "", "choices": ["1", "2", "3"], "answer": "C"})");
    return seeds;
}

}  // namespace traincu::fuzz
