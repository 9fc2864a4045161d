#include "src/device/transfer.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace traincu {

PinnedMemory::PinnedMemory(const Stream& stream, int64_t bytes) : bytes_(bytes), pinned_(stream.on_gpu()) {
    data_ = static_cast<std::byte*>(pinned_ ? gpu::allocate_pinned(bytes) : std::malloc(static_cast<size_t>(bytes)));
    if (!data_)
        throw Error(ExitCode::memory, format("out of host memory: a buffer for copies needs %s", human_bytes(bytes).c_str()),
                    "use a smaller --batch-size or --seq-len");
}

PinnedMemory::~PinnedMemory() {
    if (!data_) return;
    if (pinned_)
        gpu::release_pinned(data_);
    else
        std::free(data_);
}

void PinnedMemory::swap(PinnedMemory& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_), std::swap(pinned_, other.pinned_);
}

void Uploads::allocate(const Stream& stream, int64_t bytes) {
    if (!stream.on_gpu()) return;
    for (Buffer& buffer : buffers_) buffer.memory = PinnedMemory(stream, bytes), buffer.copied = gpu::create_event();
}

Uploads::~Uploads() {
    for (Buffer& buffer : buffers_)
        if (buffer.copied) gpu::destroy_event(buffer.copied);
}

void Uploads::begin() {
    current_ = 1 - current_, used_ = 0;
    if (buffers_[current_].copied) gpu::synchronize(buffers_[current_].copied);
}

void Uploads::send(const Tensor& to, const void* from, Stream& stream) {
    ENSURE(to.contiguous());
    const int64_t bytes = to.bytes();
    if (bytes == 0) return;
    if (!stream.on_gpu()) {
        std::memcpy(to.data, from, static_cast<size_t>(bytes));
        return;
    }
    const PinnedMemory& memory = buffers_[current_].memory;
    ENSURE(used_ + bytes <= memory.bytes());
    std::memcpy(memory.data() + used_, from, static_cast<size_t>(bytes));
    gpu::copy(to.data, memory.data() + used_, bytes, stream.handle());
    used_ += round_up(bytes, 16);
}

void Uploads::end(Stream& stream) {
    if (stream.on_gpu()) gpu::record(buffers_[current_].copied, stream.handle());
}

HostCopy::HostCopy(const Tensor& tensor, const Stream& stream)
    : device_(tensor), host_(tensor), stream_(stream), memory_(nullptr, std::free) {
    ENSURE(tensor.contiguous());
    if (!stream.on_gpu() && tensor.dtype != Dtype::bf16) return;
    if (tensor.dtype == Dtype::bf16) host_.dtype = Dtype::f32;
    memory_.reset(static_cast<std::byte*>(std::calloc(static_cast<size_t>(host_.bytes()), 1)));  // zero pages, there where first touched
    if (!memory_) throw Error(ExitCode::memory, format("out of host memory: a copy of %s", human_bytes(host_.bytes()).c_str()));
    host_.data = memory_.get();
}

HostCopy& HostCopy::download() {
    if (!is_copy()) return *this;
    if (host_.dtype == device_.dtype) {
        stream_.download(host_.data, device_);
        return *this;
    }
    const int64_t n = device_.numel();
    const auto narrow = std::make_unique_for_overwrite<bf16[]>(static_cast<size_t>(n));
    stream_.download(narrow.get(), device_);
    float* wide = host_.as<float>();
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) wide[i] = bf16_to_float(narrow[static_cast<size_t>(i)].bits);
    return *this;
}

void HostCopy::upload() {
    if (!is_copy()) return;
    if (host_.dtype == device_.dtype) return stream_.upload(device_, host_.data);
    const int64_t n = device_.numel();
    const auto narrow = std::make_unique_for_overwrite<bf16[]>(static_cast<size_t>(n));
    const float* wide = host_.as<float>();
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) narrow[static_cast<size_t>(i)] = {float_to_bf16(wide[i])};
    stream_.upload(device_, narrow.get());
}

}  // namespace traincu
