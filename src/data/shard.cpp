#include "src/data/shard.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/base/error.h"

namespace traincu {

static_assert(std::endian::native == std::endian::little, "shards are little-endian and are read as they lie");

namespace {

constexpr uint32_t magic_16bit = 20240520, magic_32bit = 20240801, magic_llmc_model = 20240326, magic_choices = 20240522;
constexpr uint32_t version_16bit = 1, version_32bit = 7;
constexpr int64_t header_words = Shard::header_bytes / 4;
using HeaderWords = std::array<uint32_t, header_words>;

Error bad_shard(const std::string& path, const std::string& what, const std::string& remedy, int64_t offset = 0) {
    return Error(ExitCode::data, path + " " + what, remedy).file(path).offset(offset);
}

FileHandle open_shard(const std::string& path) {
    FileHandle file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) throw bad_shard(path, format("cannot be opened: %s", std::strerror(errno)), "check --data and the file's permissions");
    return file;
}

// Reads `bytes` at `offset`, or up to the end of the file; returns how many it read.
int64_t pread_all(const FileHandle& file, const std::string& path, void* out, int64_t bytes, int64_t offset) {
    int64_t done = 0;
    while (done < bytes) {
        ssize_t n = ::pread(file.get(), static_cast<char*>(out) + done, static_cast<size_t>(bytes - done), offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            throw Error(ExitCode::io, format("%s cannot be read: %s", path.c_str(), std::strerror(errno)), "check the disk and the mount")
                .file(path)
                .offset(offset + done);
        if (n == 0) break;
        done += n;
    }
    return done;
}

// What a file that is no shard looks like, so that the message can say what to do. head: its first bytes, at most 1,024.
void recognise_foreign(const std::string& path, const HeaderWords& words, int64_t head_bytes, int64_t file_bytes) {
    const std::string need = "--data takes token shards: make some with  ./train tokenize --out PREFIX TEXT_FILES";
    const auto* head = reinterpret_cast<const unsigned char*>(words.data());
    auto is_text = [](unsigned char c) { return c >= 0x20 || c == '\n' || c == '\r' || c == '\t' || c == '\f'; };
    uint64_t json_bytes = uint64_t{words[1]} << 32 | words[0];

    if (words[0] == __builtin_bswap32(magic_16bit) || words[0] == __builtin_bswap32(magic_32bit))
        throw bad_shard(path, "is a token shard in big-endian byte order", "write it again with little-endian integers");
    if (head_bytes > 8 && head[8] == '{' && json_bytes < static_cast<uint64_t>(file_bytes))
        throw bad_shard(path, "is a safetensors file (model weights), not a token shard", need);
    if (words[0] == magic_llmc_model) throw bad_shard(path, "is an llm.c model checkpoint, not a token shard", need);
    if (words[0] == magic_choices)
        throw bad_shard(path, "is a multiple-choice set, not a token shard", "give it to ./train eval --choices NAME=" + path);
    if (head[0] == 0x1f && head[1] == 0x8b) throw bad_shard(path, "is gzip-compressed", "unpack it first: gunzip " + path);
    if (std::all_of(head, head + head_bytes, is_text))
        throw bad_shard(path, "is text, not a token shard", "turn it into shards:  ./train tokenize --out PREFIX " + path);
}

ShardHeader parse_header(const std::string& path, const HeaderWords& words, int64_t head_bytes, int64_t file_bytes) {
    if (file_bytes == 0) throw bad_shard(path, "is empty", "write the shard again, or leave it out of --data");
    bool known_magic = head_bytes >= 4 && (words[0] == magic_16bit || words[0] == magic_32bit);
    if (!known_magic) recognise_foreign(path, words, head_bytes, file_bytes);
    if (head_bytes < Shard::header_bytes)
        throw bad_shard(path, format("ends after %lld bytes, inside the 1,024-byte header", static_cast<long long>(file_bytes)),
                        "it is cut off: download or write it again", file_bytes);
    if (!known_magic)
        throw bad_shard(path, format("is not a token shard: it begins with %u, not with %u or %u", words[0], magic_16bit, magic_32bit),
                        "make shards with  ./train tokenize --out PREFIX TEXT_FILES");
    bool wide = words[0] == magic_32bit;
    if (words[1] != (wide ? version_32bit : version_16bit))
        throw bad_shard(path,
                        format("has version %u; this program reads version %u of %d-bit shards", words[1],
                               wide ? version_32bit : version_16bit, wide ? 32 : 16),
                        "write the shard again, or use the program that wrote it", 4);

    ShardHeader header;
    header.tokens = words[2];
    header.bytes_per_token = wide ? 4 : 2;
    int64_t expected = Shard::header_bytes + header.tokens * header.bytes_per_token;
    if (file_bytes != expected)
        throw bad_shard(path,
                        format("is %lld bytes long, but its header states %lld tokens, which makes %lld bytes",
                               static_cast<long long>(file_bytes), static_cast<long long>(header.tokens), static_cast<long long>(expected)),
                        file_bytes < expected ? "it is cut off: download or write it again" : "it is damaged: download or write it again",
                        8);

    header.stated = words[3] != 0;
    header.vocab_size = header.stated ? words[3] : wide ? 128256 : 50257;
    header.eot = header.stated ? static_cast<int32_t>(words[4] - 1) : wide ? 128000 : 50256;
    header.tokenizer = static_cast<int32_t>(words[5]);
    header.fingerprint = uint64_t{words[7]} << 32 | words[6];
    bool possible = header.vocab_size <= (wide ? int64_t{1} << 31 : int64_t{1} << 16) && header.eot >= 0 && header.eot < header.vocab_size;
    if (!possible || (!header.stated && words[4] != 0))
        throw bad_shard(
            path, format("states an impossible vocabulary (%u) and end-of-text id (%lld)", words[3], static_cast<long long>(words[4]) - 1),
            "its header is damaged: write the shard again", 12);
    return header;
}

}  // namespace

// ------------------------------------------------------------------------------------------------ reading

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = other.release();
    }
    return *this;
}

