#include "src/data/corpus.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>

#include "src/base/error.h"
#include "src/base/files.h"
#include "src/base/philox.h"
#include "src/data/shard.h"
#include "src/data/utf8.h"

namespace traincu {

namespace fs = std::filesystem;

// ------------------------------------------------------------------------------------------------ files and documents

DocumentRule DocumentRule::parse(const std::string& text) {
    const std::string prefix = "separator:";
    if (text == "file") return {Kind::file, ""};
    if (text == "lines") return {Kind::lines, ""};
    if (text.starts_with(prefix) && text.size() > prefix.size()) return {Kind::separator, text.substr(prefix.size())};
    throw Error(ExitCode::usage, "--documents cannot be '" + text + "'", "use file, lines, or separator:STRING");
}

DocumentReader::DocumentReader(std::string path, const DocumentRule& rule)
    : path_(std::move(path)), rule_(rule), file_(std::fopen(path_.c_str(), "rb")) {
    if (!file_)
        throw Error(ExitCode::data, path_ + " cannot be opened: " + std::strerror(errno), "check its path and permissions").file(path_);
}

DocumentReader::~DocumentReader() {
    std::fclose(file_);
    std::free(line_);
}

bool DocumentReader::next_line(std::string_view& line) {
    ssize_t n = ::getline(&line_, &line_capacity_, file_);
    if (n < 0 && !std::feof(file_))
        throw Error(ExitCode::data, path_ + " cannot be read: " + std::strerror(errno), "check the disk, or leave the file out")
            .file(path_)
            .offset(bytes_read_);
    if (n < 0) return false;
    line = {line_, static_cast<size_t>(n)};
    bytes_read_ += n;
    return true;
}

bool DocumentReader::next(std::string& document) {
    auto content = [](std::string_view line) {  // without the line's end
        while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
        return line;
    };
    auto has_text = [](std::string_view text) { return text.find_first_not_of(" \t\r\n\f\v") != std::string_view::npos; };
    document.clear();
    for (std::string_view line; next_line(line);) {
        if (rule_.kind == DocumentRule::Kind::lines)
            document = content(line);
        else if (rule_.kind == DocumentRule::Kind::file || content(line) != rule_.separator) {
            document += line;
            continue;
        }
        if (has_text(document)) return true;
        document.clear();
    }
    return has_text(document);
}

namespace {

std::vector<std::string> text_files(const std::vector<std::string>& inputs) {
    std::vector<std::string> files;
    for (const std::string& input : inputs) {
        std::error_code error;
        if (!fs::is_directory(input, error)) {
            if (fs::exists(input, error) && !fs::is_regular_file(input, error))
                throw Error(ExitCode::data, input + " is not a regular file", "text is read twice: save it to a file first").file(input);
            files.push_back(input);
            continue;
        }
        fs::recursive_directory_iterator it(input, error), end;
        for (; !error && it != end; it.increment(error))
            if (std::error_code ignored; it->is_regular_file(ignored)) files.push_back(it->path().string());
        if (error)
            throw Error(ExitCode::data, input + " cannot be listed: " + error.message(), "check the folder's permissions").file(input);
    }
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    return files;
}

// A folder of text often holds the shards made from it; as text they would be noise.
void refuse_shards(const std::string& path) {
    try {
        Shard shard(path);
    } catch (const Error&) {
        return;
    }
    throw Error(ExitCode::data, path + " is a token shard already, not text", "leave it out, or keep shards in a folder of their own")
        .file(path);
}

// ------------------------------------------------------------------------------------------------ what is held out

// One number in (0,1) a document: those below the threshold are validation.
double draw(uint64_t seed, int64_t document) { return Random{seed, RandomStream::sampling}.uniform(0, static_cast<uint64_t>(document)); }

struct Survey {
    int64_t documents = 0, bytes = 0, files_without_text = 0;
    double threshold = 0;
};

// A first pass over the text: that every file can be read, how many documents there are, and a threshold that leaves neither side empty.
Survey survey(const std::vector<std::string>& files, const TokenizeConfig& config, const std::function<void(int64_t)>& read) {
    Survey survey;
    double smallest = 1, largest = 0;
    std::string document;
    for (const std::string& file : files) {
        int64_t before = survey.documents;
        DocumentReader reader(file, config.documents);
        refuse_shards(file);
        while (reader.next(document)) {
            double u = draw(config.seed, survey.documents++);
            smallest = std::min(smallest, u), largest = std::max(largest, u);
            read(survey.bytes + reader.bytes_read());
        }
        survey.bytes += reader.bytes_read();
        survey.files_without_text += survey.documents == before;
    }
    survey.threshold = config.val_fraction;
    if (config.val_fraction > 0 && smallest >= survey.threshold) survey.threshold = std::nextafter(smallest, 1.0);
    if (largest < survey.threshold) survey.threshold = largest;
    return survey;
}

// Where the validation part of a lone document begins: the line end next to its share.
size_t split_position(const std::string& document, double val_fraction) {
    auto wanted = static_cast<size_t>(static_cast<double>(document.size()) * (1 - val_fraction));
    size_t before = document.rfind('\n', wanted), after = document.find('\n', wanted);
    bool usable_after = after != std::string::npos && after + 1 < document.size();
    if (usable_after && (before == std::string::npos || after - wanted <= wanted - before)) return after + 1;
    if (before != std::string::npos) return before + 1;
    return usable_after ? after + 1 : std::clamp<size_t>(wanted, 1, document.size() - 1);
}

// The files, after the first pass over them.
struct Corpus {
    std::vector<std::string> files;
    int64_t bytes_of_two_passes = 0;
    Survey known;
    bool split_inside_document = false;

