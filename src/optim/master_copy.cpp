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

std::unique_ptr<std::byte, void (*)(void*)> host_array(int64_t n) {
    std::unique_ptr<std::byte, void (*)(void*)> memory(static_cast<std::byte*>(std::calloc(static_cast<size_t>(n), sizeof(float))),
                                                       std::free);
    if (!memory) throw Error(ExitCode::memory, format("out of host memory: a copy of the model's size, %s", human_bytes(n * 4).c_str()));
    return memory;
}

// The pieces that each rank has of a flat array (flat_size) f32, on rank 0.
void gather_pieces(const Tensor& flat, const Optimizer& optimizer, const ParamTable& table, Communicator& world) {
    std::vector<Communicator::Message> sends, receives;
    auto add_pieces = [&](std::vector<Communicator::Message>& messages, int peer, int owner) {
        for (const ParamPart& part : table.parts) {
            const int64_t share = part.size / world.size();
            messages.push_back({peer, flat.slice_rows(part.begin + owner * share, share)});
        }
    };
    ENSURE(optimizer.share().ranks == world.size());
    if (world.rank() > 0) add_pieces(sends, 0, world.rank());
    if (world.rank() == 0)
        for (int peer = 1; peer < world.size(); peer++) add_pieces(receives, peer, peer);
    Stream host;
    world.exchange(sends, receives, Cargo::other, host).wait(host);
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
    if (!stream.on_gpu() && flat.dtype == Dtype::f32 && !(optimizer && optimizer->kept())) {
        host_ = flat;
        return;
    }
    const int64_t n = door.table().flat_size;
    memory_ = host_array(n);
    host_ = Tensor(memory_.get(), Dtype::f32, {n});
}

// body(element of the flat index, count, the range) for each range of what the optimizer keeps beside 16-bit weights here.
template <class Body>
static void for_each_kept(const Optimizer& optimizer, Body&& body) {
    for (const OwnPiece& piece : optimizer.pieces()) {
        int64_t begin = 0;
        for (const WeightRange& range : piece.ranges) {
            if (range.kept_at >= 0) body(piece.begin + begin, range.end - begin, range);
            begin = range.end;
        }
    }
}

MasterCopy& MasterCopy::download(Communicator* world) {
    if (!is_copy()) return *this;
    HostCopy stored = bytes_of(door_.flat_weights(), stream_);
    stored.download();
    for (const ParamRow& row : door_.table().rows) {
        float* to = host_.as<float>() + row.offset;
        const int64_t n = row.numel();
        if (row.stored == Dtype::f32)
            std::memcpy(to, at<float>(stored, row.stored_at), static_cast<size_t>(n) * sizeof(float));
        else if (row.stored == Dtype::bf16)
            for_each(n, [from = at<bf16>(stored, row.stored_at), to](int64_t i) { to[i] = widened(from[i]); });
        else
            for_each(n, [from = at<f16>(stored, row.stored_at), to](int64_t i) { to[i] = widened(from[i]); });
    }
    if (std::optional<HostCopy> kept = kept_bytes(optimizer_, stream_)) {
        kept->download();
        const bool halves = door_.precision().beside == Beside::lower_half;
        for_each_kept(*optimizer_, [&](int64_t begin, int64_t n, const WeightRange& range) {
            float* to = host_.as<float>() + begin;
            if (halves)
                for_each(n, [upper = at<uint16_t>(stored, range.stored_at), lower = at<int16_t>(*kept, range.kept_at * 2), to](int64_t i) {
                    to[i] = std::bit_cast<float>(joined_master({upper[i], lower[i]}));
                });
            else
                std::memcpy(to, at<float>(*kept, range.kept_at * 4), static_cast<size_t>(n) * sizeof(float));
        });
        if (world && optimizer_->share().ranks > 1) gather_pieces(host_, *optimizer_, door_.table(), *world);
    }
    return *this;
}

