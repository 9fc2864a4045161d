// ./train tokenize: text files to token shards.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/base/process.h"
#include "src/command/commands.h"
#include "src/command/learn_vocabulary.h"
#include "src/command/parse.h"
#include "src/command/progress.h"
#include "src/data/corpus.h"
#include "src/data/shard.h"

namespace traincu {

namespace {

using Clock = std::chrono::steady_clock;

void print_split(const char* name, const SplitSummary& split) {
    auto number = [](int64_t n) { return static_cast<long long>(n); };
    if (split.documents == 0) {
        std::printf("%-6s nothing\n", name);
        return;
    }
    std::printf("%-6s %lld tokens in %lld documents, %.3f bytes per token, %zu shard%s\n", name, number(split.tokens),
                number(split.documents), static_cast<double>(split.text_bytes) / static_cast<double>(split.tokens), split.shards.size(),
                split.shards.size() == 1 ? "" : "s");
    std::printf("       tokens of a document: min %lld   10 %% %lld   median %lld   90 %% %lld   max %lld\n",
                number(split.length_quantile(0)), number(split.length_quantile(0.1)), number(split.length_quantile(0.5)),
                number(split.length_quantile(0.9)), number(split.length_quantile(1)));
}

// The text of a shard as it was, document by document; between two of them a line that --documents knows for a border.
int decode_shard(const std::string& path, const std::string& vocabulary) {
    Shard shard(path);
    std::string note;
    const std::unique_ptr<Tokenizer> tokenizer = vocabulary.empty() ? tokenizer_of_shard(shard, note) : open_tokenizer(vocabulary);
    if (!tokenizer) throw Error(ExitCode::usage, note, "name its vocabulary with --tokenizer").file(path);
    std::vector<int32_t> ids(size_t{1} << 16);
    bool at_line_start = true, first = true;
    for (int64_t done = 0; done < shard.tokens();) {
        const int64_t n = std::min<int64_t>(static_cast<int64_t>(ids.size()), shard.tokens() - done);
        shard.read(done, n, ids.data());
        done += n;
        std::string text;
        for (int64_t i = 0; i < n; i++) {
            const int32_t id = ids[static_cast<size_t>(i)];
            if (id == shard.header().eot) {
                if (!first) text += at_line_start ? "<|endoftext|>\n" : "\n<|endoftext|>\n";
                at_line_start = true;
            } else {
                const std::string piece = tokenizer->decode({&id, 1});
                text += piece;
                if (!piece.empty()) at_line_start = piece.back() == '\n';
            }
            first = false;
        }
        if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) break;
    }
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
        throw Error(ExitCode::io, "the text cannot be written to standard output", "check the disk or the program that reads it");
    return static_cast<int>(ExitCode::done);
}

}  // namespace

