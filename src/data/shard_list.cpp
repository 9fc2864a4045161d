// Which shards a --data value means, and what is in one: the parts of shard.h that talk to people.
#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/data/shard.h"
#include "src/data/tokenizer.h"

namespace traincu {

namespace {

namespace fs = std::filesystem;

std::vector<std::string> shards_in_folder(const std::string& folder) {
    std::vector<std::string> found;
    bool train = false, val = false;
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        std::string name = it->path().filename().string();
        if (it->path().extension() != ".bin") continue;
        found.push_back(it->path().string());
        train |= name.find("train") != std::string::npos;
        val |= name.find("val") != std::string::npos;
    }
    if (error) throw Error(ExitCode::data, "cannot list " + folder + ": " + error.message(), "check the folder's permissions").file(folder);
    // A folder that holds both would silently train on the validation text.
    if (train && val)
        throw Error(ExitCode::data, folder + " holds both training and validation shards",
                    "name them apart: --data '" + folder + "/*train*.bin' --val-data '" + folder + "/*val*.bin'")
            .file(folder);
    return found;
}

std::vector<std::string> expand_one(const std::string& pattern) {
    std::error_code ignored;
    if (fs::is_directory(pattern, ignored)) return shards_in_folder(pattern);
    if (fs::exists(pattern, ignored)) return {pattern};
    glob_t matches{};
    std::vector<std::string> found;
    if (::glob(pattern.c_str(), 0, nullptr, &matches) == 0) found.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    ::globfree(&matches);
    return found;
}

// The beginning of a text on one line.
std::string printable(const std::string& text) {
    std::string line;
    for (unsigned char c : text) {
        if (c == '\n')
            line += "\\n";
        else if (c < 0x20 || c == 0x7f)
            line += format("\\x%02x", c);
        else
            line += static_cast<char>(c);
    }
    return line;
}

}  // namespace

std::vector<std::string> expand_glob(const std::string& patterns) {
    std::vector<std::string> all;
    for (size_t begin = 0; begin <= patterns.size();) {
        size_t comma = std::min(patterns.find(',', begin), patterns.size());
        std::string pattern = patterns.substr(begin, comma - begin);
        std::vector<std::string> found = expand_one(pattern);
        if (found.empty())
            throw Error(ExitCode::data, "no token shard found for '" + pattern + "'",
                        "check the path; put patterns in quotes; make shards with  ./train tokenize --out PREFIX TEXT_FILES")
                .file(pattern);
        all.insert(all.end(), found.begin(), found.end());
        begin = comma + 1;
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

std::string describe_shard(const std::string& path) {
    Shard shard(path);
    const ShardHeader& header = shard.header();
    std::string note;
    std::unique_ptr<Tokenizer> tokenizer = tokenizer_of_shard(shard, note);
    std::vector<int32_t> ids(size_t{1} << 16), beginning;
    int64_t documents = 0;
    int32_t widest = 0;
    for (int64_t done = 0; done < shard.tokens();) {
        int64_t n = std::min<int64_t>(static_cast<int64_t>(ids.size()), shard.tokens() - done);
        shard.read(done, n, ids.data());
        documents += std::count(ids.begin(), ids.begin() + n, header.eot);
        widest = std::max(widest, *std::max_element(ids.begin(), ids.begin() + n));
        if (done == 0) beginning.assign(ids.begin(), ids.begin() + std::min<int64_t>(n, 200));
        done += n;
    }
    auto number = [](int64_t n) { return static_cast<long long>(n); };
    std::string text = format("file        %s: token shard, %s\n", path.c_str(), human_bytes(shard.file_bytes()).c_str());
    text += format("tokens      %lld, %d bits each\n", number(shard.tokens()), 8 * header.bytes_per_token);
    text += format("vocabulary  %lld, end-of-text %d%s\n", number(header.vocab_size), header.eot,
                   header.stated                 ? ""
                   : header.bytes_per_token == 2 ? " (not stated: GPT-2 assumed)"
                                                 : " (not stated: Llama 3 assumed)");
    text += format("tokenizer   %s\n", tokenizer ? tokenizer->name().c_str() : header.tokenizer == 0 ? "not stated" : note.c_str());
    text +=
        format("documents   %lld%s\n", number(documents),
               documents > 0
                   ? format(", %.1f tokens each on average", static_cast<double>(shard.tokens()) / static_cast<double>(documents)).c_str()
                   : " (no end-of-text id found)");
    bool within = widest < header.vocab_size;
    text += format("integrity   size fits the header; the largest id is %d, %s\n", widest,
                   within ? "within the vocabulary" : "outside the assumed vocabulary: another tokenizer made this");
    if (tokenizer && !beginning.empty()) text += "begins      " + printable(tokenizer->decode(beginning)) + "\n";
    if (!tokenizer && !beginning.empty()) {
        text += "begins     ";
        for (size_t i = 0; i < std::min<size_t>(beginning.size(), 16); i++) text += format(" %d", beginning[i]);
        text += "\n";
    }
    return text;
}

}  // namespace traincu
