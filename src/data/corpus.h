// From text files to token shards: which files, what a document is, which documents are held out for validation.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/data/tokenizer.h"

namespace traincu {

// How a file becomes documents. The end of a file always ends a document; documents of nothing but white space are dropped.
struct DocumentRule {
    enum class Kind { separator, file, lines };
    Kind kind = Kind::separator;
    std::string separator = "<|endoftext|>";  // a line of just this ends a document, and belongs to none

    // "file", "lines", "separator:STRING"; anything else is Error(usage).
    static DocumentRule parse(const std::string& text);
};

// The documents of one file, one after another; holds no more than one of them in memory. What cannot be read is Error(data).
class DocumentReader {
public:
    DocumentReader(std::string path, const DocumentRule& rule);
    ~DocumentReader();
    DocumentReader(const DocumentReader&) = delete;
    DocumentReader& operator=(const DocumentReader&) = delete;

    bool next(std::string& document);  // false: no more
    int64_t bytes_read() const { return bytes_read_; }

private:
    bool next_line(std::string_view& line);  // with its newline

    std::string path_;
    DocumentRule rule_;
    std::FILE* file_;
    char* line_ = nullptr;  // getline's buffer
    size_t line_capacity_ = 0;
    int64_t bytes_read_ = 0;
};

struct TokenizeConfig {
    std::vector<std::string> inputs;  // files, and folders with all that is in them
    std::string out;                  // PREFIX: PREFIX_train_000000.bin, ..., PREFIX_val_000000.bin, ...
    DocumentRule documents;
    double val_fraction = 0.05;
    int64_t shard_tokens = 100'000'000;
    uint64_t seed = 0;
    int threads = 1;
    bool force = false;  // replace what PREFIX has already
};

struct SplitSummary {
    int64_t documents = 0, tokens = 0, text_bytes = 0;  // tokens: with the end-of-text ids
    std::vector<std::string> shards;
    std::map<int64_t, int64_t> lengths;  // tokens of a document -> how many documents

    int64_t length_quantile(double q) const;  // the smallest length that a share q of the documents does not exceed
};

struct TokenizeSummary {
    SplitSummary train, val;
    int64_t files = 0, files_without_text = 0;
    int64_t mended_documents = 0;        // held bytes that are not UTF-8, where the tokenizer takes UTF-8 only
    std::string tokenizer;               // the file written beside the shards; empty for bytes
    bool split_inside_document = false;  // there was one document only: its end is the validation text
};

// Makes the folder of --out. Error(usage) where it is none, or has shards under this prefix and config.force is not given.
void make_room(const TokenizeConfig& config);

// Hands over the documents that tokenize_corpus() puts into the training split of the same config, in order, some at a time.
void read_train_documents(const TokenizeConfig& config, const std::function<void(std::span<const std::string>)>& documents,
                          const std::function<void(double)>& progress);

// Writes the shards, and beside them PREFIX_tokenizer.json unless the tokenizer is the bytes; they get their names together, when all are
// on disk. A document is held out if its draw, a function of seed and
// document number alone, is below val_fraction; at least one is held out and at least one is kept. progress: the share done, 0 to 1.
TokenizeSummary tokenize_corpus(const TokenizeConfig& config, const Tokenizer& tokenizer, const std::function<void(double)>& progress);

}  // namespace traincu
