// Token shards: a 1,024-byte header of 256 little-endian int32, then the tokens. The format is llm.c's, so public shards work as they are.
//
//   word   what                                                 written by
//   [0,1]  20240520, 1: uint16 tokens; 20240801, 7: uint32      everyone
//   [2]    number of tokens, unsigned                           everyone
//   [3]    vocabulary size, 0 = not stated                      ./train tokenize
//   [4]    end-of-text id + 1, 0 = not stated                   ./train tokenize
//   [5]    tokenizer, 1 = bytes, 2 = a tokenizer.json,          ./train tokenize
//          0 = not stated
//   [6,7]  Tokenizer::fingerprint(), low and high half          ./train tokenize
//
// What is not stated is assumed: GPT-2 in 16 bits (vocabulary 50257, end-of-text 50256), Llama 3 in 32 bits (128256, 128000).
// A document is its end-of-text id FIRST, then its tokens. In a shard that states them no document straddles two shards.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace traincu {

// An open file, closed when it goes.
class FileHandle {
public:
    FileHandle() = default;
    explicit FileHandle(int descriptor) : fd_(descriptor) {}
    FileHandle(FileHandle&& other) noexcept : fd_(other.release()) {}
    FileHandle& operator=(FileHandle&& other) noexcept;
    ~FileHandle();

    explicit operator bool() const { return fd_ >= 0; }
    int get() const { return fd_; }
    int release();  // gives the descriptor away

private:
    int fd_ = -1;
};

struct ShardHeader {
    int64_t tokens = 0;
    int bytes_per_token = 2;
    int64_t vocab_size = 0;
    int32_t eot = 0;
    int32_t tokenizer = 0;     // Tokenizer::kind(), 0 = unknown
    uint64_t fingerprint = 0;  // Tokenizer::fingerprint()
    bool stated = false;       // vocabulary and end-of-text stand in the header; else they are assumed
};

class Shard {
public:
    static constexpr int64_t header_bytes = 1024;
    static constexpr int64_t max_tokens = 0xFFFFFFFF;

    // Reads and checks the header and the size: Error(data) if this is not a whole shard. vocab_size: the model's V, 0 = whatever the
    // shard has. The file is opened again by the first read(), so a thousand shards need no thousand descriptors.
    explicit Shard(std::string path, int64_t vocab_size = 0);

    // Tokens [begin, begin+count) as int32. An id >= V is Error(data) with shard, index, byte offset, id and V. One thread at a time.
    void read(int64_t begin, int64_t count, int32_t* out);
    void close() { file_ = FileHandle(); }

    const std::string& path() const { return path_; }
    const ShardHeader& header() const { return header_; }
    int64_t tokens() const { return header_.tokens; }
    int64_t file_bytes() const { return header_bytes + header_.tokens * header_.bytes_per_token; }
    uint64_t header_hash() const { return header_hash_; }  // XXH64 of the 1,024 bytes

private:
    template <class Id>
    void read_as(int64_t begin, int64_t count, int32_t* out);

    std::string path_;
    ShardHeader header_;
    uint64_t header_hash_ = 0;
    int64_t id_limit_ = 0;  // ids are below this
    FileHandle file_;
};

// Writes one shard under PATH.tmp. Only commit() gives it its name, after fsync; an uncommitted file is removed.
// Every failure to write is Error(io).
class ShardWriter {
public:
    ShardWriter(std::string path, int64_t vocab_size, int32_t eot, int32_t tokenizer_kind, uint64_t fingerprint = 0);
    ~ShardWriter();
    ShardWriter(const ShardWriter&) = delete;
    ShardWriter& operator=(const ShardWriter&) = delete;

    void append(std::span<const int32_t> ids);
    void seal();    // header and fsync: whole, still under its temporary name
    void commit();  // seals if need be, and renames

    int64_t tokens() const { return tokens_; }
    const std::string& path() const { return path_; }

private:
    void flush();
    [[noreturn]] void fail(const char* verb) const;
    std::string temporary() const { return path_ + ".tmp"; }

    std::string path_;
    int64_t vocab_size_;
    int32_t eot_, tokenizer_kind_;
    uint64_t fingerprint_;
    int bytes_per_token_;
    int64_t tokens_ = 0;
    std::vector<unsigned char> buffer_;
    FileHandle file_;
    bool committed_ = false;
};

// The shards meant by a --data value: files, folders (their *.bin) and patterns (* ? [a-z]), separated by commas. Sorted, each once.
// Error(data) where one finds nothing, or where a folder mixes training and validation shards.
std::vector<std::string> expand_glob(const std::string& patterns);

// The text of `./train inspect`: header, documents, the beginning of the text; reads and checks every token.
std::string describe_shard(const std::string& path);

}  // namespace traincu
