#include "src/optim/master_copy.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace traincu {

namespace {

// A tensor's bytes in the host's memory: itself on a CPU.
HostCopy bytes_of(const Tensor& tensor, const Stream& stream) { return {Tensor(tensor.data, Dtype::u8, {tensor.bytes()}), stream}; }

std::optional<HostCopy> kept_bytes(const Optimizer* optimizer, const Stream& stream) {
    if (!optimizer || !optimizer->kept()) return {};
    return bytes_of(optimizer->kept(), stream);
}

template <class T>
T* at(const HostCopy& bytes, int64_t offset) {
    return reinterpret_cast<T*>(bytes.tensor().as<uint8_t>() + offset);
}

template <class Body>
void for_each(int64_t n, Body&& body) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) body(i);
}

}  // namespace

MasterCopy::MasterCopy(WeightDoor& door, Optimizer* optimizer, Stream& stream)
    : door_(door), optimizer_(optimizer), stream_(stream), memory_(nullptr, std::free) {
    const Tensor flat = door.flat_weights();
    if (!stream.on_gpu() && flat.dtype == Dtype::f32) {
        host_ = flat;
        return;
    }
    const int64_t n = door.table().flat_size;
    memory_.reset(static_cast<std::byte*>(std::calloc(static_cast<size_t>(n), sizeof(float))));
    if (!memory_) throw Error(ExitCode::memory, format("out of host memory: a copy of the weights, %s", human_bytes(n * 4).c_str()));
    host_ = Tensor(memory_.get(), Dtype::f32, {n});
}

MasterCopy& MasterCopy::download() {
    if (!is_copy()) return *this;
    HostCopy stored = bytes_of(door_.flat_weights(), stream_);
    std::optional<HostCopy> kept = kept_bytes(optimizer_, stream_);
    stored.download();
    if (kept) kept->download();
    const bool halves = door_.precision().beside == Beside::lower_half;
    for (const ParamRow& row : door_.table().rows) {
        float* to = host_.as<float>() + row.offset;
        const int64_t n = row.numel();
        if (row.stored == Dtype::f32)
            std::memcpy(to, at<float>(stored, row.stored_at), static_cast<size_t>(n) * sizeof(float));
        else if (kept && row.kept_at >= 0 && !halves)
            std::memcpy(to, at<float>(*kept, row.kept_at * 4), static_cast<size_t>(n) * sizeof(float));
        else if (kept && row.kept_at >= 0)
            for_each(n, [upper = at<uint16_t>(stored, row.stored_at), lower = at<int16_t>(*kept, row.kept_at * 2), to](int64_t i) {
                to[i] = std::bit_cast<float>(joined_master({upper[i], lower[i]}));
            });
        else if (row.stored == Dtype::bf16)
            for_each(n, [from = at<bf16>(stored, row.stored_at), to](int64_t i) { to[i] = widened(from[i]); });
        else
            for_each(n, [from = at<f16>(stored, row.stored_at), to](int64_t i) { to[i] = widened(from[i]); });
    }
    return *this;
}

void MasterCopy::upload() {
    door_.weights_changed();
    if (!is_copy()) return;
    HostCopy stored = bytes_of(door_.flat_weights(), stream_);
    std::optional<HostCopy> kept = kept_bytes(optimizer_, stream_);
    const bool halves = door_.precision().beside == Beside::lower_half;
    for (const ParamRow& row : door_.table().rows) {
        const float* from = host_.as<float>() + row.offset;
        const int64_t n = row.numel();
        if (row.stored == Dtype::f32) {
            std::memcpy(at<float>(stored, row.stored_at), from, static_cast<size_t>(n) * sizeof(float));
            continue;
        }
        if (kept && row.kept_at >= 0 && !halves)
            std::memcpy(at<float>(*kept, row.kept_at * 4), from, static_cast<size_t>(n) * sizeof(float));
        int64_t beyond = -1;
        auto narrow = [&]<class Narrow>(Narrow* to, int16_t* lower) {
#pragma omp parallel for schedule(static) reduction(max : beyond)
            for (int64_t i = 0; i < n; i++) {
                if (lower) {
                    const SplitMaster split = split_master(std::bit_cast<uint32_t>(from[i]));
                    to[i].bits = split.upper, lower[i] = split.lower;
                } else {
                    to[i] = narrowed<Narrow>(from[i]);
                }
                if (std::isfinite(from[i]) && !std::isfinite(widened(to[i]))) beyond = std::max(beyond, i);
            }
        };
        int16_t* lower = kept && row.kept_at >= 0 && halves ? at<int16_t>(*kept, row.kept_at * 2) : nullptr;
        if (row.stored == Dtype::bf16)
            narrow(at<bf16>(stored, row.stored_at), lower);
        else
            narrow(at<f16>(stored, row.stored_at), nullptr);
        if (beyond >= 0)
            throw Error(ExitCode::usage,
                        format("%s holds a weight of %g, beyond the range of %s (%s)", row.name.c_str(), static_cast<double>(from[beyond]),
                               row.stored == Dtype::f16 ? "fp16" : "bf16", row.stored == Dtype::f16 ? "65504" : "3.39e38"),
                        format("store it in %s: --precision-of %s=%s", row.stored == Dtype::f16 ? "bf16" : "fp32",
                               name_of(row.weight_class), row.stored == Dtype::f16 ? "bf16" : "fp32"));
    }
    stored.upload();
    if (kept) kept->upload();
}

}  // namespace traincu