FileHandle::~FileHandle() {
    if (fd_ >= 0) ::close(fd_);
}

int FileHandle::release() {
    int fd = fd_;
    fd_ = -1;
    return fd;
}

Shard::Shard(std::string path, int64_t vocab_size) : path_(std::move(path)) {
    FileHandle file = open_shard(path_);
    struct stat info {};
    if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
        throw bad_shard(path_, "is not a regular file", "--data takes shards, folders of shards, or patterns such as 'data/*train*.bin'");
    HeaderWords words{};
    int64_t head_bytes = pread_all(file, path_, words.data(), header_bytes, 0);
    header_ = parse_header(path_, words, head_bytes, info.st_size);
    header_hash_ = XXH64(words.data(), sizeof words, 0);

    if (vocab_size > 0 && header_.stated && header_.vocab_size > vocab_size)
        throw bad_shard(path_,
                        format("was written with a vocabulary of %lld, but the model has %lld", static_cast<long long>(header_.vocab_size),
                               static_cast<long long>(vocab_size)),
                        format("use --vocab-size %lld, or other shards", static_cast<long long>(header_.vocab_size)), 12);
    // ids become int32, and -1 means "no target": whatever V is, 31 bits are the most
    int64_t representable = header_.bytes_per_token == 2 ? int64_t{1} << 16 : int64_t{1} << 31;
    id_limit_ = std::min(representable, vocab_size > 0 ? vocab_size : header_.stated ? header_.vocab_size : representable);
}

template <class Id>
void Shard::read_as(int64_t begin, int64_t count, int32_t* out) {
    std::array<Id, 8192> block;
    while (count > 0) {
        int64_t n = std::min<int64_t>(count, block.size()), bytes = n * static_cast<int64_t>(sizeof(Id));
        int64_t offset = header_bytes + begin * static_cast<int64_t>(sizeof(Id));
        if (int64_t got = pread_all(file_, path_, block.data(), bytes, offset); got < bytes)
            throw bad_shard(path_, "became shorter while it was read", "let nothing else write to the data folder during a run",
                            offset + got);
        uint32_t widest = 0;
        for (int64_t i = 0; i < n; i++) {
            uint32_t id = block[static_cast<size_t>(i)];
            out[i] = static_cast<int32_t>(id);
            widest = std::max(widest, id);
        }
        if (widest >= id_limit_) {
            auto bad = std::find_if(block.begin(), block.begin() + n, [&](Id id) { return int64_t{id} >= id_limit_; });
            int64_t i = bad - block.begin(), at = offset + i * static_cast<int64_t>(sizeof(Id));
            throw bad_shard(
                path_,
                format("holds token id %lld at index %lld (byte %lld), outside the vocabulary of %lld", static_cast<long long>(*bad),
                       static_cast<long long>(begin + i), static_cast<long long>(at), static_cast<long long>(id_limit_)),
                "the shard is damaged, or it was made with another tokenizer: check --vocab-size", at);
        }
        begin += n, count -= n, out += n;
    }
}

