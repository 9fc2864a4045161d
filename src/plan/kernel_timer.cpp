#include "src/plan/kernel_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "kernels/activation.h"
#include "kernels/adamw.h"
#include "kernels/classifier.h"
#include "kernels/copy.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/quantize.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "src/base/philox.h"
#include "src/model/transformer.h"  // default_unit_rows

namespace traincu {

namespace {

// Of a call's operands, or of a table beside them.
constexpr int64_t most_bytes_cpu = int64_t{32} << 20;

// Rows of a position table.
int64_t position_rows(int64_t width) { return std::clamp<int64_t>(most_bytes_cpu / (4 * width), 1, 1024); }

// Random numbers in (0,1) + shift over a whole tensor of bytes, to be read as `type`: a block of them, repeated. Two bf16 read as one f32
// are a number of the same size.
void fill(const Tensor& bytes, Dtype type, float shift, Stream& stream) {
    const int64_t block = std::min(bytes.numel(), int64_t{1} << 20);  // of the tensor's elements
    std::vector<int32_t> numbers(static_cast<size_t>(block));
    const int64_t per_element = 4 / size_of(type);
    for (int64_t i = 0; i < block * per_element; i++) {
        const float x = static_cast<float>(Random{}.bits(0, static_cast<uint64_t>(i))[0]) * 0x1p-32f + 0x1p-20f + shift;
        if (type == Dtype::bf16)
            reinterpret_cast<uint16_t*>(numbers.data())[i] = float_to_bf16(x);
        else
            reinterpret_cast<float*>(numbers.data())[i] = x;
    }
    stream.upload(bytes.slice_rows(0, block), numbers.data());
    const auto row = [&](int64_t begin, int64_t count) { return Tensor(bytes.as<int32_t>() + begin, Dtype::i32, {1, count}); };
    for (int64_t filled = block; filled < bytes.numel(); filled *= 2) {  // there, not from here: gigabytes
        const int64_t more = std::min(filled, bytes.numel() - filled);
        copy(row(filled, more), row(0, more), stream);
    }
}

// As SDP4Bit sends gradients in two hops, and differences of weights.
const QuantFormat first_hop{8, 128, QuantFormat::stochastic, true}, second_hop{4, 128, QuantFormat::stochastic, true}, difference{4, 2048};

bool updates_in_place(Kernel kernel) { return kernel == Kernel::adamw || kernel == Kernel::classifier; }

}  // namespace

int64_t KernelTimer::pool_bytes(const Stream& stream) {
    if (!stream.on_gpu()) return int64_t{192} << 20;
    return std::min(int64_t{8} << 30, gpu::device_info().free_memory / 4);
}

KernelTimer::KernelTimer(Stream& stream, Dtype dtype, int64_t footprint)
    : stream_(stream), type_(dtype), wide_(statistics_of(dtype)), pool_bytes_(pool_bytes(stream)) {
    const int64_t half = pool_bytes_ / 2 / 4 * 4;
    arena_.add(inputs_.memory, "inputs", Dtype::i32, {half / 4});
    arena_.add(outputs_.memory, "outputs", Dtype::i32, {half / 4});
    arena_.add(total_, "total", Dtype::f64, {1});
    arena_.add(guard_state_, "guard state", Dtype::f64, {guard_state_size});
    arena_.add(ranges_, "weight ranges", Dtype::i64, {1, weight_range_size});
    arena_.allocate(stream.memory());
    GuardState guard;
    guard.adam_steps = 1;
    stream.upload(guard_state_, &guard);
    inputs_.limit = outputs_.limit = std::min(half, footprint / 2);
    fill(inputs_.memory, type_, -0.5f, stream_);
    zero(outputs_.memory, stream_);  // a page that is touched for the first time costs more than a kernel
}

// The next tensor of the ring, on a cache line of its own. One that is larger than the limit gets its room anyway.
Tensor KernelTimer::Ring::take(std::initializer_list<int64_t> shape, Dtype dtype) {
    Tensor tensor(nullptr, dtype, shape);
    const int64_t size = round_up(tensor.bytes(), 256);
    ENSURE(size <= memory.bytes());
    if (next + size > std::max(limit, size)) next = 0;
    tensor.data = static_cast<std::byte*>(memory.data) + next;
    next += size;
    return tensor;
}

void KernelTimer::prepare(const KernelCall& call) {
    const int64_t N = call.sizes[0], width = call.sizes[1];
    const size_t rows = static_cast<size_t>(N);
    if (updates_in_place(call.kernel)) fill(outputs_.memory, call.kernel == Kernel::adamw ? wide_ : type_, 0, stream_);
    indices_ = std::make_unique<Indices>();
    Indices& x = *indices_;
    std::vector<int32_t> ids, positions, order;
    std::vector<float> ones, angles;
    switch (call.kernel) {
        case Kernel::embedding_forward:
        case Kernel::embedding_backward:
        case Kernel::classifier: {
            const int64_t V = call.kernel == Kernel::classifier ? width : call.sizes[2];
            ids.resize(rows), order.resize(rows), ones.assign(rows, 1.0f);
            for (size_t i = 0; i < rows; i++)
                ids[i] = static_cast<int32_t>(Random{}.below(static_cast<uint64_t>(V), 1, static_cast<uint64_t>(i)));
            sorted_order(order, ids, V);
            [[fallthrough]];
        }
        case Kernel::rope_forward:
        case Kernel::rope_backward:
            positions.resize(rows);
            for (size_t i = 0; i < rows; i++) positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % position_rows(width));
            break;
        case Kernel::attention_forward:
        case Kernel::attention_backward:
            for (int64_t begin = 0, n = call.sizes[4]; begin < N; begin += n) x.segments.push_back({begin, n, begin, n, 0});
            break;
        case Kernel::adamw: {
            const bool narrow = type_ == Dtype::bf16;
            const WeightRange range{N, 1, static_cast<int64_t>(narrow ? Dtype::bf16 : Dtype::f32), 0, narrow ? 0 : -1};
            stream_.upload(ranges_, &range);
            break;
        }
        default:
            break;
    }
    const bool rotates = call.kernel == Kernel::rope_forward || call.kernel == Kernel::rope_backward;
    if (rotates && call.sizes[5]) angles.assign(static_cast<size_t>(position_rows(width) * call.sizes[3]), 0.5f);
    x.arena.add(x.ids, "ids", Dtype::i32, {static_cast<int64_t>(ids.size())});
    x.arena.add(x.order, "order", Dtype::i32, {static_cast<int64_t>(order.size())});
    x.arena.add(x.positions, "positions", Dtype::i32, {static_cast<int64_t>(positions.size())});
    x.arena.add(x.ones, "ones", Dtype::f32, {static_cast<int64_t>(ones.size())});
    if (!angles.empty()) x.arena.add(x.angles, "angles", Dtype::f32, {position_rows(width), call.sizes[3]});
    const AttentionTiles tiles = attention_tiles(x.segments, 0);
    x.arena.add(x.segment_rows, "segments", Dtype::i64, {static_cast<int64_t>(x.segments.size()), 5});
    x.arena.add(x.query_tiles, "query_tiles", Dtype::i32, {static_cast<int64_t>(tiles.query.size()), 5});
    x.arena.add(x.key_tiles, "key_tiles", Dtype::i32, {static_cast<int64_t>(tiles.key.size()), 5});
    x.arena.allocate(stream_.memory());
    auto send = [&](const Tensor& to, const void* from) {
        if (to.bytes() > 0) stream_.upload(to, from);
    };
    send(x.ids, ids.data()), send(x.order, order.data()), send(x.positions, positions.data()), send(x.ones, ones.data());
    send(x.angles, angles.data()), send(x.segment_rows, x.segments.data());
    send(x.query_tiles, tiles.query.data()), send(x.key_tiles, tiles.key.data());
}