void MasterCopy::upload() {
    door_.weights_changed();
    if (!is_copy()) return;
    HostCopy stored = bytes_of(door_.flat_weights(), stream_);
    const bool halves = optimizer_ && optimizer_->kept() && door_.precision().beside == Beside::lower_half;
    for (const ParamRow& row : door_.table().rows) {
        const float* from = host_.as<float>() + row.offset;
        const int64_t n = row.numel();
        if (row.stored == Dtype::f32) {
            std::memcpy(at<float>(stored, row.stored_at), from, static_cast<size_t>(n) * sizeof(float));
            continue;
        }
        int64_t beyond = -1;
        auto narrow = [&]<class Narrow>(Narrow* to) {
#pragma omp parallel for schedule(static) reduction(max : beyond)
            for (int64_t i = 0; i < n; i++) {
                if constexpr (std::is_same_v<Narrow, bf16>)
                    to[i] =
                        halves && row.kept_at >= 0 ? bf16{split_master(std::bit_cast<uint32_t>(from[i])).upper} : narrowed<bf16>(from[i]);
                else
                    to[i] = narrowed<Narrow>(from[i]);
                if (std::isfinite(from[i]) && !std::isfinite(widened(to[i]))) beyond = std::max(beyond, i);
            }
        };
        if (row.stored == Dtype::bf16)
            narrow(at<bf16>(stored, row.stored_at));
        else
            narrow(at<f16>(stored, row.stored_at));
        if (beyond >= 0)
            throw Error(ExitCode::usage,
                        format("%s holds a weight of %g, beyond the range of %s (%s)", row.name.c_str(), static_cast<double>(from[beyond]),
                               row.stored == Dtype::f16 ? "fp16" : "bf16", row.stored == Dtype::f16 ? "65504" : "3.39e38"),
                        format("store it in %s: --precision-of %s=%s", row.stored == Dtype::f16 ? "bf16" : "fp32",
                               name_of(row.weight_class), row.stored == Dtype::f16 ? "bf16" : "fp32"));
    }
    stored.upload();
    std::optional<HostCopy> kept = kept_bytes(optimizer_, stream_);
    if (!kept) return;
    for_each_kept(*optimizer_, [&](int64_t begin, int64_t n, const WeightRange& range) {
        const float* from = host_.as<float>() + begin;
        if (halves)
            for_each(n, [to = at<int16_t>(*kept, range.kept_at * 2), from](int64_t i) {
                to[i] = split_master(std::bit_cast<uint32_t>(from[i])).lower;
            });
        else
            std::memcpy(at<float>(*kept, range.kept_at * 4), from, static_cast<size_t>(n) * sizeof(float));
    });
    kept->upload();
}

MomentCopy::MomentCopy(const Optimizer& optimizer, const ParamTable& table, const Tensor& moment, const Stream& stream)
    : optimizer_(optimizer), table_(table), local_(moment, stream), memory_(nullptr, std::free), flat_(local_.tensor()) {
    if (optimizer.local_size() == table.flat_size) return;
    memory_ = host_array(table.flat_size);
    flat_ = Tensor(memory_.get(), Dtype::f32, {table.flat_size});
}

MomentCopy& MomentCopy::download(Communicator* world) {
    local_.download();
    if (!memory_) return *this;
    for (const OwnPiece& piece : optimizer_.pieces())
        std::memcpy(flat_.as<float>() + piece.begin, local_.tensor().as<float>() + piece.local,
                    static_cast<size_t>(piece.size) * sizeof(float));
    ENSURE(world);
    gather_pieces(flat_, optimizer_, table_, *world);
    return *this;
}

void MomentCopy::upload() {
    if (memory_)
        for (const OwnPiece& piece : optimizer_.pieces())
            std::memcpy(local_.tensor().as<float>() + piece.local, flat_.as<float>() + piece.begin,
                        static_cast<size_t>(piece.size) * sizeof(float));
    local_.upload();
}

}  // namespace traincu
