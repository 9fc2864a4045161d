// Packing: which tokens of a shard share a window of T tokens.
//
// stream      window i is tokens [i T, (i+1) T), documents or not, as llm.c reads. (n-1) / T windows: each needs one token more, its last
// target. documents   documents are cut into pieces of at most T tokens, and the pieces are put into windows best-fit-decreasing, as Ding
// et al.,
//             "Fewer Truncations Improve Language Modeling" (ICML 2024): longest first, each into the fullest window that still has room.
//
// The packs depend on the shard's tokens and on T alone; the epoch's shuffle only orders them. So the number of samples
// never changes and a cursor is two numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/philox.h"
#include "src/data/shard.h"

namespace traincu {

struct Piece {
    int64_t begin = 0, length = 0;  // tokens [begin, begin+length) of a shard
    bool operator==(const Piece&) const = default;
};

// A list of packs; pack i is what stands in one window.
class PackList {
public:
    int64_t count() const { return static_cast<int64_t>(ends_.size()); }
    std::span<const Piece> pack(int64_t i) const {
        size_t begin = i == 0 ? 0 : ends_[static_cast<size_t>(i) - 1];
        return {pieces_.data() + begin, ends_[static_cast<size_t>(i)] - begin};
    }
    void add(std::span<const Piece> pack) {
        pieces_.insert(pieces_.end(), pack.begin(), pack.end());
        ends_.push_back(pieces_.size());
    }

private:
    std::vector<Piece> pieces_;  // 16 bytes a piece, for one shard at a time
    std::vector<size_t> ends_;
};

// The documents of a shard as pieces of at most seq_len tokens, in order. A document runs from its end-of-text id to the next one;
// what stands before the first is a document too. The last token of a shard that may cut a document (one that states no vocabulary) is only
// a target, as in stream packing. Error(data) if such a shard has no end-of-text id at all.
std::vector<Piece> document_pieces(Shard& shard, int64_t seq_len);

// Best-fit-decreasing, over groups of consecutive pieces worth about `group_windows` windows: time and disorder stay bounded.
PackList pack_best_fit(std::span<const Piece> pieces, int64_t seq_len, int64_t group_windows = 1024);

// 0..n-1 in an order that depends on (random.seed, random.stream, epoch, which) only. Fisher and Yates's shuffle.
std::vector<int64_t> permutation(int64_t n, Random random, int64_t epoch, int64_t which);

}  // namespace traincu
