#include "src/data/bpe_trainer.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <exception>
#include <limits>
#include <numeric>
#include <queue>

#include "src/base/error.h"
#include "src/data/tokenizer.h"
#include "src/data/utf8.h"

namespace traincu {

// ------------------------------------------------------------------------------------------------ counting words

void WordCounter::add(std::span<const std::string> documents) {
    std::exception_ptr failure;  // an exception must not leave the threads' loop
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast <int>(of_thread_.size())) if (of_thread_.size() > 1)
    for (size_t i = 0; i < documents.size(); i++) try {
            WordCounts& counts = of_thread_[static_cast<size_t>(omp_get_thread_num())];
            auto count = [&](std::string_view word) {
                if (auto found = counts.find(word); found != counts.end())
                    found->second++;
                else
                    counts.emplace(word, 1);
            };
            if (is_utf8(documents[i]))
                pretokenizer_.split(documents[i], count);
            else
                pretokenizer_.split(mend_utf8(documents[i]), count);
        } catch (...) {
#pragma omp critical
            failure = std::current_exception();
        }
    if (failure) std::rethrow_exception(failure);
}

WordCounts WordCounter::take() {
    WordCounts all = std::move(of_thread_[0]);
    for (size_t i = 1; i < of_thread_.size(); i++) {
        for (const auto& [word, count] : of_thread_[i]) all[word] += count;
        of_thread_[i] = {};
    }
    of_thread_[0] = {};
    return all;
}

// ------------------------------------------------------------------------------------------------ merging

namespace {

// Bytes in the order of their characters' code points; UTF-8 sorts as its code points do.
std::array<uint8_t, 256> bytes_by_character() {
    std::array<uint8_t, 256> order;
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::sort(order.begin(), order.end(), [](uint8_t a, uint8_t b) { return byte_characters()[a] < byte_characters()[b]; });
    return order;
}

// All distinct words one after another, each as its tokens. A place is the index of a token's first byte; between two words there is a
// gap, and a token's neighbours are found from its place alone.
class Trainer {
public:
    explicit Trainer(const WordCounts& words);
    BpeVocabulary run(int64_t merges, const std::function<void(double)>& progress);

private:
    static constexpr int32_t no_token = -1;  // a gap, or inside of a token
    struct Pair {
        int64_t count = 0;            // exact at all times
        std::vector<int32_t> places;  // of the left token, ascending; some may hold the pair no more
    };
    struct Candidate {
        int64_t count;
        int32_t left, right;
        bool operator<(const Candidate& other) const {  // the greatest is merged first
            if (count != other.count) return count < other.count;
            return left != other.left ? left > other.left : right > other.right;
        }
    };
    static uint64_t key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

    int32_t length(int32_t token) const { return static_cast<int32_t>(vocabulary_.tokens[static_cast<size_t>(token)].size()); }
    int32_t& token(int32_t place) { return token_[static_cast<size_t>(place)]; }
    int32_t& previous(int32_t place) { return previous_[static_cast<size_t>(place)]; }

    void add_place(int32_t left, int32_t right, int32_t place);
    void remove_place(int32_t left, int32_t right, int32_t place);
    void offer_new_pairs();
    void merge(int32_t left, int32_t right);

