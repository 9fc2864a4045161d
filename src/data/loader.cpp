#include "src/data/loader.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "src/base/error.h"
#include "src/data/packing.h"
#include "src/data/shard.h"

namespace traincu {

class Loader::Builder {
public:
    explicit Builder(LoaderConfig config);

    Step prepare(Cursor cursor);
    // Opens the shard that holds the sample. A cursor at the very end of an epoch becomes the start of the next one.
    void go_to(Cursor& cursor);

    int64_t samples_per_epoch();
    int64_t total_tokens() const { return total_tokens_; }
    const nlohmann::ordered_json& fingerprint() const { return fingerprint_; }

private:
    bool by_documents() const { return config_.packing == LoaderConfig::Packing::documents; }
    int64_t shard_count() const { return static_cast<int64_t>(shards_.size()); }
    int64_t samples_in(int64_t shard);
    const PackList& packs_of(int64_t shard);
    void begin_epoch(int64_t epoch);
    void open_place(int64_t place);
    std::span<const Piece> pieces_of(int64_t sample, Piece& window);
    int64_t append_row(MicroBatch& batch, int64_t sample);

    LoaderConfig config_;
    std::vector<Shard> shards_;     // those that hold a sample at least
    std::vector<int64_t> samples_;  // of each shard; -1 = not counted yet
    int64_t total_tokens_ = 0;
    nlohmann::ordered_json fingerprint_ = nlohmann::ordered_json::array();

