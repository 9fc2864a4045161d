#include "src/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "src/base/dtype.h"

namespace traincu {

constexpr int64_t max_header = 100'000'000, max_name = 1024, max_tensors = 262'144;
constexpr size_t max_depth = 8, max_rank = 32;
static_assert(std::endian::native == std::endian::little, "the format is little-endian, and so are all machines this runs on");

struct StoredTypeRow {
    const char* name;
    int64_t size;
};
constexpr std::array<StoredTypeRow, 15> stored_types = {{{"F32", 4},
                                                         {"F64", 8},
                                                         {"BF16", 2},
                                                         {"F16", 2},
                                                         {"I32", 4},
                                                         {"I64", 8},
                                                         {"U32", 4},
                                                         {"U64", 8},
                                                         {"I16", 2},
                                                         {"U16", 2},
                                                         {"I8", 1},
                                                         {"U8", 1},
                                                         {"BOOL", 1},
                                                         {"F8_E4M3", 1},
                                                         {"F8_E5M2", 1}}};
static_assert(stored_types.size() == static_cast<size_t>(StoredType::F8_E5M2) + 1);

const char* name_of(StoredType type) { return stored_types[static_cast<size_t>(type)].name; }
int64_t size_of(StoredType type) { return stored_types[static_cast<size_t>(type)].size; }

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (int64_t dim : shape) text += (text.empty() ? "" : ", ") + std::to_string(dim);
    return "(" + text + ")";
}

// ----------------------------------------------------------------------------------------------------------------------
// writing