    double share(int64_t bytes) const {
        return bytes_of_two_passes > 0 ? static_cast<double>(bytes) / static_cast<double>(bytes_of_two_passes) : 1.0;
    }
};

Corpus open_corpus(const TokenizeConfig& config, const std::function<void(double)>& progress) {
    Corpus corpus;
    corpus.files = text_files(config.inputs);
    for (const std::string& file : corpus.files) {
        std::error_code ignored;
        if (auto bytes = fs::file_size(file, ignored); !ignored) corpus.bytes_of_two_passes += 2 * static_cast<int64_t>(bytes);
    }
    corpus.known = survey(corpus.files, config, [&](int64_t bytes) { progress(corpus.share(bytes)); });
    if (corpus.known.documents == 0)
        throw Error(ExitCode::data, format("no text found in %zu file(s)", corpus.files.size()), "name files or folders that hold text");
    corpus.split_inside_document = corpus.known.documents == 1 && config.val_fraction > 0;
    return corpus;
}

// The second pass: every document in order, gathered until they are worth working on in parallel, and for each whether it is held out.
void read_documents(const TokenizeConfig& config, const Corpus& corpus, const std::function<void(double)>& progress,
                    const std::function<void(std::vector<std::string>& texts, const std::vector<char>& held_out)>& consume) {
    std::vector<std::string> texts;
    std::vector<char> held_out;
    int64_t gathered = 0, document_number = 0, bytes = corpus.known.bytes;
    auto hand_over = [&] {
        consume(texts, held_out);
        texts.clear(), held_out.clear(), gathered = 0;
    };
    for (const std::string& file : corpus.files) {
        DocumentReader reader(file, config.documents);
        for (std::string document; reader.next(document);) {
            gathered += static_cast<int64_t>(document.size());
            texts.push_back(std::move(document));
            held_out.push_back(!corpus.split_inside_document && draw(config.seed, document_number) < corpus.known.threshold);
            document_number++;
            if (gathered < int64_t{4} << 20) continue;
            if (!corpus.split_inside_document) hand_over();
            progress(corpus.share(bytes + reader.bytes_read()));
        }
        bytes += reader.bytes_read();
    }
    if (corpus.split_inside_document) {
        if (texts.size() != 1 || texts[0].size() < 2)
            throw Error(ExitCode::data, "the only document is too short to hold out a part of it", "use more text, or --val-fraction 0");
        const size_t at = split_position(texts[0], config.val_fraction);
        texts.push_back(texts[0].substr(at));
        texts[0].resize(at);
        held_out = {false, true};
    }
    hand_over();
}

// ------------------------------------------------------------------------------------------------ writing

// The shards of one split, all under temporary names until commit(). A shard is closed after the document that fills it.
class SplitWriter {
public:
    SplitWriter(std::string prefix, const TokenizeConfig& config, const Tokenizer& tokenizer)
        : prefix_(std::move(prefix)), shard_tokens_(config.shard_tokens), tokenizer_(tokenizer) {}

