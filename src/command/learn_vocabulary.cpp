#include "src/base/process.h"
#include "src/command/learn_vocabulary.h"

#include <chrono>
#include <cstdio>

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/command/progress.h"
#include "src/data/bpe_tokenizer.h"
#include "src/data/bpe_trainer.h"
#include "src/data/tokenizer_json_writer.h"
#include "src/report/console.h"

namespace traincu {

const std::vector<std::string> pattern_names = {"llama3", "gpt2", "qwen2"};

std::string pattern_named(const std::string& name) {
    if (name == "llama3") return llama3_pattern;
    if (name == "gpt2") return gpt2_pattern;
    ENSURE(name == "qwen2");
    return qwen2_pattern;
}

std::unique_ptr<Tokenizer> learn_vocabulary(const TokenizeConfig& config, int64_t size, const std::string& pattern_name) {
    constexpr int64_t besides_merges = 256 + 1;  // the bytes and <|endoftext|>
    ENSURE(size >= besides_merges);
    make_room(config);  // before the work, not after it
    const std::string pattern = pattern_named(pattern_name);
    const Pretokenizer pretokenizer = Pretokenizer::for_pattern(pattern);
    const auto start = std::chrono::steady_clock::now();

    WordCounts words;
    int64_t bytes = 0, occurrences = 0;
    {
        ProgressLine line("count words");
        WordCounter counter(pretokenizer, config.threads);
        auto count = [&](std::span<const std::string> documents) {
            counter.add(documents);
            for (const std::string& document : documents) bytes += static_cast<int64_t>(document.size());
        };
        read_train_documents(config, count, [&](double share) { line(share); });
        words = counter.take();
    }
    for (const auto& [word, count] : words) occurrences += count;
    BpeVocabulary vocabulary;
    {
        ProgressLine line("learn merges");
        vocabulary = train_bpe(words, size - besides_merges, [&](double share) { line(share); });
    }
    const auto learned = static_cast<int64_t>(vocabulary.merges.size()) + besides_merges;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("learn  %s tokens from %s of text: %s words, %s distinct, in %.1f s\n", with_commas(learned).c_str(),
                human_bytes(bytes).c_str(), with_commas(occurrences).c_str(), with_commas(static_cast<int64_t>(words.size())).c_str(),
                seconds);
    if (learned < size)
        traincu::note("--train-vocab %lld: this text gives %lld tokens; no other pair of neighbours occurs twice",
                      static_cast<long long>(size), static_cast<long long>(learned));
    return make_bpe_tokenizer(write_tokenizer_json(vocabulary, pattern), config.out + "_tokenizer.json");
}

}  // namespace traincu