void KernelTimer::run(const KernelCall& call) {
    auto in = [&](std::initializer_list<int64_t> shape) { return inputs_.take(shape, type_); };
    auto out = [&](std::initializer_list<int64_t> shape) { return outputs_.take(shape, type_); };
    auto in_wide = [&](std::initializer_list<int64_t> shape) { return inputs_.take(shape, wide_); };
    auto out_wide = [&](std::initializer_list<int64_t> shape) { return outputs_.take(shape, wide_); };
    const int64_t unit = default_unit_rows(stream_.device());  // as in training
    const auto [N, width, third, fourth, fifth, sixth] = call.sizes;
    const int64_t n = N * difference.group;  // of a message
    const QuantNoise noise{.seed = 1, .step = 1, .stride = n};
    const auto& [arena, ids, positions, order, ones, angles, segment_rows, query_tiles, key_tiles, segments] = *indices_;
    switch (call.kernel) {
        case Kernel::embedding_forward:
            embedding_forward(out({N, width}), ids, positions, in({third, width}), fourth ? in({position_rows(width), width}) : Tensor(),
                              stream_);
            break;
        case Kernel::embedding_backward:
            embedding_backward(out_wide({third, width}), fourth ? out_wide({position_rows(width), width}) : Tensor(), in({N, width}), ids,
                               positions, order, order, stream_);
            break;
        case Kernel::norm_forward: {
            const Tensor mean = third ? out_wide({N}) : Tensor(), bias = third ? in({width}) : Tensor();
            const Tensor branch = fourth ? in({N, width}) : Tensor(), residual = fourth ? out({N, width}) : Tensor();
            norm_forward(residual, out({N, width}), mean, out_wide({N}), in({N, width}), branch, in({width}), bias, 1e-5, stream_);
            break;
        }
        case Kernel::norm_backward: {
            const Tensor mean = third ? in_wide({N}) : Tensor(), dbias = third ? out_wide({width}) : Tensor();
            norm_backward(out({N, width}), out_wide({width}), dbias, in({N, width}), fourth ? in({N, width}) : Tensor(), in({N, width}),
                          mean, in_wide({N}), in({width}), unit, stream_);
            break;
        }
        case Kernel::matmul_forward:
            linear_forward(out({N, third}), in({N, width}), in({third, width}), fourth ? in({third}) : Tensor(), stream_);
            break;
        case Kernel::matmul_backward_input:
            linear_backward_input(out({N, width}), in({N, third}), in({third, width}), stream_);
            break;
        case Kernel::matmul_backward_weight:
            linear_backward_weight(out_wide({third, width}), fourth ? out_wide({third}) : Tensor(), in({N, third}), in({N, width}), unit,
                                   stream_);
            break;
        case Kernel::rope_forward:
        case Kernel::rope_backward: {
            const int64_t NH = width, NKV = third, HS = fourth, qk_width = (NH + NKV) * HS, qkv_width = (NH + 2 * NKV) * HS;
            const bool qk_norm = fifth;
            const RopeParams params{NH, NKV, HS, 1e-5};
            Tensor rstd, q_weight, k_weight, dq_weight, dk_weight;
            if (qk_norm) q_weight = in({HS}), k_weight = in({HS}), dq_weight = out_wide({HS}), dk_weight = out_wide({HS});
            if (call.kernel == Kernel::rope_forward) {  // without QK-norm in place
                const Tensor qkv = qk_norm ? in({N, qkv_width}) : out({N, qkv_width});
                if (qk_norm) rstd = out_wide({N, NH + NKV});
                qk_norm_rope_forward(qk_norm ? out({N, qk_width}) : qkv.slice_cols(0, qk_width), rstd, qkv, q_weight, k_weight, positions,
                                     angles, params, stream_);
            } else {
                const Tensor dqkv = out({N, qkv_width});
                if (qk_norm) rstd = in_wide({N, NH + NKV});
                qk_norm_rope_backward(dqkv, dq_weight, dk_weight, qk_norm ? in({N, qk_width}) : dqkv.slice_cols(0, qk_width), rstd,
                                      in({N, qkv_width}), q_weight, k_weight, positions, angles, params, unit, stream_);
            }
            break;
        }
        case Kernel::attention_forward:
        case Kernel::attention_backward: {
            const int64_t NH = width, NKV = third, HS = fourth, q_width = NH * HS, kv_width = NKV * HS;
            auto heads = [&](const Tensor& qkv, int64_t begin, int64_t count) {
                return qkv.slice_cols(begin * HS, count * HS).view({N, count, HS});
            };
            const AttentionParams params{1.0 / std::sqrt(static_cast<double>(HS))};
            const SegmentTable table{segments, segment_rows, query_tiles, key_tiles};
            const Tensor qkv = in({N, q_width + 2 * kv_width}), q = heads(qkv, 0, NH), k = heads(qkv, NH, NKV),
                         v = heads(qkv, NH + NKV, NKV);
            if (call.kernel == Kernel::attention_forward) {
                attention_forward(out({N, NH, HS}), out_wide({N, NH}), {.q = q, .k = k, .v = v}, table, params, stream_);
            } else {
                const Tensor d = out({N, q_width + 2 * kv_width});
                attention_backward({.dq = heads(d, 0, NH), .dk = heads(d, NH, NKV), .dv = heads(d, NH + NKV, NKV)}, in({N, NH, HS}),
                                   in({N, NH, HS}), in_wide({N, NH}), {.q = q, .k = k, .v = v}, {.delta = out_wide({N, NH})}, table, params,
                                   stream_);
            }
            break;
        }
        case Kernel::gelu_forward:
            gelu_forward(out({N, width}), in({N, width}), stream_);
            break;
        case Kernel::gelu_backward:
            gelu_backward(out({N, width}), in({N, width}), in({N, width}), stream_);
            break;
        case Kernel::swiglu_forward:
            swiglu_forward(out({N, width}), in({N, 2 * width}), stream_);
            break;
        case Kernel::swiglu_backward:
            swiglu_backward(out({N, 2 * width}), in({N, width}), in({N, 2 * width}), stream_);
            break;
        case Kernel::classifier: {
            const ClassifierParams params{width, 1e-3, 0, true};
            classifier(out_wide({N}), out({N, width}), ids, ones, params, stream_);
            break;
        }
        case Kernel::adamw: {
            AdamwParams params;
            params.lr = 1e-4;
            if (type_ == Dtype::bf16)
                adamw_update(out({N}), out_wide({N}), out_wide({N}), out_wide({N}), in_wide({N}), ranges_, guard_state_, params, stream_);
            else
                adamw_update(out_wide({N}), {}, out_wide({N}), out_wide({N}), in_wide({N}), ranges_, guard_state_, params, stream_);
            break;
        }
        case Kernel::sum_squares:
            sum_squares(total_, in_wide({N}), stream_);
            break;
        case Kernel::sum:
            sum(total_, in_wide({N}), stream_);
            break;
        case Kernel::clear:
            zero(out_wide({N}), stream_);
            break;
        case Kernel::quantize_gradients:
            quantize(outputs_.take({width, message_bytes(n, first_hop)}, Dtype::u8), in_wide({width, n}), 0.5, first_hop, noise, stream_);
            break;
        case Kernel::quantize_sum:
            reduce_quantize(outputs_.take({1, message_bytes(n, second_hop)}, Dtype::u8),
                            inputs_.take({width, 1, message_bytes(n, first_hop)}, Dtype::u8), first_hop, second_hop, noise, stream_);
            break;
        case Kernel::quantize_back:
            reduce_dequantize(out_wide({n}), inputs_.take({width, message_bytes(n, second_hop)}, Dtype::u8), second_hop, stream_);
            break;
        case Kernel::quantize_difference:
            quantize_difference(outputs_.take({message_bytes(n, difference)}, Dtype::u8), in_wide({n}), in({n}), difference, noise,
                                stream_);
            break;
        case Kernel::quantize_add:
            dequantize_add(out({width, n}), inputs_.take({width, message_bytes(n, difference)}, Dtype::u8), difference, stream_);
            break;
    }
}

