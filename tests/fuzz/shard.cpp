// Token shards. The first byte of an input says what follows:
//   even  the file as it is
//   odd   read from and load with: begin, count (u16), seq_len, rows, vocabulary's excess (u8), cursor's epoch and sample (i64), then the
//         first 6 words of the header and the tokens; the header's other words are filled in, and with bit 1 also the number of tokens
#include "src/data/shard.h"

#include "src/data/loader.h"
#include "tests/fuzz/input.h"

namespace traincu::fuzz {

// Every step has its rows, every row its tokens, and the segments lie one after another.
static void check(const StepBatch& step, const LoaderConfig& config) {
    int64_t tokens = 0, targets = 0;
    for (const MicroBatch& batch : step.micro_batches) {
        ENSURE(batch.T() % config.seq_len == 0 && batch.targets.size() == batch.tokens.size() &&
               batch.positions.size() == batch.tokens.size());
        tokens += batch.T();
        int64_t at = 0;
        for (const Segment& segment : batch.segments) {
            ENSURE(segment.q_start == at && segment.q_len > 0);
            at += segment.q_len;
        }
        ENSURE(at == batch.T());
        for (int64_t t = 0; t < batch.T(); t++) {
            const auto i = static_cast<size_t>(t);
            ENSURE(batch.tokens[i] >= 0 && batch.tokens[i] < config.vocab_size && batch.targets[i] >= -1 &&
                   batch.targets[i] < config.vocab_size);
            ENSURE(batch.positions[i] >= 0 && batch.positions[i] < config.seq_len);
            targets += batch.targets[i] >= 0;
        }
    }
    ENSURE(tokens == config.rows_per_step * config.seq_len && tokens == step.tokens && targets == step.loss_tokens);
}

static bool same(const StepBatch& a, const StepBatch& b) {
    bool equal = a.micro_batches.size() == b.micro_batches.size();
    for (size_t i = 0; equal && i < a.micro_batches.size(); i++)
        equal = a.micro_batches[i].tokens == b.micro_batches[i].tokens && a.micro_batches[i].targets == b.micro_batches[i].targets;
    return equal;
}

static void load(const std::string& path, LoaderConfig config, Cursor cursor) {
    config.shards = {path};
    Loader loader(config);
    loader.seek(cursor);
    ENSURE(loader.cursor() == cursor || loader.cursor() == (Cursor{cursor.epoch + 1, 0}));  // the end of an epoch is the next one's start
    check(loader.next(), config);
    const Cursor after = loader.cursor();
    ENSURE(after.epoch >= 0 && after.sample >= 0);
    // The cursor is all there is to save.
    const StepBatch second = loader.next();
    check(second, config);
    Loader resumed(config);
    resumed.seek(after);
    ENSURE(same(resumed.next(), second) && resumed.cursor() == loader.cursor());
}

bool fuzz_shard(Bytes input) {
    Taker taker(input);
    const auto mode = taker.take<uint8_t>();
    std::string file;
    int64_t begin = 0, count = 0, excess = 0;
    LoaderConfig config;
    config.seq_len = 4;
    Cursor cursor;
    if (mode % 2 == 1) {
        begin = taker.take<uint16_t>(), count = taker.take<uint16_t>();
        config.seq_len = 1 + taker.take<uint8_t>() % 40;
        const auto rows = taker.take<uint8_t>();
        config.rows_per_step = 1 + rows % 5, config.rows_per_micro_batch = 1 + rows / 5 % 3;
        config.shuffle = rows & 32, config.packing = rows & 64 ? LoaderConfig::Packing::documents : LoaderConfig::Packing::stream;
        excess = taker.take<uint8_t>();
        cursor.epoch = taker.take<int64_t>(), cursor.sample = taker.take<int64_t>();
        std::string header;
        for (int i = 0; i < 6; i++) header += packed(taker.take<uint32_t>());
        const bool wide = header.substr(0, 4) == packed(20240801);
        if (mode & 2) header.replace(8, 4, packed(static_cast<uint32_t>(taker.rest().size() / (wide ? 4 : 2))));
        header.resize(Shard::header_bytes);
        file = header;
    }
    file += text_of(taker.rest());

    return accepted([&] {
        const std::string path = put_file("in.bin", file);
        Shard shard(path, excess);
        const ShardHeader header = shard.header();
        config.vocab_size = header.vocab_size + excess;
        (void)describe_shard(path);
        accepted([&] { load(path, config, cursor); });

        begin = std::min(begin, shard.tokens()), count = std::min(count, shard.tokens() - begin);
        std::vector<int32_t> all(static_cast<size_t>(shard.tokens())), part(static_cast<size_t>(count));
        shard.read(begin, count, part.data());
        shard.read(0, shard.tokens(), all.data());
        ENSURE(std::equal(part.begin(), part.end(), all.begin() + begin));
        if (!header.stated) return;  // what our writer makes always states its vocabulary
        ShardWriter writer(scratch_folder() + "/out.bin", header.vocab_size, header.eot, header.tokenizer);
        writer.append(all);
        writer.commit();
        Shard again(scratch_folder() + "/out.bin");
        ENSURE(again.header().vocab_size == header.vocab_size && again.header().eot == header.eot &&
               again.header().tokenizer == header.tokenizer && again.tokens() == shard.tokens());
        std::vector<int32_t> back(all.size());
        again.read(0, again.tokens(), back.data());
        ENSURE(back == all);
    });
}

Seeds shard_seeds() {
    Seeds seeds;
    for (int64_t vocab : {int64_t{257}, int64_t{70000}}) {
        const std::string path = scratch_folder() + "/seed.bin";
        std::vector<int32_t> ids;
        for (int i = 0; i < 61; i++) ids.push_back(i % 9 == 0 ? 256 : 'a' + i % 26);
        ShardWriter writer(path, vocab, 256, vocab == 257 ? 1 : 0);
        writer.append(ids);
        writer.commit();
        const std::string file = content_of(path);
        seeds.push_back(packed(uint8_t{0}) + file);
        for (uint8_t rows : {0, 33, 107}) {
            const std::string place = packed(uint16_t{7}, uint16_t{20}, uint8_t{7}, rows, uint8_t{0}, int64_t{1}, int64_t{2});
            seeds.push_back(packed(uint8_t{3}) + place + file.substr(0, 24) + file.substr(Shard::header_bytes));
        }
    }
    return seeds;
}

}  // namespace traincu::fuzz