    void add(std::span<const int32_t> ids, int64_t text_bytes) {
        if (shards_.empty() || shards_.back()->tokens() >= shard_tokens_) {
            if (!shards_.empty()) shards_.back()->seal();
            std::string path = prefix_ + format("_%06d.bin", static_cast<int>(shards_.size()));
            shards_.push_back(std::make_unique<ShardWriter>(path, tokenizer_.vocab_size(), tokenizer_.eot(), tokenizer_.kind(),
                                                            tokenizer_.fingerprint()));
            summary_.shards.push_back(path);
        }
        int32_t eot = tokenizer_.eot();
        shards_.back()->append({&eot, 1});
        shards_.back()->append(ids);
        auto tokens = static_cast<int64_t>(ids.size()) + 1;
        summary_.documents++, summary_.tokens += tokens, summary_.text_bytes += text_bytes, summary_.lengths[tokens]++;
    }
    void seal() {
        if (!shards_.empty()) shards_.back()->seal();
    }
    void commit() {
        for (auto& shard : shards_) shard->commit();
    }
    SplitSummary& summary() { return summary_; }

private:
    std::string prefix_;
    int64_t shard_tokens_;
    const Tokenizer& tokenizer_;
    std::vector<std::unique_ptr<ShardWriter>> shards_;
    SplitSummary summary_;
};

// What an earlier run left under this prefix: PREFIX_train_000000.bin and so on, and PREFIX_tokenizer.json.
std::vector<std::string> earlier_files(const std::string& prefix) {
    fs::path folder = fs::path(prefix).parent_path();
    std::string stem = fs::path(prefix).filename().string();
    std::vector<std::string> found;
    std::error_code error;
    for (fs::directory_iterator it(folder.empty() ? "." : folder, error), end; !error && it != end; it.increment(error)) {
        std::string name = it->path().filename().string();
        const bool shard = (name.starts_with(stem + "_train_") || name.starts_with(stem + "_val_")) && name.ends_with(".bin");
        if (shard || name == stem + "_tokenizer.json") found.push_back((folder / name).string());
    }
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace

int64_t SplitSummary::length_quantile(double q) const {
    auto rank = static_cast<int64_t>(std::ceil(q * static_cast<double>(documents)));
    int64_t seen = 0;
    for (auto [length, count] : lengths)
        if ((seen += count) >= std::max<int64_t>(rank, 1)) return length;
    return 0;
}

void make_room(const TokenizeConfig& config) {
    if (config.out.empty() || config.out.back() == '/')
        throw Error(ExitCode::usage, "--out '" + config.out + "' is a folder, not a prefix",
                    "add the beginning of a name, such as " + config.out + "books");
    std::vector<std::string> earlier = earlier_files(config.out);
    if (!earlier.empty() && !config.force)
        throw Error(ExitCode::usage, format("%s exists already (%zu files under this prefix)", earlier[0].c_str(), earlier.size()),
                    "choose another --out, or replace them with --force")
            .file(earlier[0]);
    fs::path folder = fs::path(config.out).parent_path();
    std::error_code error;
    if (!folder.empty()) fs::create_directories(folder, error);
    if (error)
        throw Error(ExitCode::io, folder.string() + " cannot be created: " + error.message(), "choose another --out").file(folder.string());
}

TokenizeSummary tokenize_corpus(const TokenizeConfig& config, const Tokenizer& tokenizer, const std::function<void(double)>& progress) {
    ENSURE(config.val_fraction >= 0 && config.val_fraction < 1 && config.shard_tokens > 0 && config.threads > 0);
    make_room(config);
    const Corpus corpus = open_corpus(config, progress);

    TokenizeSummary summary;
    summary.files = static_cast<int64_t>(corpus.files.size()), summary.files_without_text = corpus.known.files_without_text;
    summary.split_inside_document = corpus.split_inside_document;
    SplitWriter train(config.out + "_train", config, tokenizer), val(config.out + "_val", config, tokenizer);
    std::vector<std::vector<int32_t>> ids;
    read_documents(config, corpus, progress, [&](const std::vector<std::string>& texts, const std::vector<char>& held_out) {
        ids.assign(texts.size(), {});
        int64_t mended = 0;
        std::exception_ptr failure;  // an exception must not leave the threads' loop
#pragma omp parallel for schedule(dynamic, 16) num_threads(config.threads) reduction(+ : mended) if (config.threads > 1)
        for (size_t i = 0; i < texts.size(); i++) try {
                mended += !tokenizer.takes_any_bytes() && !is_utf8(texts[i]);
                ids[i] = tokenizer.encode(texts[i]);
            } catch (...) {
#pragma omp critical
                failure = std::current_exception();
            }
        if (failure) std::rethrow_exception(failure);
        summary.mended_documents += mended;
        for (size_t i = 0; i < texts.size(); i++) (held_out[i] ? val : train).add(ids[i], static_cast<int64_t>(texts[i].size()));
    });
    train.seal(), val.seal();
    for (const std::string& old : earlier_files(config.out))
        if (std::error_code error; !fs::remove(old, error) && error)
            throw Error(ExitCode::io, old + " cannot be replaced: " + error.message(), "check the folder's permissions").file(old);
    if (tokenizer.fingerprint() != 0) {  // before the shards that name it
        summary.tokenizer = tokenizer_path(config.out + "_train_");
        write_whole_file(summary.tokenizer, tokenizer.json());
    }
    train.commit(), val.commit();
    summary.train = std::move(train.summary()), summary.val = std::move(val.summary());
    return summary;
}

void read_train_documents(const TokenizeConfig& config, const std::function<void(std::span<const std::string>)>& documents,
                          const std::function<void(double)>& progress) {
    const Corpus corpus = open_corpus(config, progress);
    std::vector<std::string> kept;
    read_documents(config, corpus, progress, [&](std::vector<std::string>& texts, const std::vector<char>& held_out) {
        kept.clear();
        for (size_t i = 0; i < texts.size(); i++)
            if (!held_out[i]) kept.push_back(std::move(texts[i]));
        documents(kept);
    });
}

}  // namespace traincu
