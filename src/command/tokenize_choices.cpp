// ./train tokenize --multiple-choice: questions in JSON lines to a set that ./train eval scores.
#include <algorithm>
#include <cstdio>

#include "src/base/files.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/command/progress.h"
#include "src/data/choices.h"
#include "src/data/tokenizer.h"

namespace traincu {

int tokenize_choices_command(int argc, char** argv) {
    CLI::App app(
        "Turns multiple-choice questions into a set for ./train eval --choices and for the training option --hellaswag.\n"
        "A line of the file is a question as JSON; HellaSwag's own file works as it is:\n"
        "  {\"ctx\": \"A man is sitting on a roof. He\", \"endings\": [\"falls asleep.\", \"pulls up shingles.\"], \"label\": 1}\n"
        "\"ctx\" may be called context or question, \"endings\" choices, \"label\" answer; the label counts from 0, or is A, B, ...\n"
        "A context is encode(ctx), an answer encode(\" \" + ending), as in llm.c, whose format the set has.",
        "./train tokenize");
    std::string questions, tokenizer_name = "bytes", out;
    bool force = false;
    app.add_option("--multiple-choice", questions, "JSON lines, a question each")->required();
    app.add_option("--tokenizer", tokenizer_name, "the tokenizer of the models that will be scored")->capture_default_str();
    app.add_option("--out", out, "the set's file")->required();
    app.add_flag("--force", force, "replace the file that --out names");
    if (!parse_command_line(app, argc, argv)) return static_cast<int>(ExitCode::done);

    if (std::FILE* there = force ? nullptr : std::fopen(out.c_str(), "rb")) {
        std::fclose(there);
        throw Error(ExitCode::usage, out + " exists already", "choose another --out, or replace it with --force").file(out);
    }
    const auto tokenizer = open_tokenizer(tokenizer_name);
    const std::string text = read_whole_file(questions, ExitCode::data);
    std::vector<ChoiceExample> examples;
    {
        ProgressLine progress("tokenize");
        int64_t number = 1;
        for (size_t begin = 0; begin < text.size(); number++) {
            const size_t end = std::min(text.find('\n', begin), text.size());
            const std::string_view line(text.data() + begin, end - begin);
            if (line.find_first_not_of(" \t\r") != std::string_view::npos)
                examples.push_back(parse_choice(line, *tokenizer, questions, number));
            begin = end + 1;
            progress(static_cast<double>(begin) / static_cast<double>(text.size()));
        }
    }
    if (examples.empty())
        throw Error(ExitCode::data, questions + " holds no questions", "a line of it is a question as JSON").file(questions);
    write_choices(out, examples, tokenizer->vocab_size());

    std::fputs(describe_choices(out).c_str(), stdout);
    std::printf("\nnext:  ./train eval --model RUN --choices NAME=%s\n", out.c_str());
    return static_cast<int>(ExitCode::done);
}

}  // namespace traincu
