// The command line and run.json. An input is the words after ./train, one a line; after an empty line comes the text of a file, and the
// word CONFIG stands for its path. Options that are accepted are the same after a trip through JSON.
#include "src/config/batch_options.h"
#include "src/config/model_options.h"

#include "tests/fuzz/input.h"

namespace traincu::fuzz {

static Options parse(std::vector<std::string> words) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    return parse_options(static_cast<int>(words.size()), argv.data());
}

bool fuzz_options(Bytes input) {
    std::vector<std::string> words = {"./train"};
    std::string_view rest = text_of(input);
    while (!rest.empty() && rest[0] != '\n' && words.size() < 100) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        words.emplace_back(line.substr(0, line.find('\0')));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    }
    const std::string config = put_file("config.json", rest.substr(std::min<size_t>(1, rest.size())));
    for (std::string& word : words)
        if (size_t at = word.find("CONFIG"); at != word.npos) word.replace(at, 6, config);

    try {
        return accepted([&] {
            const Options options = parse(words);
            const nlohmann::ordered_json values = options_to_json(options);
            Options back;
            apply_json(back, values, "again");
            ENSURE(options_to_json(back) == values && resume_conflicts(values, options).empty());
            ENSURE(options_as_text(options).size() == option_table().size());
            // run.json repeats the run; a path that is not UTF-8 cannot stand in it unchanged
            const std::string text =
                nlohmann::ordered_json{{"options", values}}.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
            const std::string again = put_file("run.json", text);
            nlohmann::ordered_json repeated = options_to_json(parse({"./train", "--config", again}));
            nlohmann::ordered_json expected = nlohmann::ordered_json::parse(text)["options"];
            expected["config"] = repeated["config"];
            ENSURE(repeated == expected);

            Options o = options;
            resolve_batch(o);
            ENSURE(o.batch_size >= 1 && o.total_batch_tokens % o.seq_len == 0 && o.batch_size * o.seq_len <= o.total_batch_tokens);
            o.vocab_size = std::max<int64_t>(o.vocab_size, 1);
            const ModelConfig model = model_config(o);
            set_model_options(o, model);
            ENSURE(model_config(o) == model);
        });
    } catch (const HelpRequested& help) {
        ENSURE(!help.text.empty());
        return true;
    }
}

Seeds options_seeds() {
    return {
        "--preset\ntiny\n--data\na,b/*.bin\n--lr\n3e-4\n--bias=0\n-b\n8\n-t64\n--shuffle\n",
        "--config\nCONFIG\n--max-steps\n20\n\n" + nlohmann::ordered_json{{"options", options_to_json(Options())}}.dump(1),
        "--config=CONFIG\n\n"
        R"({"preset":"demo","n-layer":3,"qk-norm":true,"lr":0.5,"norm":"rmsnorm","bias":"0","prompt":"\u00e9"})",
        "--help\n",
        "--preset\nlist\n",
        "--n-layer\n2\n--n-head\n3\n--d-model\n48\n--position\nrope\n--mlp\nswiglu\n--norm\nrmsnorm\n--bias\n0\n-d\n2048\n-t\n32\n",
    };
}

}  // namespace traincu::fuzz
