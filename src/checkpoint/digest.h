// Digest of a file: one 64-bit XXH3 per block of 4 MiB, so that damage can be placed, and one over the whole.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace traincu {

constexpr int64_t digest_block = int64_t{4} << 20;

uint64_t hash_bytes(const void* data, int64_t bytes);
std::string hash_text(uint64_t hash);  // 16 hexadecimal digits

struct FileDigest {
    int64_t bytes = 0;
    uint64_t whole = 0;
    std::vector<uint64_t> blocks;
};

class DigestBuilder {
public:
    DigestBuilder();
    // Blocks in file order: every one digest_block bytes long, the last one possibly shorter.
    void add_block(const void* data, int64_t bytes);
    FileDigest finish() const;

private:
    struct Free {
        void operator()(void* state) const;
    };
    std::unique_ptr<void, Free> whole_;  // XXH3's running state
    FileDigest digest_;
};

}  // namespace traincu