void Shard::read(int64_t begin, int64_t count, int32_t* out) {
    ENSURE(begin >= 0 && count >= 0 && begin + count <= tokens());
    if (!file_) file_ = open_shard(path_);
    if (header_.bytes_per_token == 2)
        read_as<uint16_t>(begin, count, out);
    else
        read_as<uint32_t>(begin, count, out);
}

// ------------------------------------------------------------------------------------------------ writing

ShardWriter::ShardWriter(std::string path, int64_t vocab_size, int32_t eot, int32_t tokenizer_kind, uint64_t fingerprint)
    : path_(std::move(path)),
      vocab_size_(vocab_size),
      eot_(eot),
      tokenizer_kind_(tokenizer_kind),
      fingerprint_(fingerprint),
      bytes_per_token_(vocab_size <= 65536 ? 2 : 4) {
    ENSURE(vocab_size > 0 && vocab_size <= int64_t{1} << 31 && eot >= 0 && eot < vocab_size);
    file_ = FileHandle(::open(temporary().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file_) fail("created");
    buffer_.assign(Shard::header_bytes, 0);  // room for the header, which is known last
}

ShardWriter::~ShardWriter() {
    if (!committed_) ::unlink(temporary().c_str());
}

void ShardWriter::fail(const char* verb) const {
    int reason = errno;
    throw Error(ExitCode::io, format("%s cannot be %s: %s", temporary().c_str(), verb, std::strerror(reason)),
                "free space or choose another --out; nothing half-written is left behind")
        .file(temporary());
}

void ShardWriter::append(std::span<const int32_t> ids) {
    ENSURE(file_);
    tokens_ += static_cast<int64_t>(ids.size());
    if (tokens_ > Shard::max_tokens)
        throw Error(ExitCode::data, format("%s would hold more than %lld tokens", path_.c_str(), static_cast<long long>(Shard::max_tokens)),
                    "use a smaller --shard-tokens, or --documents lines if one document is that long")
            .file(path_);
    constexpr size_t block = size_t{1} << 18;
    for (size_t begin = 0; begin < ids.size(); begin += block) {
        std::span<const int32_t> part = ids.subspan(begin, std::min(block, ids.size() - begin));
        size_t used = buffer_.size();
        buffer_.resize(used + part.size() * static_cast<size_t>(bytes_per_token_));
        uint32_t widest = 0;
        auto copy = [&](auto narrow) {
            auto* out = reinterpret_cast<decltype(narrow)*>(buffer_.data() + used);  // aligned: the buffer holds whole tokens
            for (size_t i = 0; i < part.size(); i++) {
                widest = std::max(widest, static_cast<uint32_t>(part[i]));
                out[i] = static_cast<decltype(narrow)>(part[i]);
            }
        };
        if (bytes_per_token_ == 2)
            copy(uint16_t{});
        else
            copy(uint32_t{});
        ENSURE(int64_t{widest} < vocab_size_);
        if (buffer_.size() >= 4 * block) flush();
    }
}

void ShardWriter::flush() {
    for (size_t done = 0; done < buffer_.size();) {
        ssize_t n = ::write(file_.get(), buffer_.data() + done, buffer_.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("written");
        done += static_cast<size_t>(n);
    }
    buffer_.clear();
}

void ShardWriter::seal() {
    if (!file_) return;
    flush();
    HeaderWords words{};
    words[0] = bytes_per_token_ == 2 ? magic_16bit : magic_32bit;
    words[1] = bytes_per_token_ == 2 ? version_16bit : version_32bit;
    words[2] = static_cast<uint32_t>(tokens_);
    words[3] = static_cast<uint32_t>(vocab_size_);
    words[4] = static_cast<uint32_t>(eot_) + 1;
    words[5] = static_cast<uint32_t>(tokenizer_kind_);
    words[6] = static_cast<uint32_t>(fingerprint_);
    words[7] = static_cast<uint32_t>(fingerprint_ >> 32);
    if (::pwrite(file_.get(), words.data(), sizeof words, 0) != static_cast<ssize_t>(sizeof words)) fail("written");
    if (::fsync(file_.get()) != 0) fail("flushed to disk");
    if (::close(file_.release()) != 0) fail("closed");
    buffer_ = {};
}

void ShardWriter::commit() {
    seal();
    if (::rename(temporary().c_str(), path_.c_str()) != 0) fail("renamed");
    committed_ = true;
    // the new name lives in the folder, and is only safe once the folder itself is flushed
    size_t slash = path_.rfind('/');
    std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    FileHandle directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fsync(directory.get()) != 0) fail("flushed to disk");
}

}  // namespace traincu