double KernelTimer::seconds(const KernelCall& call, double budget) {
    using Clock = std::chrono::steady_clock;
    prepare(call);
    run(call);  // libraries choose or generate code, scratch memory is fetched from the system
    stream_.synchronize();
    // On a GPU some calls are timed together, but for long ones: the launch of one then hides behind the work of another, as in a step.
    int together = 1;
    if (stream_.on_gpu()) {
        const auto start = Clock::now();
        run(call);
        stream_.synchronize();
        together = std::chrono::duration<double>(Clock::now() - start).count() < budget / 10 ? 10 : 1;
    }
    const gpu::EventHandle begin = stream_.on_gpu() ? gpu::create_event() : nullptr, end = stream_.on_gpu() ? gpu::create_event() : nullptr;
    std::vector<double> times;
    double total = 0;
    while (times.size() < 3 || (total < budget && times.size() < 300)) {
        const auto start = Clock::now();
        if (begin) gpu::record(begin, stream_.handle());
        for (int i = 0; i < together; i++) run(call);
        if (end) gpu::record(end, stream_.handle()), gpu::synchronize(end);
        const double seconds = end ? gpu::milliseconds(begin, end) / 1e3 : std::chrono::duration<double>(Clock::now() - start).count();
        times.push_back(seconds / together);
        total += seconds;
    }
    if (begin) gpu::destroy_event(begin), gpu::destroy_event(end);
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

KernelCall KernelTimer::of_timed_size(const KernelCall& call) const {
    const bool gpu = stream_.on_gpu();
    const double most_flops = gpu ? 4e12 : 4e9;  // some milliseconds
    const double most_bytes = gpu ? static_cast<double>(pool_bytes_) / 4 : static_cast<double>(most_bytes_cpu);
    const int64_t most_width = gpu ? 1 << 18 : 4096, fewest_rows = 256;
    KernelCall smaller = call;
    auto& [N, width, third, fourth, fifth, sixth] = smaller.sizes;
    switch (call.kernel) {
        case Kernel::matmul_forward:
        case Kernel::matmul_backward_input:
        case Kernel::matmul_backward_weight:
            width = std::min(width, most_width), third = std::min(third, most_width);
            while ((smaller.flops() > most_flops || N * std::max(width, third) * 4 > pool_bytes_ / 2) && N > fewest_rows)
                N = std::max(fewest_rows, N / 2);
            return smaller;
        case Kernel::attention_forward:
        case Kernel::attention_backward: {
            const int64_t most_heads = gpu ? 64 : 16, longest_context = gpu ? 16384 : 1024;
            const int64_t group = width / third;
            if (width > most_heads) third = std::clamp<int64_t>(most_heads / group, 1, third), width = third * group;
            const int64_t segments = N / fifth;
            fifth = std::min(fifth, longest_context), N = segments * fifth;
            while (smaller.flops() > most_flops && N > fifth) N = std::max<int64_t>(1, N / fifth / 2) * fifth;
            return smaller;
        }
        case Kernel::embedding_forward:
        case Kernel::embedding_backward:
            third = std::clamp<int64_t>(static_cast<int64_t>(most_bytes / 4) / width, 1, third);
            break;
        case Kernel::quantize_gradients:
        case Kernel::quantize_sum:
        case Kernel::quantize_back:
        case Kernel::quantize_add:
            width = std::min<int64_t>(width, 64);
            break;
        default:
            break;
    }
    if (smaller.bytes(type_) > most_bytes) {
        const int64_t rows = static_cast<int64_t>(static_cast<double>(N) * most_bytes / smaller.bytes(type_));
        N = std::max<int64_t>(1, rows > 64 ? rows / 64 * 64 : rows);
    }
    return smaller;
}

}  // namespace traincu