    BpeVocabulary vocabulary_;
    std::vector<int32_t> token_, previous_, word_;  // by place: token, place of the token before (-1: none), word
    std::vector<int64_t> count_;                    // by word
    std::unordered_map<uint64_t, Pair> pairs_;
    std::vector<uint64_t> new_pairs_;            // made since the last offer
    std::priority_queue<Candidate> candidates_;  // every pair is here once, with its count or an older, larger one
};

Trainer::Trainer(const WordCounts& words) {
    std::array<int32_t, 256> id_of_byte{};
    for (uint8_t byte : bytes_by_character()) {
        id_of_byte[byte] = static_cast<int32_t>(vocabulary_.tokens.size());
        vocabulary_.tokens.push_back(std::string(1, static_cast<char>(byte)));
    }
    size_t places = 1;
    for (const auto& [word, count] : words) places += word.size() + 1;
    if (places >= static_cast<size_t>(std::numeric_limits<int32_t>::max()))
        throw Error(ExitCode::data, "the text has 2 GiB of distinct words, more than a vocabulary can be learned from",
                    "learn it from a part of the text, and give it to the whole with --tokenizer");
    token_.reserve(places), previous_.reserve(places), word_.reserve(places), count_.reserve(words.size());
    auto push = [&](int32_t token, int32_t previous) {
        token_.push_back(token), previous_.push_back(previous), word_.push_back(static_cast<int32_t>(count_.size()));
    };
    push(no_token, -1);
    for (const auto& [word, count] : words) {
        for (size_t i = 0; i < word.size(); i++)
            push(id_of_byte[static_cast<uint8_t>(word[i])], i == 0 ? -1 : static_cast<int32_t>(token_.size()) - 1);
        push(no_token, -1);
        count_.push_back(count);
    }
    for (int32_t place = 0; place + 1 < static_cast<int32_t>(token_.size()); place++)
        if (token(place) != no_token && token(place + 1) != no_token) add_place(token(place), token(place + 1), place);
    offer_new_pairs();
}

void Trainer::add_place(int32_t left, int32_t right, int32_t place) {
    auto [found, is_new] = pairs_.try_emplace(key(left, right));
    if (is_new) new_pairs_.push_back(found->first);
    found->second.count += count_[static_cast<size_t>(word_[static_cast<size_t>(place)])];
    found->second.places.push_back(place);
}

void Trainer::remove_place(int32_t left, int32_t right, int32_t place) {
    auto found = pairs_.find(key(left, right));
    if (found != pairs_.end()) found->second.count -= count_[static_cast<size_t>(word_[static_cast<size_t>(place)])];
}

// A pair holds a token that was just made, so all its places are known by now, and from here on its count only falls: what is not worth
// a token now never will be.
void Trainer::offer_new_pairs() {
    for (uint64_t pair : new_pairs_) {
        auto found = pairs_.find(pair);
        if (found->second.count < 2)
            pairs_.erase(found);
        else
            candidates_.push({found->second.count, static_cast<int32_t>(pair >> 32), static_cast<int32_t>(pair & 0xFFFFFFFF)});
    }
    new_pairs_.clear();
}

void Trainer::merge(int32_t left, int32_t right) {
    const auto merged = static_cast<int32_t>(vocabulary_.tokens.size());
    vocabulary_.tokens.push_back(vocabulary_.tokens[static_cast<size_t>(left)] + vocabulary_.tokens[static_cast<size_t>(right)]);
    vocabulary_.merges.emplace_back(left, right);
    const std::vector<int32_t> places = std::move(pairs_.extract(key(left, right)).mapped().places);
    for (int32_t place : places) {  // ascending: in "aaa" the first two become one
        const int32_t next = place + length(left);
        if (token(place) != left || token(next) != right) continue;
        const int32_t before = previous(place), after = next + length(right);
        if (before >= 0) {
            remove_place(token(before), left, before);
            add_place(token(before), merged, before);
        }
        if (token(after) != no_token) {
            remove_place(right, token(after), next);
            add_place(merged, token(after), place);
            previous(after) = place;
        }
        token(place) = merged, token(next) = no_token;
    }
    offer_new_pairs();
}

BpeVocabulary Trainer::run(int64_t merges, const std::function<void(double)>& progress) {
    while (static_cast<int64_t>(vocabulary_.merges.size()) < merges && !candidates_.empty()) {
        Candidate best = candidates_.top();
        candidates_.pop();
        auto found = pairs_.find(key(best.left, best.right));
        const int64_t count = found->second.count;
        if (count < 2) {
            pairs_.erase(found);
        } else if (count < best.count) {
            best.count = count;
            candidates_.push(best);
        } else {
            merge(best.left, best.right);
            if (progress) progress(static_cast<double>(vocabulary_.merges.size()) / static_cast<double>(merges));
        }
    }
    return std::move(vocabulary_);
}

}  // namespace

BpeVocabulary train_bpe(const WordCounts& words, int64_t merges, const std::function<void(double)>& progress) {
    ENSURE(merges >= 0);
    return Trainer(words).run(merges, progress);
}

}  // namespace traincu