    // Where we are: the epoch's order of shards, and the one that is open.
    int64_t epoch_ = -1, place_ = 0, first_sample_ = 0;  // the open shard is shard_order_[place_]; its samples begin at first_sample_
    std::vector<int64_t> shard_order_, sample_order_;    // sample_order_ is empty where nothing is shuffled
    int64_t packed_shard_ = -1;                          // packs_ are this shard's, with document packing
    PackList packs_;
    std::vector<int32_t> scratch_;  // (T+1)
};

Loader::Builder::Builder(LoaderConfig config) : config_(std::move(config)), scratch_(static_cast<size_t>(config_.seq_len) + 1) {
    ENSURE(config_.seq_len > 0 && config_.rows_per_micro_batch > 0 && config_.rows_per_step > 0 && config_.vocab_size > 0);
    ENSURE(!config_.shards.empty());
    if (config_.own_rows == 0) config_.own_rows = config_.rows_per_step;
    ENSURE(config_.first_row >= 0 && config_.first_row + config_.own_rows <= config_.rows_per_step);
    const Shard* first = nullptr;
    std::vector<Shard> all;
    all.reserve(config_.shards.size());
    for (const std::string& path : config_.shards) {
        const Shard& shard = all.emplace_back(path, config_.vocab_size);
        fingerprint_.push_back({{"name", std::filesystem::path(path).filename().string()},
                                {"size", shard.file_bytes()},
                                {"xxh64", format("%016llx", static_cast<unsigned long long>(shard.header_hash()))}});
        total_tokens_ += shard.tokens();
        if (!first) first = &shard;
        const ShardHeader &a = first->header(), &b = shard.header();
        if (a.vocab_size != b.vocab_size || a.eot != b.eot)
            throw Error(ExitCode::data,
                        format("%s has a vocabulary of %lld and %s one of %lld", path.c_str(), static_cast<long long>(b.vocab_size),
                               first->path().c_str(), static_cast<long long>(a.vocab_size)),
                        "train on shards of one tokenizer")
                .file(path)
                .offset(12);
    }

    // Shards too short for a single sample are passed over; if that is all of them, the longest one is named.
    const Shard* longest =
        &*std::max_element(all.begin(), all.end(), [](const Shard& a, const Shard& b) { return a.tokens() < b.tokens(); });
    int64_t needed = by_documents() ? 2 : config_.seq_len + 1;
    if (longest->tokens() < needed)
        throw Error(
            ExitCode::data,
            format("%s holds %lld tokens, fewer than one sample of --seq-len %lld needs (%lld)", longest->path().c_str(),
                   static_cast<long long>(longest->tokens()), static_cast<long long>(config_.seq_len), static_cast<long long>(needed)),
            by_documents() ? "use more text" : "use a shorter --seq-len, more text, or --packing documents")
            .file(longest->path());
    if (by_documents() && first->header().eot >= config_.vocab_size)
        throw Error(ExitCode::data,
                    format("%s separates documents by token id %d, outside the vocabulary of %lld", first->path().c_str(),
                           first->header().eot, static_cast<long long>(config_.vocab_size)),
                    "use the --vocab-size of its tokenizer, or --packing stream")
            .file(first->path());
    for (Shard& shard : all) {
        if (shard.tokens() < needed) continue;
        samples_.push_back(by_documents() ? -1 : (shard.tokens() - 1) / config_.seq_len);
        shards_.push_back(std::move(shard));
    }
}

const PackList& Loader::Builder::packs_of(int64_t index) {
    if (packed_shard_ == index) return packs_;
    Shard& shard = shards_[static_cast<size_t>(index)];
    packs_ = pack_best_fit(document_pieces(shard, config_.seq_len), config_.seq_len);
    samples_[static_cast<size_t>(index)] = packs_.count();
    packed_shard_ = index;
    return packs_;
}

int64_t Loader::Builder::samples_in(int64_t shard) {
    int64_t known = samples_[static_cast<size_t>(shard)];
    return known >= 0 ? known : packs_of(shard).count();
}

void Loader::Builder::begin_epoch(int64_t epoch) {
    epoch_ = -1;  // stays so if something is thrown half-way
    shard_order_.resize(shards_.size());
    std::iota(shard_order_.begin(), shard_order_.end(), int64_t{0});
    if (config_.shuffle) shard_order_ = permutation(shard_count(), {config_.seed, RandomStream::shard_order}, epoch, 0);
    place_ = -1, first_sample_ = 0;
    epoch_ = epoch;
}

void Loader::Builder::open_place(int64_t place) {
    for (Shard& other : shards_) other.close();
    place_ = -1;  // stays so if something is thrown half-way
    int64_t shard = shard_order_[static_cast<size_t>(place)];
    if (config_.shuffle) sample_order_ = permutation(samples_in(shard), {config_.seed, RandomStream::sample_order}, epoch_, shard);
    place_ = place;
}

void Loader::Builder::go_to(Cursor& cursor) {
    auto beyond = [&] {
        return Error(ExitCode::data,
                     format("there is no sample %lld of epoch %lld in the shards", static_cast<long long>(cursor.sample),
                            static_cast<long long>(cursor.epoch)),
                     "the data set, --seq-len or --packing is not the one that the cursor was saved with");
    };
    constexpr int64_t max_epoch = int64_t{1} << 53;  // a file may say anything; so far counting up never overflows
    if (cursor.epoch < 0 || cursor.epoch > max_epoch || cursor.sample < 0) throw beyond();
    if (cursor.epoch != epoch_ || place_ < 0 || cursor.sample < first_sample_) begin_epoch(cursor.epoch);
    int64_t place = std::max<int64_t>(place_, 0), first = first_sample_;
    while (place < shard_count()) {
        int64_t samples = samples_in(shard_order_[static_cast<size_t>(place)]);
        if (cursor.sample < first + samples) break;
        first += samples, place++;
    }
    if (place == shard_count()) {
        if (cursor.sample > first) throw beyond();
        cursor = {cursor.epoch + 1, 0};
        return go_to(cursor);
    }
    if (place != place_) open_place(place);
    first_sample_ = first;
}

// Where the sample's tokens lie in the open shard. window: for the one piece of running text.
std::span<const Piece> Loader::Builder::pieces_of(int64_t sample, Piece& window) {
    int64_t i = sample - first_sample_;
    if (config_.shuffle) i = sample_order_[static_cast<size_t>(i)];
    if (by_documents()) return packs_of(shard_order_[static_cast<size_t>(place_)]).pack(i);
    window = {i * config_.seq_len, config_.seq_len};
    return {&window, 1};
}

// One window of T tokens at the end of the batch. Returns how many of them are padding.
int64_t Loader::Builder::append_row(MicroBatch& batch, int64_t sample) {
    Shard& shard = shards_[static_cast<size_t>(shard_order_[static_cast<size_t>(place_)])];
    int64_t T = config_.seq_len, row = batch.T();
    Piece window;
    const std::span<const Piece> pieces = pieces_of(sample, window);

    auto size = static_cast<size_t>(row + T);  // what is not overwritten below is padding
    batch.tokens.resize(size, shard.header().eot);
    batch.targets.resize(size, -1);
    batch.positions.resize(size, 0);
    batch.loss_weights.resize(size, 0.0f);
    int64_t at = row;
    auto add_segment = [&](int64_t length) {
        batch.segments.push_back({at, length, at, length, 0});
        std::iota(batch.positions.begin() + at, batch.positions.begin() + at + length, 0);
        at += length;
    };
    for (const Piece& piece : pieces) {
        // The target of a token is the next one in the shard: at the end of a document that is the next one's end-of-text id.
        // Only a shard whose documents are known to end with it gives its last token as input; there the target is end-of-text too.
        int64_t n = piece.length, available = std::min(n + 1, shard.tokens() - piece.begin);
        scratch_[static_cast<size_t>(n)] = shard.header().eot;
        shard.read(piece.begin, available, scratch_.data());
        std::copy_n(scratch_.begin(), n, batch.tokens.begin() + at);
        std::copy_n(scratch_.begin() + 1, n, batch.targets.begin() + at);
        std::fill_n(batch.loss_weights.begin() + at, n, 1.0f);
        add_segment(n);
    }
    int64_t padding = row + T - at;
    if (padding > 0) add_segment(padding);
    return padding;
}

Loader::Step Loader::Builder::prepare(Cursor cursor) {
    Step step;
    int64_t T = config_.seq_len;
    for (int64_t row = 0; row < config_.rows_per_step; row++) {
        go_to(cursor);
        if (const int64_t own = row - config_.first_row; own < 0 || own >= config_.own_rows) {
            Piece window;
            step.padding += T;
            for (const Piece& piece : pieces_of(cursor.sample, window)) step.padding -= piece.length;
        } else {
            if (own % config_.rows_per_micro_batch == 0) {
                MicroBatch& batch = step.batch.micro_batches.emplace_back();
                auto size = static_cast<size_t>(std::min(config_.rows_per_micro_batch, config_.own_rows - own) * T);
                batch.tokens.reserve(size), batch.targets.reserve(size), batch.positions.reserve(size), batch.loss_weights.reserve(size);
            }
            step.padding += append_row(step.batch.micro_batches.back(), cursor.sample);
        }
        cursor.sample++;
        if (place_ + 1 == shard_count() && cursor.sample == first_sample_ + samples_in(shard_order_.back())) cursor = {cursor.epoch + 1, 0};
    }
    step.batch.tokens = config_.rows_per_step * T;
    step.batch.loss_tokens = step.batch.tokens - step.padding;
    step.after = cursor;
    return step;
}

int64_t Loader::Builder::samples_per_epoch() {
    int64_t sum = 0;
    for (int64_t shard = 0; shard < shard_count(); shard++) sum += samples_in(shard);
    return sum;
}

// ------------------------------------------------------------------------------------------------ the thread ahead

Loader::Loader(LoaderConfig config) : builder_(std::make_unique<Builder>(std::move(config))) {}

Loader::~Loader() { wait(); }

// Until the step ahead is ready; from then on, and until the next one is started, the builder is ours.
void Loader::wait() const {
    if (ahead_.valid()) ahead_.wait();
}

StepBatch Loader::next() {
    auto start = [this] {
        ahead_ = std::async(std::launch::async, [builder = builder_.get(), from = cursor_] { return builder->prepare(from); });
    };
    if (!ahead_.valid()) start();
    Step step = ahead_.get();
    cursor_ = step.after;
    tokens_out_ += step.batch.tokens, padding_out_ += step.padding;
    start();
    return std::move(step.batch);
}

void Loader::seek(Cursor cursor) {
    wait();
    builder_->go_to(cursor);
    ahead_ = {};
    cursor_ = cursor;
}

int64_t Loader::samples_per_epoch() const {
    wait();
    return builder_->samples_per_epoch();
}

int64_t Loader::total_tokens() const { return builder_->total_tokens(); }

double Loader::packing_efficiency() const {
    return tokens_out_ > 0 ? 1.0 - static_cast<double>(padding_out_) / static_cast<double>(tokens_out_) : 1.0;
}

nlohmann::ordered_json Loader::fingerprint() const { return builder_->fingerprint(); }

}  // namespace traincu
