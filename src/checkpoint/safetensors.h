// safetensors files: 8 bytes of header length, a JSON header (name -> dtype, shape, data_offsets), then the tensors' bytes without gaps.
// The writer makes the header, the caller appends the data. The reader trusts nothing: every rule below is checked before anything of a
// size that the file claims is allocated, and tensors are then read by position.
//
//   header at most 100 MB and inside the file, begins with '{', valid UTF-8, depth at most 8, no key twice
//   numbers are unsigned integers below 2^63; shape products and sizes by checked multiplication
//   offsets begin at 0, follow each other without gap or overlap, and end with the file; size = shape x dtype
//   a name has 1 to 1024 bytes and no NUL; at most 262,144 tensors
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/checkpoint/io.h"

namespace traincu {

enum class StoredType { F32, F64, BF16, F16, I32, I64, U32, U64, I16, U16, I8, U8, BOOL, F8_E4M3, F8_E5M2 };
const char* name_of(StoredType type);
int64_t size_of(StoredType type);

struct StoredTensor {
    std::string name;
    StoredType type = StoredType::F32;
    std::vector<int64_t> shape;  // empty: a scalar
    int64_t offset = 0;          // bytes from the start of the file
    int64_t bytes = 0;

    int64_t numel() const { return bytes / size_of(type); }
};

std::string shape_text(const std::vector<int64_t>& shape);  // "(3, 64)"

// The file's first bytes for these tensors in this order. Sets their offset and bytes; the data begins at a multiple of 64.
std::string safetensors_header(std::vector<StoredTensor>& tensors, const std::map<std::string, std::string>& metadata);

class SafetensorsFile {
public:
    // Throws Error with the given code, naming file, byte and the broken rule.
    explicit SafetensorsFile(const std::string& path, ExitCode fault = ExitCode::checkpoint);

    const std::string& path() const { return file_.path(); }
    int64_t size() const { return file_.size(); }
    const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in the order of their data
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    const StoredTensor* find(const std::string& name) const;

    // Elements [first, first + count) as f32: F32, BF16 and F16 exactly; other types are refused.
    void read_f32(const StoredTensor& tensor, int64_t first, int64_t count, float* out) const;

private:
    InputFile file_;
    std::vector<StoredTensor> tensors_;
    std::map<std::string, int64_t> index_;
    std::map<std::string, std::string> metadata_;
};

}  // namespace traincu
