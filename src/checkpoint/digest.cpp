#include "src/checkpoint/digest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/base/error.h"

namespace traincu {

uint64_t hash_bytes(const void* data, int64_t bytes) { return XXH3_64bits(data, static_cast<size_t>(bytes)); }
std::string hash_text(uint64_t hash) { return format("%016llx", static_cast<unsigned long long>(hash)); }

static XXH3_state_t* running(void* state) { return static_cast<XXH3_state_t*>(state); }
void DigestBuilder::Free::operator()(void* state) const { XXH3_freeState(running(state)); }

DigestBuilder::DigestBuilder() : whole_(XXH3_createState()) { XXH3_64bits_reset(running(whole_.get())); }

void DigestBuilder::add_block(const void* data, int64_t bytes) {
    ENSURE(bytes > 0 && bytes <= digest_block && digest_.bytes % digest_block == 0);
    XXH3_64bits_update(running(whole_.get()), data, static_cast<size_t>(bytes));
    digest_.blocks.push_back(hash_bytes(data, bytes));
    digest_.bytes += bytes;
}

FileDigest DigestBuilder::finish() const {
    FileDigest digest = digest_;
    digest.whole = XXH3_64bits_digest(running(whole_.get()));
    return digest;
}

}  // namespace traincu
