#include "src/plan/kernel_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "kernels/activation.h"
#include "kernels/adamw.h"
#include "kernels/classifier.h"
#include "kernels/copy.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "src/base/philox.h"

namespace traincu {

namespace {

constexpr double most_bytes = 32 << 20;  // of a call's operands, or of a table beside them

// Rows of a position table.
int64_t position_rows(int64_t width) { return std::clamp<int64_t>(static_cast<int64_t>(most_bytes) / (4 * width), 1, 1024); }

// Random numbers in (0,1) + shift over the whole tensor: a block of them, repeated.
void fill(const Tensor& tensor, int64_t count, float shift) {
    std::vector<float> block(1 << 14);
    Random random;
    for (size_t i = 0; i < block.size(); i++) block[i] = static_cast<float>(random.bits(0, i)[0]) * 0x1p-32f + 0x1p-20f + shift;
    const int64_t size = static_cast<int64_t>(block.size());
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < count; begin += size)
        std::memcpy(tensor.as<float>() + begin, block.data(), static_cast<size_t>(std::min(size, count - begin)) * sizeof(float));
}

bool updates_in_place(Kernel kernel) { return kernel == Kernel::adamw || kernel == Kernel::classifier; }

}  // namespace

KernelTimer::KernelTimer(int64_t footprint) {
    const int64_t half = pool_bytes / 2 / 4;
    arena_.add(inputs_.memory, "inputs", Dtype::f32, {half});
    arena_.add(outputs_.memory, "outputs", Dtype::f32, {half});
    arena_.add(total_, "total", Dtype::f64, {1});
    arena_.add(guard_state_, "guard state", Dtype::f64, {guard_state_size});
    arena_.add(ranges_, "decay ranges", Dtype::i64, {1, 2});
    arena_.allocate();
    GuardState& guard = guard_state_of(guard_state_);
    guard.adam_steps = 1, guard.clip = 1;
    inputs_.limit = outputs_.limit = std::min(half, footprint / 2 / 4);
    fill(inputs_.memory, half, -0.5f);
    fill(outputs_.memory, half, 0);  // a page that is touched for the first time costs more than a kernel
}

// The next tensor of the ring, on a cache line of its own. One that is larger than the limit gets its room anyway.
Tensor KernelTimer::Ring::take(std::initializer_list<int64_t> shape) {
    Tensor tensor(nullptr, Dtype::f32, shape);
    const int64_t count = (tensor.numel() + 15) / 16 * 16;
    ENSURE(count <= memory.numel());
    if (next + count > std::max(limit, count)) next = 0;
    tensor.data = memory.as<float>() + next;
    next += count;
    return tensor;
}

void KernelTimer::prepare(const KernelCall& call) {
    const size_t rows = static_cast<size_t>(call.sizes[0]);
    if (updates_in_place(call.kernel)) fill(outputs_.memory, outputs_.memory.numel(), 0);
    switch (call.kernel) {
        case Kernel::embedding_forward:
        case Kernel::embedding_backward:
        case Kernel::classifier: {
            const int64_t V = call.kernel == Kernel::classifier ? call.sizes[1] : call.sizes[2];
            ids_.resize(rows);
            for (size_t i = 0; i < rows; i++)
                ids_[i] = static_cast<int32_t>(Random{}.below(static_cast<uint64_t>(V), 1, static_cast<uint64_t>(i)));
            ones_.assign(rows, 1.0f);
            [[fallthrough]];
        }
        case Kernel::rope_forward:
        case Kernel::rope_backward:
            positions_.resize(rows);
            for (size_t i = 0; i < rows; i++) positions_[i] = static_cast<int32_t>(static_cast<int64_t>(i) % position_rows(call.sizes[1]));
            order_.resize(rows);  // the GPU's alone
            angles_.assign(static_cast<size_t>(position_rows(call.sizes[1]) * call.sizes[3]), 0.5f);
            break;
        case Kernel::attention_forward:
        case Kernel::attention_backward:
            segments_.clear();
            for (int64_t begin = 0, n = call.sizes[4]; begin < call.sizes[0]; begin += n) segments_.push_back({begin, n, begin, n, 0});
            break;
        default:
            break;
    }
}

