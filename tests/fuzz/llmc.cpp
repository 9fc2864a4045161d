// llm.c's models. An input is the 8 words of the header, then the values; the header's other words are filled in.
#include "src/checkpoint/llmc.h"

#include "src/checkpoint/formats.h"
#include "tests/fuzz/model.h"

namespace traincu::fuzz {

constexpr size_t header_words = 256, given_words = 8;

bool fuzz_llmc(Bytes input) {
    const std::string_view text = text_of(input);
    std::string file(text.substr(0, given_words * 4));
    file.resize(header_words * 4);
    if (text.size() > given_words * 4) file += text.substr(given_words * 4);
    return accepted([&] {
        const std::string path = put_file("model.bin", file);
        const LlmcModel model = open_llmc_model(path);
        ENSURE(is_llmc_model(path) && find_model(path).config == model.config);
        const ParamTable table = make_param_table(model.config);
        // Our embedding has up to 63 rows of padding more than the file.
        ENSURE(table.flat_size <= 65 * static_cast<int64_t>(file.size()));
        if (!Arenas::fits(table)) return;
        Arenas arenas(model.config);
        load_model(find_model(path), arenas.table, arenas.params);
        if (model.dtype == Dtype::f32) {  // the file begins and ends with these rows
            const ParamRow& first = table.rows[static_cast<size_t>(table.find(ParamKind::token_embedding, false, -1))];
            const ParamRow& last = table.rows[static_cast<size_t>(table.find(ParamKind::final_norm, true, -1))];
            ENSURE(std::memcmp(arenas.memory[0].data() + first.offset, file.data() + header_words * 4, 4) == 0);
            ENSURE(std::memcmp(arenas.memory[0].data() + last.offset + last.numel() - 1, file.data() + file.size() - 4, 4) == 0);
        }
    });
}

Seeds llmc_seeds() {
    Seeds seeds;
    for (int32_t version : {3, 5}) {
        const int32_t maxT = 3, V = 5, L = 2, NH = 2, C = 4, Vp = 8;
        const int32_t values = Vp * C + maxT * C + L * (12 * C * C + 13 * C) + 2 * C;
        std::string seed = packed(llmc_model_magic, version, maxT, V, L, NH, C, Vp);
        for (int32_t i = 0; i < values; i++)
            seed += version == 3 ? packed(0.5f * static_cast<float>(i)) : packed(static_cast<uint16_t>(0x3F00 + i));
        seeds.push_back(seed);
    }
    return seeds;
}

}  // namespace traincu::fuzz
