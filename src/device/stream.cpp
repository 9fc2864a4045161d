#include "src/device/stream.h"

#include <cstring>
#include <utility>

namespace traincu {

const char* name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

static void* allocate_zeroed(int64_t bytes) {
    void* memory = gpu::allocate(bytes);
    if (!memory) return nullptr;
    const gpu::StreamHandle stream = gpu::create_stream();
    gpu::fill_bytes(memory, 0, bytes, stream);
    gpu::synchronize(stream);
    gpu::destroy_stream(stream);
    return memory;
}
static const MemorySource device_memory{allocate_zeroed, [](void* memory, int64_t) { gpu::release(memory); }, "GPU memory"};

Stream::Stream(Device device, int64_t workspace_bytes) : device_(device) {
    if (!on_gpu()) return;
    ENSURE(gpu::built());
    gpu::device_info();  // says why where there is none
    workspace_ = gpu::allocate(workspace_bytes);
    if (!workspace_)
        throw Error(ExitCode::memory, format("the GPU has no room for a workspace of %s", human_bytes(workspace_bytes).c_str()),
                    "end what else uses its memory (nvidia-smi shows it)");
    workspace_bytes_ = workspace_bytes;
    handle_ = gpu::create_stream();
}

Stream::~Stream() {
    if (handle_) gpu::destroy_stream(handle_);
    if (workspace_) gpu::release(workspace_);
}

void Stream::swap(Stream& other) noexcept {
    std::swap(device_, other.device_), std::swap(handle_, other.handle_);
    std::swap(workspace_, other.workspace_), std::swap(workspace_bytes_, other.workspace_bytes_);
}

const MemorySource& Stream::memory() const { return on_gpu() ? device_memory : host_memory; }

void Stream::synchronize() const {
    if (on_gpu()) gpu::synchronize(handle_);
}

void* Stream::workspace(int64_t bytes) const {
    ENSURE(on_gpu() && bytes <= workspace_bytes_);
    return workspace_;
}

void Stream::download(void* host, const Tensor& from) const {
    ENSURE(from.contiguous());
    if (!on_gpu()) {
        std::memcpy(host, from.data, static_cast<size_t>(from.bytes()));
        return;
    }
    gpu::copy(host, from.data, from.bytes(), handle_);
    gpu::synchronize(handle_);
}

void Stream::upload(const Tensor& to, const void* host) const {
    ENSURE(to.contiguous());
    if (!on_gpu()) {
        std::memcpy(to.data, host, static_cast<size_t>(to.bytes()));
        return;
    }
    gpu::copy(to.data, host, to.bytes(), handle_);
    gpu::synchronize(handle_);
}

}  // namespace traincu