void KernelTimer::run(const KernelCall& call) {
    auto in = [&](std::initializer_list<int64_t> shape) { return inputs_.take(shape); };
    auto out = [&](std::initializer_list<int64_t> shape) { return outputs_.take(shape); };
    constexpr int64_t unit = 256;  // as in training (ModelOptions)
    const auto [N, width, third, fourth, fifth, sixth] = call.sizes;
    const Tensor ids(ids_.data(), Dtype::i32, {N}), positions(positions_.data(), Dtype::i32, {N}), ones(ones_.data(), Dtype::f32, {N});
    const Tensor order(order_.data(), Dtype::i32, {N});
    switch (call.kernel) {
        case Kernel::embedding_forward:
            embedding_forward(out({N, width}), ids, positions, in({third, width}), fourth ? in({position_rows(width), width}) : Tensor(),
                              stream_);
            break;
        case Kernel::embedding_backward:
            embedding_backward(out({third, width}), fourth ? out({position_rows(width), width}) : Tensor(), in({N, width}), ids, positions,
                               order, order, stream_);
            break;
        case Kernel::norm_forward: {
            const Tensor mean = third ? out({N}) : Tensor(), bias = third ? in({width}) : Tensor();
            const Tensor branch = fourth ? in({N, width}) : Tensor(), residual = fourth ? out({N, width}) : Tensor();
            norm_forward(residual, out({N, width}), mean, out({N}), in({N, width}), branch, in({width}), bias, 1e-5, stream_);
            break;
        }
        case Kernel::norm_backward: {
            const Tensor mean = third ? in({N}) : Tensor(), dbias = third ? out({width}) : Tensor();
            norm_backward(out({N, width}), out({width}), dbias, in({N, width}), fourth ? in({N, width}) : Tensor(), in({N, width}), mean,
                          in({N}), in({width}), unit, stream_);
            break;
        }
        case Kernel::matmul_forward:
            linear_forward(out({N, third}), in({N, width}), in({third, width}), fourth ? in({third}) : Tensor(), stream_);
            break;
        case Kernel::matmul_backward_input:
            linear_backward_input(out({N, width}), in({N, third}), in({third, width}), stream_);
            break;
        case Kernel::matmul_backward_weight:
            linear_backward_weight(out({third, width}), fourth ? out({third}) : Tensor(), in({N, third}), in({N, width}), unit, stream_);
            break;
        case Kernel::rope_forward:
        case Kernel::rope_backward: {
            const int64_t NH = width, NKV = third, HS = fourth, qk_width = (NH + NKV) * HS, qkv_width = (NH + 2 * NKV) * HS;
            const bool qk_norm = fifth;
            const RopeParams params{NH, NKV, HS, 1e-5};
            const Tensor angles = sixth ? Tensor(angles_.data(), Dtype::f32, {position_rows(width), HS}) : Tensor();
            Tensor rstd, q_weight, k_weight, dq_weight, dk_weight;
            if (qk_norm) q_weight = in({HS}), k_weight = in({HS}), dq_weight = out({HS}), dk_weight = out({HS});
            if (call.kernel == Kernel::rope_forward) {  // without QK-norm in place
                const Tensor qkv = qk_norm ? in({N, qkv_width}) : out({N, qkv_width});
                if (qk_norm) rstd = out({N, NH + NKV});
                qk_norm_rope_forward(qk_norm ? out({N, qk_width}) : qkv.slice_cols(0, qk_width), rstd, qkv, q_weight, k_weight, positions,
                                     angles, params, stream_);
            } else {
                const Tensor dqkv = out({N, qkv_width});
                if (qk_norm) rstd = in({N, NH + NKV});
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
            const SegmentTable segments{segments_, {}};
            const Tensor qkv = in({N, q_width + 2 * kv_width}), q = heads(qkv, 0, NH), k = heads(qkv, NH, NKV),
                         v = heads(qkv, NH + NKV, NKV);
            if (call.kernel == Kernel::attention_forward) {
                attention_forward(out({N, NH, HS}), out({N, NH}), q, k, v, segments, params, stream_);
            } else {
                const Tensor d = out({N, q_width + 2 * kv_width});
                attention_backward(heads(d, 0, NH), heads(d, NH, NKV), heads(d, NH + NKV, NKV), in({N, NH, HS}), in({N, NH, HS}),
                                   in({N, NH}), q, k, v, segments, params, stream_);
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
            classifier(out({N}), out({N, width}), ids, ones, params, stream_);
            break;
        }
        case Kernel::adamw: {
            AdamwParams params;
            params.lr = 1e-4;
            *ranges_.as<int64_t>() = N;
            adamw_update(out({N}), {}, out({N}), out({N}), in({N}), ranges_, guard_state_, params, stream_);
            break;
        }
        case Kernel::sum_squares:
            sum_squares(total_, in({N}), stream_);
            break;
        case Kernel::sum:
            sum(total_, in({N}), stream_);
            break;
        case Kernel::clear:
            zero(out({N}), stream_);
            break;
    }
}

double KernelTimer::seconds(const KernelCall& call, double budget) {
    using Clock = std::chrono::steady_clock;
    prepare(call);
    run(call);  // oneDNN generates code, scratch memory is fetched from the system
    std::vector<double> times;
    double total = 0;
    while (times.size() < 3 || (total < budget && times.size() < 300)) {
        const auto start = Clock::now();
        run(call);
        times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
        total += times.back();
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

KernelCall of_timed_size(const KernelCall& call) {
    constexpr double most_flops = 4e9;
    constexpr int64_t most_width = 4096, fewest_rows = 256;
    KernelCall smaller = call;
    auto& [N, width, third, fourth, fifth, sixth] = smaller.sizes;
    switch (call.kernel) {
        case Kernel::matmul_forward:
        case Kernel::matmul_backward_input:
        case Kernel::matmul_backward_weight:
            width = std::min(width, most_width), third = std::min(third, most_width);
            while (smaller.flops() > most_flops && N > fewest_rows) N = std::max(fewest_rows, N / 2);
            return smaller;
        case Kernel::attention_forward:
        case Kernel::attention_backward: {
            constexpr int64_t most_heads = 16, longest_context = 1024;
            const int64_t group = width / third;
            if (width > most_heads) third = std::clamp<int64_t>(most_heads / group, 1, third), width = third * group;
            const int64_t segments = N / fifth;
            fifth = std::min(fifth, longest_context), N = segments * fifth;
            while (smaller.flops() > most_flops && N > fifth) N = std::max<int64_t>(1, N / fifth / 2) * fifth;
            return smaller;
        }
        case Kernel::embedding_forward:
        case Kernel::embedding_backward:
            third = std::clamp<int64_t>(static_cast<int64_t>(most_bytes) / (4 * width), 1, third);
            break;
        default:
            break;
    }
    if (smaller.bytes() > most_bytes) {
        const int64_t rows = static_cast<int64_t>(static_cast<double>(N) * most_bytes / smaller.bytes());
        N = std::max<int64_t>(1, rows > 64 ? rows / 64 * 64 : rows);
    }
    return smaller;
}

}  // namespace traincu
