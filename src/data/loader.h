// The loader hands out whole optimizer steps from token shards, the next one prepared on a thread while the current one is used.
//
// A sample is a window of T = seq_len tokens: of the running text (stream) or a pack of documents (packing.h). An epoch is every sample
// once.
//   shuffle off   shards in the order given, samples in order: llm.c's order
//   shuffle on    two levels: the order of the shards from (seed, epoch), the order within a shard from (seed, epoch, shard)
// Samples flow over the ends of shards and epochs, so every step has exactly rows_per_step rows. Which samples make up a step depends on
// the cursor, the seed and the shards only: not on the micro-batch split, and not on what was read before. The cursor is all there is to
// save.
#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/model/batch.h"

namespace traincu {

struct Cursor {
    int64_t epoch = 0, sample = 0;  // sample: counted in the epoch's order, over all shards
    bool operator==(const Cursor&) const = default;
};

struct LoaderConfig {
    enum class Packing { stream, documents };

    std::vector<std::string> shards;   // expand_glob(--data)
    int64_t seq_len = 256;             // T
    int64_t rows_per_micro_batch = 1;  // a micro-batch is this many windows one after another; a step's last may have fewer
    int64_t rows_per_step = 1;
    Packing packing = Packing::stream;
    bool shuffle = false;
    uint64_t seed = 0;
    int64_t vocab_size = 257;  // V of the model: an id outside is Error(data)
    // Of each step only these rows become micro-batches: a rank's share. Counts are those of the whole step. 0: all of them.
    int64_t first_row = 0, own_rows = 0;
};

class Loader {
public:
    // Reads and checks every shard's header. Error(data) where there is nothing to train on.
    explicit Loader(LoaderConfig config);
    ~Loader();  // waits for the thread

    // The next step. What went wrong while it was prepared is thrown here; the cursor then stays before it.
    StepBatch next();

    // The place of the step that next() hands out next, whatever is prepared already.
    Cursor cursor() const { return cursor_; }
    // next() continues from here. Error(data) if no epoch has such a sample.
    void seek(Cursor cursor);

    // With document packing these shards are read through for it.
    int64_t samples_per_epoch() const;
    int64_t total_tokens() const;
    // The share of tokens handed out so far that are not padding: 1 in stream packing.
    double packing_efficiency() const;
    // One {name, size, xxh64 of the header} a shard, in order: a resume compares it, so that a changed data set is noticed.
    nlohmann::ordered_json fingerprint() const;

private:
    class Builder;  // makes a step from a cursor; used by one thread at a time
    struct Step {
        StepBatch batch;
        Cursor after;
        int64_t padding = 0;
    };
    void wait() const;

    std::unique_ptr<Builder> builder_;
    std::future<Step> ahead_;  // the step at cursor_, under way or ready
    Cursor cursor_;
    int64_t tokens_out_ = 0, padding_out_ = 0;
};

}  // namespace traincu