int tokenize_command(int argc, char** argv) {
    if (std::any_of(argv, argv + argc, [](const char* word) { return std::string_view(word).starts_with("--multiple-choice"); }))
        return tokenize_choices_command(argc, argv);
    TokenizeConfig config;
    std::string documents = "separator:" + config.documents.separator;
    config.threads = allowed_cores();

    std::string vocabulary = "bytes", pattern = pattern_names[0], decoded_shard;
    int64_t train_vocab = 0;

    CLI::App app(
        "Turns text into token shards for training, and holds some documents out for validation.\n"
        "Example:  ./train tokenize --out data/books books/*.txt\n"
        "writes data/books_train_000000.bin, ... and data/books_val_000000.bin, ...\n"
        "Before every document stands an end-of-text mark. With --decode, the other way: prints the text of a shard.\n"
        "Questions with answers to choose from: ./train tokenize --multiple-choice FILE.jsonl --help",
        "./train tokenize");
    auto* inputs = app.add_option("FILE_OR_FOLDER", config.inputs, "text files; of a folder, every file in it and below, sorted by path");
    auto* out = app.add_option("--out", config.out, "prefix of the shards' names; its folder is made if need be");
    auto* chosen =
        app.add_option("--tokenizer", vocabulary,
                       "bytes (256 ids), a tokenizer.json (GPT-2, Llama 3, Qwen), or a folder that holds one; a tokenizer.json is "
                       "copied beside the shards")
            ->capture_default_str();
    auto* learned = app.add_option("--train-vocab", train_vocab,
                                   "learn a byte-level BPE vocabulary of so many tokens from the training split (256 bytes, merges, "
                                   "<|endoftext|>), write it as PREFIX_tokenizer.json, and tokenize with it")
                        ->check(CLI::Range(int64_t{257}, int64_t{1} << 20))
                        ->excludes(chosen);
    app.add_option("--pattern", pattern, "how --train-vocab splits text into words")
        ->check(CLI::IsMember(pattern_names))
        ->capture_default_str()
        ->needs(learned);
    app.add_option(
           "--decode", decoded_shard,
           "a shard whose text goes to standard output, documents parted by a line of <|endoftext|>; --tokenizer where the shard does "
           "not say")
        ->excludes(inputs, out, learned);
    app.add_option("--documents", documents,
                   "what a document is: file, lines, or separator:STRING (a line of just STRING ends a document; "
                   "the end of a file always does)")
        ->capture_default_str();
    app.add_option("--val-fraction", config.val_fraction, "share of the documents held out for validation; one at least, unless 0")
        ->check(CLI::Range(0.0, 0.9))
        ->capture_default_str();
    app.add_option("--seed", config.seed, "decides which documents are held out")->capture_default_str();
    app.add_option("--shard-tokens", config.shard_tokens, "a shard is closed after the document that brings it to this many tokens")
        ->check(CLI::Range(int64_t{1}, int64_t{2'000'000'000}))
        ->capture_default_str();
    app.add_option("--threads", config.threads, "threads that encode")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_flag("--force", config.force, "replace the shards that --out has already");

    if (!parse_command_line(app, argc, argv)) return static_cast<int>(ExitCode::done);
    if (!(config.val_fraction >= 0))  // NaN passes every comparison of a range check
        throw Error(ExitCode::usage, "--val-fraction: not a number", "./train tokenize --help lists the options");
    if (!decoded_shard.empty()) return decode_shard(decoded_shard, chosen->count() > 0 ? vocabulary : "");
    if (config.inputs.empty() || config.out.empty())
        throw Error(ExitCode::usage, config.inputs.empty() ? "no text is named: FILE_OR_FOLDER is required" : "--out is required",
                    "./train tokenize --help shows an example");
    config.documents = DocumentRule::parse(documents);

    std::unique_ptr<Tokenizer> tokenizer =
        learned->count() > 0 ? learn_vocabulary(config, train_vocab, pattern) : open_tokenizer(vocabulary);
    Clock::time_point start = Clock::now();
    TokenizeSummary summary = [&] {
        ProgressLine line("tokenize");
        return tokenize_corpus(config, *tokenizer, [&](double share) { line(share); });
    }();
    double seconds = std::chrono::duration<double>(Clock::now() - start).count();

    int64_t bytes = summary.train.text_bytes + summary.val.text_bytes;
    std::printf("read   %s of text from %lld files in %.1f s (%.0f MB/s)\n", human_bytes(bytes).c_str(),
                static_cast<long long>(summary.files), seconds, static_cast<double>(bytes) / 1e6 / std::max(seconds, 1e-9));
    if (summary.files_without_text > 0)
        std::printf("       %lld of them hold no text\n", static_cast<long long>(summary.files_without_text));
    if (summary.mended_documents > 0)
        std::printf("       %lld documents hold bytes that are not UTF-8: each broken piece became U+FFFD\n",
                    static_cast<long long>(summary.mended_documents));
    if (!summary.tokenizer.empty())
        std::printf("vocab  %lld tokens, %s\n", static_cast<long long>(tokenizer->vocab_size()), summary.tokenizer.c_str());
    print_split("train", summary.train);
    print_split("val", summary.val);
    if (summary.split_inside_document)
        std::printf(
            "note   the text is one document: its last part, from a line end on, is the validation text.\n"
            "       Mark the documents (--documents) to hold out whole ones.\n");
    std::printf("\nnext:  ./train --data '%s_train_*.bin'%s\n", config.out.c_str(),
                summary.val.documents > 0 ? (" --val-data '" + config.out + "_val_*.bin'").c_str() : "");
    return static_cast<int>(ExitCode::done);
}

}  // namespace traincu