std::string safetensors_header(std::vector<StoredTensor>& tensors, const std::map<std::string, std::string>& metadata) {
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    int64_t end = 0;
    for (StoredTensor& tensor : tensors) {
        tensor.bytes = size_of(tensor.type);
        for (int64_t dim : tensor.shape) tensor.bytes *= dim;
        tensor.offset = end;
        end += tensor.bytes;
        header[tensor.name] = {{"dtype", name_of(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {tensor.offset, end}}};
    }
    std::string json = header.dump();
    json.resize((8 + json.size() + 63) / 64 * 64 - 8, ' ');
    uint64_t length = json.size();
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    text += json;
    for (StoredTensor& tensor : tensors) tensor.offset += static_cast<int64_t>(text.size());
    return text;
}

// ----------------------------------------------------------------------------------------------------------------------
// reading the header

namespace {

// Listens to the JSON parser word by word: a header that breaks a rule is refused at that word, and no tree of it is ever built.
// Where we are: depth 1 = names, 2 = fields of a tensor or of __metadata__, 3 = the numbers of a shape or of data_offsets.
class HeaderListener : public nlohmann::json_sax<nlohmann::json> {
public:
    std::vector<StoredTensor> tensors;  // offset counts from the start of the data, as in the header
    std::map<std::string, std::string> metadata;
    std::string broken_rule;
    int64_t broken_at = 0;  // bytes into the JSON, if the parser knows

    bool start_object(size_t) override {
        if (depth_ == 0) return depth_ = 1, true;
        if (depth_ != 1) return refuse("an object where none belongs, in " + where());
        depth_ = 2, fields_ = 0, keys_.clear(), ends_.clear();
        if (!in_metadata()) tensors.push_back({name_, {}, {}, 0, 0});
        return true;
    }
    bool end_object() override {
        if (depth_-- == 2 && !in_metadata()) return finish_tensor();
        return true;
    }
    bool key(string_t& text) override {
        if (text.find('\0') != std::string::npos) return refuse("a name with a NUL byte");
        if (depth_ == 1) {
            if (text.empty() || static_cast<int64_t>(text.size()) > max_name)
                return refuse("a tensor name is empty or longer than 1024 bytes");
            if (static_cast<int64_t>(tensors.size()) >= max_tensors) return refuse("more than 262144 tensors");
            if (text == "__metadata__" && metadata_seen_) return refuse("__metadata__ is there twice");
            metadata_seen_ = metadata_seen_ || text == "__metadata__";
            name_ = text;
            return true;
        }
        field_ = text;
        return keys_.insert(text).second || refuse("the key \"" + text + "\" is there twice in " + where());
    }
    bool string(string_t& text) override {
        if (depth_ == 2 && in_metadata()) return metadata[field_] = text, true;
        if (depth_ != 2 || field_ != "dtype") return refuse("a string where none belongs, in " + where());
        for (size_t i = 0; i < stored_types.size(); i++)
            if (text == stored_types[i].name) return tensors.back().type = static_cast<StoredType>(i), fields_++, true;
        return refuse("dtype \"" + text + "\" is not known, in " + where());
    }
    bool start_array(size_t) override {
        if (depth_ != 2 || in_metadata() || (field_ != "shape" && field_ != "data_offsets"))
            return refuse("a list where none belongs, in " + where());
        return depth_ = 3, true;
    }
    bool end_array() override { return depth_ = 2, fields_++, true; }
    bool number_unsigned(number_unsigned_t value) override {
        if (depth_ != 3) return refuse("a number where none belongs, in " + where());
        if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return refuse("a number of 2^63 or more in " + where());
        std::vector<int64_t>& list = field_ == "shape" ? tensors.back().shape : ends_;
        if (list.size() >= max_rank) return refuse("a list of more than 32 numbers in " + where());
        return list.push_back(static_cast<int64_t>(value)), true;
    }
    bool number_integer(number_integer_t) override { return refuse("a negative number in " + where()); }
    bool number_float(number_float_t, const string_t&) override {
        return refuse("a number that is no whole number below 2^63, in " + where());
    }
    bool boolean(bool) override { return refuse("true or false where neither belongs, in " + where()); }
    bool null() override { return refuse("null where it does not belong, in " + where()); }
    bool binary(binary_t&) override { return refuse("binary data in the header"); }
    bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
        broken_at = static_cast<int64_t>(position);
        return refuse("it is not valid JSON in UTF-8");
    }

private:
    bool refuse(std::string rule) {
        if (broken_rule.empty()) broken_rule = std::move(rule);
        return false;
    }
    bool in_metadata() const { return name_ == "__metadata__"; }
    std::string where() const { return depth_ == 0 || name_.empty() ? "the header" : "\"" + name_ + "\""; }

    bool finish_tensor() {
        StoredTensor& tensor = tensors.back();
        if (fields_ != 3 || keys_.size() != 3) return refuse(where() + " does not have exactly dtype, shape and data_offsets");
        if (ends_.size() != 2 || ends_[1] < ends_[0]) return refuse("data_offsets of " + where() + " are not a beginning and an end");
        int64_t bytes = size_of(tensor.type);
        for (int64_t dim : tensor.shape)
            if (__builtin_mul_overflow(bytes, dim, &bytes)) return refuse("the shape of " + where() + " overflows");
        tensor.offset = ends_[0], tensor.bytes = ends_[1] - ends_[0];
        if (tensor.bytes != bytes)
            return refuse(format("%s has %lld bytes by its offsets, %lld by its shape", where().c_str(),
                                 static_cast<long long>(tensor.bytes), static_cast<long long>(bytes)));
        return true;
    }

    int depth_ = 0, fields_ = 0;
    std::string name_, field_;
    std::set<std::string> keys_;
    std::vector<int64_t> ends_;
    bool metadata_seen_ = false;
};

}  // namespace

// The parser keeps a bit per open bracket: a header of brackets alone would cost little, but the rule is cheap to check first.
static bool too_deep(const std::string& json) {
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < json.size(); i++) {
        char c = json[i];
        if (in_string) {
            if (c == '\\') i++;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth) return true;
        } else if (c == '}' || c == ']') {
            if (depth-- == 0) return false;  // malformed: the parser will say so
        }
    }
    return false;
}

