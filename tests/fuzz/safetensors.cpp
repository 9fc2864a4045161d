// Safetensors: what is accepted is read in odd pieces, written again by our writer, and must come back equal.
#include "src/checkpoint/safetensors.h"

#include "tests/fuzz/input.h"

namespace traincu::fuzz {

static std::vector<std::vector<float>> all_values(const SafetensorsFile& file) {
    std::vector<std::vector<float>> values;
    for (const StoredTensor& tensor : file.tensors()) {
        if (tensor.type != StoredType::F32 && tensor.type != StoredType::BF16 && tensor.type != StoredType::F16) {
            float one;
            ENSURE(tensor.numel() == 0 || !accepted([&] { file.read_f32(tensor, 0, 1, &one); }));
            continue;
        }
        std::vector<float>& all = values.emplace_back(static_cast<size_t>(tensor.numel()));
        int64_t first = 0;
        for (int64_t piece = 1; first < tensor.numel(); piece = 3 * piece + 1) {
            const int64_t count = std::min(piece, tensor.numel() - first);
            file.read_f32(tensor, first, count, all.data() + first);
            first += count;
        }
    }
    return values;
}

bool fuzz_safetensors(Bytes input) {
    return accepted([&] {
        const SafetensorsFile file(put_file("in.safetensors", text_of(input)));
        std::string data;
        std::vector<StoredTensor> tensors = file.tensors();
        int64_t end = tensors.empty() ? file.size() : tensors[0].offset;
        for (const StoredTensor& tensor : tensors) {
            ENSURE(tensor.offset == end);  // neither gap nor overlap
            end += tensor.bytes;
            ENSURE(file.find(tensor.name) && file.find(tensor.name)->offset == tensor.offset);
            data += text_of(input).substr(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
        }
        ENSURE(end == file.size());
        const std::string header = safetensors_header(tensors, file.metadata());
        const SafetensorsFile again(put_file("out.safetensors", header + data));
        ENSURE(again.metadata() == file.metadata() && again.tensors().size() == file.tensors().size());
        for (size_t i = 0; i < tensors.size(); i++) {
            const StoredTensor &a = file.tensors()[i], &b = again.tensors()[i];
            ENSURE(a.name == b.name && a.type == b.type && a.shape == b.shape && a.bytes == b.bytes && b.offset == tensors[i].offset);
        }
        const auto before = all_values(file), after = all_values(again);
        ENSURE(before.size() == after.size());
        for (size_t i = 0; i < before.size(); i++)
            ENSURE(before[i].size() == after[i].size() &&
                   (before[i].empty() || std::memcmp(before[i].data(), after[i].data(), before[i].size() * sizeof(float)) == 0));
    });
}

static std::string file_of(std::vector<StoredTensor> tensors, const std::map<std::string, std::string>& metadata) {
    std::string text = safetensors_header(tensors, metadata);
    for (const StoredTensor& tensor : tensors)
        for (int64_t i = 0; i < tensor.bytes; i++) text.push_back(static_cast<char>(i * 37 + 11));
    return text;
}

Seeds safetensors_seeds() {
    return {
        file_of({{"weight", StoredType::F32, {2, 3}, 0, 0}}, {}),
        file_of({{"a", StoredType::BF16, {5}, 0, 0}, {"b", StoredType::F16, {1, 7}, 0, 0}, {"scalar", StoredType::F32, {}, 0, 0}},
                {{"format", "pt"}, {"step", "3"}}),
        file_of({{"ids", StoredType::I64, {2}, 0, 0}, {"empty", StoredType::F32, {0, 4}, 0, 0}, {"n", StoredType::I32, {3}, 0, 0}}, {}),
        file_of({{"double \"quoted\" \xC3\xA9", StoredType::F64, {1}, 0, 0}}, {{"", "empty key"}}),
        file_of({}, {}),
    };
}

}  // namespace traincu::fuzz
