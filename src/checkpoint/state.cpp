#include "src/checkpoint/state.h"

#include <algorithm>
#include <cstring>

#include "src/base/version.h"

namespace traincu {

using nlohmann::ordered_json;

constexpr const char *model_file = "model.safetensors", *config_file = "config.json", *rank_file = "rank_0_of_1.bin";
constexpr int64_t page = 4096;  // the moments begin on page boundaries

static int64_t pages(int64_t bytes) { return round_up(bytes, page); }

// ----------------------------------------------------------------------------------------------------------------------
// writing

static ordered_json tensor_json(const std::string& name, const std::vector<int64_t>& shape, const char* file, int64_t offset,
                                int64_t bytes) {
    return {{"name", name}, {"dtype", "F32"}, {"shape", shape}, {"file", file}, {"offset", offset}, {"bytes", bytes}};
}

// Where every parameter lies in the flat arenas: another layout (another number of ranks) can be made from it.
static ordered_json parameters_json(const ParamTable& table) {
    ordered_json list = ordered_json::array();
    for (const ParamRow& row : table.rows)
        list.push_back({{"name", row.name}, {"shape", {row.rows, row.cols}}, {"flat", {row.offset, row.numel()}}});
    return list;
}

// A flat array as it lies by the plain table: row after row, with its gaps.
static void append_array(FileWriter& file, const Tensor& array, const ParamTable& table, const ParamTable& plain) {
    const std::vector<float> zeros(16);
    for (size_t r = 0; r < plain.rows.size(); r++) {
        const int64_t n = plain.rows[r].numel(), end = r + 1 < plain.rows.size() ? plain.rows[r + 1].offset : plain.flat_size;
        file.append(array.as<float>() + table.rows[r].offset, n * static_cast<int64_t>(sizeof(float)));
        file.append(zeros.data(), (end - plain.rows[r].offset - n) * static_cast<int64_t>(sizeof(float)));
    }
}

std::string write_checkpoint(Io& io, const std::string& run_dir, int64_t step, const ModelConfig& config, const ParamTable& table,
                             Tensor params, Tensor m, Tensor v, const ordered_json& meta, const std::vector<TextFile>& beside,
                             Tensor replica) {
    std::vector<std::pair<const char*, Tensor>> arrays = {{"adam_m", m}, {"adam_v", v}};
    if (replica) arrays.emplace_back("replica", replica);
    for (const Tensor& arena : {params, m, v}) ENSURE(arena.is({table.flat_size}) && arena.dtype == Dtype::f32 && arena.contiguous());
    const std::vector<ExportedTensor> exported = exported_tensors(config, table, checkpoint_family(config));
    std::vector<StoredTensor> stored;
    for (const ExportedTensor& tensor : exported) stored.push_back({tensor.name, StoredType::F32, tensor.shape, 0, 0});
    const std::string header =
        safetensors_header(stored, {{"format", "pt"}, {"step", std::to_string(step)}});  // transformers asks for "format"
    const std::string config_text = huggingface_config(config, meta, "float32", checkpoint_family(config)).dump(2) + "\n";
    const ParamTable plain = make_param_table(config);  // the form that checkpoints keep, whatever ranks there are
    const int64_t arena_bytes = plain.flat_size * static_cast<int64_t>(sizeof(float)),
                  model_bytes = stored.back().offset + stored.back().bytes;

    std::vector<CheckpointFile> files = {
        {model_file, model_bytes,
         [&](FileWriter& file) {
             file.append(header.data(), static_cast<int64_t>(header.size()));
             for (const ExportedTensor& tensor : exported)
                 export_values(tensor, table.rows[static_cast<size_t>(tensor.row)],
                               params.as<float>() + table.rows[static_cast<size_t>(tensor.row)].offset,
                               [&](const float* values, int64_t count) { file.append(values, count * 4); });
         }},
        text_file(config_file, config_text),
        {rank_file, static_cast<int64_t>(arrays.size()) * pages(arena_bytes),
         [&](FileWriter& file) {
             for (const auto& [name, array] : arrays) append_array(file, array, table, plain), file.pad_to(page);
         }},
    };
    for (const TextFile& file : beside) files.push_back(text_file(file.name, file.text));

    ordered_json tensors = ordered_json::array();
    for (const StoredTensor& tensor : stored)
        tensors.push_back(tensor_json(tensor.name, tensor.shape, model_file, tensor.offset, tensor.bytes));
    for (size_t i = 0; i < arrays.size(); i++)
        tensors.push_back(
            tensor_json(arrays[i].first, {plain.flat_size}, rank_file, static_cast<int64_t>(i) * pages(arena_bytes), arena_bytes));
    const ordered_json fields = config_fields(config);
    const std::string fields_text = fields.dump();
    ordered_json manifest = {{"format", "train.cu checkpoint"},
                             {"schema", 1},
                             {"step", step},
                             {"run_id", meta.is_object() && meta.contains("run_id") ? meta["run_id"] : ordered_json()},
                             {"build", revision()},
                             {"world_size", 1},
                             {"model", fields},
                             {"model_hash", hash_text(hash_bytes(fields_text.data(), static_cast<int64_t>(fields_text.size())))},
                             {"flat_size", plain.flat_size},
                             {"parameters", parameters_json(plain)},
                             {"tensors", tensors},
                             {"meta", meta}};
    return commit_checkpoint(io, run_dir, step, files, std::move(manifest));
}

// ----------------------------------------------------------------------------------------------------------------------
// reading

static std::string manifest_path(const FoundCheckpoint& found) { return found.path + "/manifest.json"; }

[[noreturn]] static void mismatch(const FoundCheckpoint& found, const std::string& what, const char* remedy) {
    throw Error(ExitCode::checkpoint, found.path + " does not fit: " + what, remedy).file(manifest_path(found)).step(found.step);
}

ModelConfig config_of_checkpoint(const FoundCheckpoint& found) {
    auto fields = found.manifest.find("model");
    if (fields == found.manifest.end()) mismatch(found, "its manifest describes no model", "use another checkpoint");
    return config_from_fields(*fields, manifest_path(found));
}

static void check_same_model(const FoundCheckpoint& found, const ModelConfig& config, const ParamTable& plain) {
    const ordered_json theirs = config_fields(config_of_checkpoint(found)), ours = config_fields(config);
    std::string differences;
    for (auto& [name, value] : ours.items())
        if (theirs[name] != value)
            differences += (differences.empty() ? "" : ", ") + name + " is " + theirs[name].dump() + " there and " + value.dump() + " here";
    if (!differences.empty()) mismatch(found, differences, "give the options it was made with, or start a new run with another --out");
    if (found.manifest.at("world_size") != 1)
        mismatch(found, "it was written by more than one rank", "resume with the number of ranks that wrote it");
    if (found.manifest.at("flat_size") != plain.flat_size || found.manifest.at("parameters") != parameters_json(plain))
        mismatch(found, "its parameters lie in another order",
                 "resume with the version of the program that wrote it: its revision is in the manifest");
}

static bool read_array(const FoundCheckpoint& found, const std::string& name, const Tensor& array, const ParamTable& table,
                       const ParamTable& plain) {
    const int64_t bytes = plain.flat_size * static_cast<int64_t>(sizeof(float));
    for (const ordered_json& tensor : found.manifest.at("tensors")) {
        if (tensor.at("name") != name) continue;
        InputFile file(found.path + "/" + rank_file, ExitCode::checkpoint, false);
        int64_t offset = integer_field(tensor, "offset");
        if (tensor.at("file") != rank_file || tensor.at("bytes") != bytes || offset < 0 || offset > file.size() - bytes)
            mismatch(found, "the manifest's place of " + name + " is impossible", "use another checkpoint");
        if (table.flat_size == plain.flat_size) return file.read(array.data, bytes, offset), true;
        for (size_t r = 0; r < table.rows.size(); r++)
            file.read(array.as<float>() + table.rows[r].offset, plain.rows[r].numel() * static_cast<int64_t>(sizeof(float)),
                      offset + plain.rows[r].offset * static_cast<int64_t>(sizeof(float)));
        return true;
    }
    return false;
}

static void read_moment(const FoundCheckpoint& found, const std::string& name, const Tensor& moment, const ParamTable& table,
                        const ParamTable& plain) {
    if (!read_array(found, name, moment, table, plain)) mismatch(found, "it has no " + name, "use another checkpoint");
}

void read_checkpoint(const FoundCheckpoint& found, const ModelConfig& config, const ParamTable& table, Tensor params, Tensor m, Tensor v) {
    try {
        const ParamTable plain = make_param_table(config);
        check_same_model(found, config, plain);
        const HuggingfaceWeights weights(found.path + "/" + model_file, config, table, checkpoint_family(config));
        std::memset(params.data, 0, static_cast<size_t>(params.bytes()));  // the gaps between rows, too
        for (size_t row = 0; row < table.rows.size(); row++) weights.read_row(row, params.as<float>() + table.rows[row].offset);
        if (m) read_moment(found, "adam_m", m, table, plain);
        if (v) read_moment(found, "adam_v", v, table, plain);
    } catch (const nlohmann::json::exception& exception) {
        mismatch(found, std::string("its manifest is not of the expected form: ") + exception.what(), "use another checkpoint");
    }
}

bool read_replica(const FoundCheckpoint& found, const ModelConfig& config, const ParamTable& table, Tensor replica) try {
    return read_array(found, "replica", replica, table, make_param_table(config));
} catch (const nlohmann::json::exception& exception) {
    mismatch(found, std::string("its manifest is not of the expected form: ") + exception.what(), "use another checkpoint");
}

}  // namespace traincu
