// What travels between the host and a stream's device without holding up either. On a CPU stream everything is a plain copy.
#pragma once

#include <array>
#include <memory>

#include "src/device/stream.h"

namespace traincu {

// Memory of the host that the GPU can read and write by itself; ordinary memory on a CPU stream.
class PinnedMemory {
public:
    PinnedMemory() = default;
    PinnedMemory(const Stream& stream, int64_t bytes);
    ~PinnedMemory();
    PinnedMemory(PinnedMemory&& other) noexcept { swap(other); }
    PinnedMemory& operator=(PinnedMemory&& other) noexcept {
        swap(other);
        return *this;
    }
    std::byte* data() const { return data_; }
    int64_t bytes() const { return bytes_; }

private:
    void swap(PinnedMemory& other) noexcept;
    std::byte* data_ = nullptr;
    int64_t bytes_ = 0;
    bool pinned_ = false;
};

// Small inputs on their way to the device: written to one of two buffers, while the other may still be read by the copies of the time
// before.
class Uploads {
public:
    void allocate(const Stream& stream, int64_t bytes);             // of all the tensors between begin() and end()
    void begin();                                                   // waits if the buffer's last copies are still under way
    void send(const Tensor& to, const void* from, Stream& stream);  // contiguous; `from` may change when this returns
    void end(Stream& stream);

private:
    struct Buffer {
        PinnedMemory memory;
        gpu::EventHandle copied = nullptr;
    };
    std::array<Buffer, 2> buffers_;
    size_t current_ = 0;
    int64_t used_ = 0;

public:
    Uploads() = default;
    ~Uploads();
    Uploads(const Uploads&) = delete;
    Uploads& operator=(const Uploads&) = delete;
};

// A copy of a contiguous tensor in the host's memory, to be filled or read there; on a CPU stream the tensor itself. A bf16 tensor has its
// copy in f32, on a CPU too: exact downwards, rounded to the nearest upwards.
class HostCopy {
public:
    HostCopy(const Tensor& tensor, const Stream& stream);  // zeros until download()
    const Tensor& tensor() const { return host_; }
    HostCopy& download();
    void upload();

private:
    bool is_copy() const { return host_.data != device_.data; }

    Tensor device_, host_;
    const Stream& stream_;
    std::unique_ptr<std::byte, void (*)(void*)> memory_;
};

}  // namespace traincu
