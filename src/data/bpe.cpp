#include "src/data/bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <queue>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/base/error.h"

namespace traincu {

namespace {

// The words that a thread met last: text is mostly repetition. Each has one place, given by its hash, and pushes out who was there.
class WordCache {
public:
    struct Entry {  // one cache line
        static constexpr size_t max_bytes = 30, max_ids = 8;
        uint8_t bytes = 0, count = 0;  // bytes 0: empty
        char word[max_bytes];
        int32_t ids[max_ids];

        bool holds(std::string_view text) const { return bytes == text.size() && std::memcmp(word, text.data(), bytes) == 0; }
    };
    static_assert(sizeof(Entry) == 64);

    Entry& entry_for(std::string_view word, uint64_t owner) {
        if (owner_ != owner) entries_.assign(size_t{1} << 16, {}), owner_ = owner;
        return entries_[XXH3_64bits(word.data(), word.size()) >> 48];
    }

private:
    uint64_t owner_ = 0;
    std::vector<Entry> entries_;
};

}  // namespace

Bpe::Bpe(BpeVocabulary vocabulary, bool whole_words) : vocabulary_(std::move(vocabulary)) {
    static std::atomic<uint64_t> serials{0};
    serial_ = ++serials;

    const std::vector<std::string>& tokens = vocabulary_.tokens;
    id_of_token_.reserve(tokens.size());
    for (size_t id = 0; id < tokens.size(); id++)
        if (!tokens[id].empty()) ENSURE(id_of_token_.emplace(tokens[id], static_cast<int32_t>(id)).second);
    for (int byte = 0; byte < 256; byte++) {
        const auto found = id_of_token_.find(std::string(1, static_cast<char>(byte)));
        ENSURE(found != id_of_token_.end());
        id_of_byte_[static_cast<size_t>(byte)] = found->second;
    }

    size_t slots = 2;
    while (slots < 2 * vocabulary_.merges.size()) slots *= 2, shift_--;
    merges_.assign(slots, {0, no_rank, -1});
    for (size_t rank = 0; rank < vocabulary_.merges.size(); rank++) {
        const auto [left, right] = vocabulary_.merges[rank];
        const auto merged = id_of_token_.find(tokens.at(static_cast<size_t>(left)) + tokens.at(static_cast<size_t>(right)));
        const Merge& slot = merge_of(left, right);
        ENSURE(merged != id_of_token_.end() && slot.rank == no_rank);
        merges_[static_cast<size_t>(&slot - merges_.data())] = {static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right),
                                                                static_cast<int32_t>(rank), merged->second};
    }
    if (!whole_words) id_of_token_ = {};
}

const Bpe::Merge& Bpe::merge_of(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    size_t slot = slot_of(pair);
    while (merges_[slot].rank != no_rank && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
    return merges_[slot];
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
    if (word.empty()) return;
    if (word.size() > WordCache::Entry::max_bytes) return encode_afresh(word, ids);
    thread_local WordCache cache;
    WordCache::Entry& entry = cache.entry_for(word, serial_);
    if (!entry.holds(word)) {
        const size_t before = ids.size();
        encode_afresh(word, ids);
        const size_t count = ids.size() - before;
        if (count > WordCache::Entry::max_ids) return;
        entry.bytes = static_cast<uint8_t>(word.size()), entry.count = static_cast<uint8_t>(count);
        std::memcpy(entry.word, word.data(), word.size());
        std::copy_n(ids.data() + before, count, entry.ids);
        return;
    }
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
}

void Bpe::encode_afresh(std::string_view word, std::vector<int32_t>& ids) const {
    if (const auto whole = id_of_token_.find(word); whole != id_of_token_.end()) return ids.push_back(whole->second);
    if (word.size() <= 64)
        merge_short(word, ids);
    else
        merge_long(word, ids);
}

// Looks through all pairs for every merge: quadratic, and quickest for words as they are.
void Bpe::merge_short(std::string_view word, std::vector<int32_t>& ids) const {
    struct Part {
        int32_t id, rank, merged;  // rank and result of the merge with the next part
    };
    std::array<Part, 64> parts{};
    size_t n = word.size();
    auto rate = [&](size_t i) {
        if (i + 1 == n) return void(parts[i].rank = no_rank);
        const Merge& merge = merge_of(parts[i].id, parts[i + 1].id);
        parts[i].rank = merge.rank, parts[i].merged = merge.merged;
    };
    for (size_t i = 0; i < n; i++) parts[i].id = id_of_byte_[static_cast<unsigned char>(word[i])];
    for (size_t i = 0; i < n; i++) rate(i);
    while (true) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (parts[i].rank < parts[best].rank) best = i;
        if (parts[best].rank == no_rank) break;
        parts[best].id = parts[best].merged;
        std::copy(parts.begin() + static_cast<std::ptrdiff_t>(best) + 2, parts.begin() + static_cast<std::ptrdiff_t>(n),
                  parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
        n--;
        rate(best);
        if (best > 0) rate(best - 1);
    }
    for (size_t i = 0; i < n; i++) ids.push_back(parts[i].id);
}

// The same with a linked list of parts and a heap of the pairs that may merge. A pair that changed since it entered the heap has another
// rank by then and is passed over: parts only grow, so no pair comes back.
void Bpe::merge_long(std::string_view word, std::vector<int32_t>& ids) const {
    constexpr uint32_t none = 0xFFFFFFFF;
    if (word.size() >= none)
        throw Error(ExitCode::data, format("a word of %zu bytes is too long to encode", word.size()), "part the text into documents");
    struct Part {
        int32_t id, rank;  // rank of the merge with the next part
        uint32_t previous, next;
    };
    const auto n = static_cast<uint32_t>(word.size());
    std::vector<Part> parts(n);
    for (uint32_t i = 0; i < n; i++)
        parts[i] = {id_of_byte_[static_cast<unsigned char>(word[i])], no_rank, i == 0 ? none : i - 1, i + 1 == n ? none : i + 1};
    auto rate = [&](uint32_t i) {
        parts[i].rank = parts[i].next == none ? no_rank : merge_of(parts[i].id, parts[parts[i].next].id).rank;
        return parts[i].rank != no_rank;
    };
    // A candidate is rank and place in one number: the lowest rank first, and the leftmost of these.
    auto candidate = [&](uint32_t i) { return static_cast<uint64_t>(parts[i].rank) << 32 | i; };
    std::vector<uint64_t> first;
    for (uint32_t i = 0; i < n; i++)
        if (rate(i)) first.push_back(candidate(i));
    std::priority_queue heap(std::greater<uint64_t>(), std::move(first));
    while (!heap.empty()) {
        const uint64_t best = heap.top();
        heap.pop();
        const auto at = static_cast<uint32_t>(best);
        Part& left = parts[at];
        if (static_cast<uint64_t>(left.rank) != best >> 32) continue;
        Part& right = parts[left.next];
        left.id = merge_of(left.id, right.id).merged;
        left.next = right.next;
        if (right.next != none) parts[right.next].previous = at;
        right.rank = no_rank;
        if (rate(at)) heap.push(candidate(at));
        if (left.previous != none && rate(left.previous)) heap.push(candidate(left.previous));
    }
    for (uint32_t i = 0; i != none; i = parts[i].next) ids.push_back(parts[i].id);
}

}  // namespace traincu