SafetensorsFile::SafetensorsFile(const std::string& path, ExitCode fault) : file_(path, fault) {
    auto refuse = [&](const std::string& rule, int64_t offset) {
        throw Error(fault, format("%s is not a sound safetensors file: %s", path.c_str(), rule.c_str()),
                    "the file is damaged or of another kind: copy it again")
            .file(path)
            .offset(offset);
    };
    uint64_t length = 0;
    if (file_.size() < 8)
        refuse(format("it has %lld bytes, fewer than the 8 of its header length", static_cast<long long>(file_.size())), 0);
    file_.read(&length, 8, 0);
    if (length > static_cast<uint64_t>(max_header) || static_cast<int64_t>(length) > file_.size() - 8)
        refuse(format("its header claims %llu bytes, the file has %lld", static_cast<unsigned long long>(length),
                      static_cast<long long>(file_.size())),
               0);

    std::string json(length, '\0');
    file_.read(json.data(), static_cast<int64_t>(length), 8);
    if (json.empty() || json[0] != '{') refuse("its header does not begin with {", 8);
    if (size_t nul = json.find('\0'); nul != std::string::npos)  // the parser would take it for the end
        refuse("its header has a NUL byte", 8 + static_cast<int64_t>(nul));
    if (too_deep(json)) refuse("its header is nested deeper than 8", 8);
    HeaderListener listener;
    if (!nlohmann::json::sax_parse(json, &listener)) refuse("in its header, " + listener.broken_rule, 8 + listener.broken_at);
    tensors_ = std::move(listener.tensors), metadata_ = std::move(listener.metadata);

    for (size_t i = 0; i < tensors_.size(); i++)
        if (!index_.emplace(tensors_[i].name, static_cast<int64_t>(i)).second)
            refuse("the tensor \"" + tensors_[i].name + "\" is there twice", 8);
    std::sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
        return a.offset != b.offset ? a.offset < b.offset : a.bytes != b.bytes ? a.bytes < b.bytes : a.name < b.name;
    });
    const int64_t data = 8 + static_cast<int64_t>(length);
    int64_t end = 0;
    for (size_t i = 0; i < tensors_.size(); i++) {
        StoredTensor& tensor = tensors_[i];
        if (tensor.offset != end)
            refuse(format("there is %s before \"%s\"", tensor.offset > end ? "a gap" : "an overlap", tensor.name.c_str()),
                   data + std::min(end, file_.size() - data));
        if (__builtin_add_overflow(end, tensor.bytes, &end) || end > file_.size() - data)
            refuse("\"" + tensor.name + "\" reaches past the end of the file", file_.size());
        tensor.offset += data;
        index_[tensor.name] = static_cast<int64_t>(i);
    }
    if (end != file_.size() - data)
        refuse(format("%lld bytes follow the last tensor", static_cast<long long>(file_.size() - data - end)), data + end);
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
    auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[static_cast<size_t>(found->second)];
}

// ----------------------------------------------------------------------------------------------------------------------
// reading values

void SafetensorsFile::read_f32(const StoredTensor& tensor, int64_t first, int64_t count, float* out) const {
    ENSURE(first >= 0 && count >= 0 && first + count <= tensor.numel());
    const int64_t at = tensor.offset + first * size_of(tensor.type);
    if (tensor.type == StoredType::F32) return file_.read(out, count * 4, at);
    if (tensor.type != StoredType::BF16 && tensor.type != StoredType::F16)
        throw Error(file_.fault(),
                    format("the tensor \"%s\" has dtype %s; weights are F32, BF16 or F16", tensor.name.c_str(), name_of(tensor.type)),
                    "convert it with the tool that wrote it")
            .file(path())
            .offset(tensor.offset);
    // 16-bit values go into the upper half of `out` and are widened upwards: no second buffer.
    uint16_t* narrow = reinterpret_cast<uint16_t*>(out) + count;
    file_.read(narrow, count * 2, at);
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        std::memcpy(&bits, narrow + i, 2);
        float value = tensor.type == StoredType::BF16 ? bf16_to_float(bits) : half_to_float(bits);
        std::memcpy(out + i, &value, 4);
    }
}

}  // namespace traincu
