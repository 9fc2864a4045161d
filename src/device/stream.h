// Stream: where an operation runs, and in which order. Every operation takes one as its last argument and dispatches on it. A CPU stream
// runs each operation to its end, on OpenMP threads, before it returns. On a GPU an operation is only put in line: the host goes on, and
// waits where it says so (synchronize()).
#pragma once

#include <cstdint>

#include "src/base/arena.h"
#include "src/device/gpu.h"

namespace traincu {

enum class Device { cpu, cuda };
const char* name_of(Device device);  // "cpu", "cuda"

class Stream {
public:
    static constexpr int64_t default_workspace = int64_t{64} << 20;

    Stream() = default;  // the CPU
    // device cuda: Error(usage) where none is usable, Error(memory) where the workspace finds no room.
    explicit Stream(Device device, int64_t workspace_bytes = default_workspace);
    ~Stream();
    Stream(Stream&& other) noexcept { swap(other); }
    Stream& operator=(Stream&& other) noexcept {
        swap(other);
        return *this;
    }

    Device device() const { return device_; }
    bool on_gpu() const { return device_ == Device::cuda; }
    gpu::StreamHandle handle() const { return handle_; }
    const MemorySource& memory() const;  // that arenas of this stream's tensors allocate from
    void synchronize() const;            // returns at once on the CPU

    // Scratch memory of an operation, on the GPU, 256-byte aligned: valid within that operation, since the next one may use the same bytes.
    void* workspace(int64_t bytes) const;
    int64_t workspace_bytes() const { return workspace_bytes_; }

    // Where the host's view of the device's memory begins and ends: both return after the copy is done.
    void download(void* host, const Tensor& from) const;  // contiguous
    void upload(const Tensor& to, const void* host) const;

private:
    void swap(Stream& other) noexcept;

    Device device_ = Device::cpu;
    gpu::StreamHandle handle_ = nullptr;
    void* workspace_ = nullptr;
    int64_t workspace_bytes_ = 0;
};

// A name on a profiler's time line while it lives.
class Range {
public:
    template <class Name>  // called where there is a GPU, for a std::string
    Range(const Stream& stream, Name name) : active_(stream.on_gpu()) {
        if (active_) gpu::push_range(name().c_str());
    }
    ~Range() {
        if (active_) gpu::pop_range();
    }
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;

private:
    bool active_;
};

}  // namespace traincu
