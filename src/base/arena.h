// Arena: all memory of one lifetime (weights, gradients, optimizer, activations, scratch).
// First every tensor is declared by name; then the arena is allocated at once and the declared tensors
// point into it. An arena that is declared and never allocated is the planner's counting allocator.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "src/base/tensor.h"

namespace traincu {

// Where an arena's memory comes from.
struct MemorySource {
    void* (*allocate)(int64_t bytes);  // zeroed, at least 64-byte aligned; null where there is not enough
    void (*release)(void* memory, int64_t bytes);
    const char* name;  // "host memory"
};
extern const MemorySource host_memory;

class Arena {
public:
    explicit Arena(std::string name) : name_(std::move(name)) {}
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // Declares a tensor. `tensor` gets dtype and shape now and its pointer in allocate(); it must not move until then.
    void add(Tensor& tensor, std::string name, Dtype dtype, std::initializer_list<int64_t> shape);

    // Allocates all that was declared, zeroed and 64-byte aligned. Throws Error(memory) naming this arena.
    void allocate(const MemorySource& source = host_memory);

    struct Row {
        std::string name;
        Tensor* tensor;
        int64_t offset;  // bytes from the start of the arena
        int64_t bytes;   // as asked for; the next row starts at the next multiple of 64
    };
    const std::string& name() const { return name_; }
    const std::deque<Row>& rows() const { return rows_; }
    int64_t bytes() const { return bytes_; }
    bool allocated() const { return memory_ != nullptr; }

private:
    std::string name_;
    std::deque<Row> rows_;
    int64_t bytes_ = 0;
    void* memory_ = nullptr;
    const MemorySource* source_ = nullptr;
};

// "1.25 GiB", "640 B": bytes for people.
std::string human_bytes(int64_t bytes);

}  // namespace traincu
