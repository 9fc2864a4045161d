// Attention on the GPU: which kernels compute it (kernels/attention_gpu.h lists them), and the backward's first pass.
//
//   first pass   a team of lanes per (row, head), each lane 16 bytes at a time: D = dout . out; with a gate dO over dout, and dgate
//   sinks        a block per part of the rows and 32 heads; fold_units() adds the parts
// Bytes, s = size of an element: 2 s T NH HS, with a gate 3 s T NH HS, and 2 s T NH HS more of one (T,NH,HS); 4 T NH of D. Sinks:
// 8 T NH. Floor: these over the memory's speed; 64k tokens with 16 gated heads of 128 in bf16 at 4.3 TB/s: 0.31 ms. Fraction: not measured.
#include "kernels/attention_gpu.h"
#include "kernels/fold.h"

namespace traincu::gpu {

constexpr int attention_pass_threads = 256, attention_sink_heads = 32, attention_sink_rows = 8;

template <class T>
struct AttentionGate {
    AttentionHeads<const T> gate;
    AttentionHeads<T> dgate;
    int width;  // 0: none; 1: a number a head; HS
};

// dout becomes dO where there is a gate. A head is `team` lanes', a power of two; all lanes of a warp come to the sum.
template <class T, int width>
__global__ void __launch_bounds__(attention_pass_threads)
    attention_first_pass_kernel(float* D, AttentionHeads<T> dout, AttentionHeads<const T> out, AttentionGate<T> gates, int64_t pairs,
                                int NH, int HS, int team) {
    const int lane = static_cast<int>(threadIdx.x) % team, teams = attention_pass_threads / team;
    const int64_t at = int64_t{blockIdx.x} * teams + threadIdx.x / static_cast<unsigned>(team);  // row and head
    const bool there = at < pairs;
    const int64_t row = there ? at / NH : 0, head = there ? at % NH : 0;
    T* x_row = dout.row(row, head, HS);
    const T *y_row = out.row(row, head, HS), *z_row = gates.gate.row(row, head, gates.width);
    T* dz_row = gates.dgate.row(row, head, gates.width);
    const bool elementwise = gates.width == HS, headwise = gates.width == 1 && !elementwise;
    const float head_gate = there && headwise ? to_float(*z_row) : 0.0f;
    float sum = 0;
    for (int d = lane * width; there && d < HS; d += team * width) {
        float x[width], y[width], z[width], dz[width];
        load_floats(x, x_row + d), load_floats(y, y_row + d);
#pragma unroll
        for (int i = 0; i < width; i++) sum = fmaf(x[i], y[i], sum);
        if (gates.width == 0) continue;
        if (elementwise) load_floats(z, z_row + d);
#pragma unroll
        for (int i = 0; i < width; i++) {
            const float gate = elementwise ? z[i] : head_gate;
            dz[i] = x[i] * y[i] * attention_sigmoid(-gate);
            x[i] *= attention_sigmoid(gate);
        }
        store_floats(x_row + d, x);
        if (elementwise) store_floats(dz_row + d, dz);
    }
    sum = team_sum(sum, team);
    if (!there || lane != 0) return;
    D[at] = sum;
    if (headwise) *dz_row = from_float<T>(sum * attention_sigmoid(-head_gate));
}

// partials[part, h] = - sum over the part's rows of exp(sink - lse) D: 8 sums side by side, each of every eighth row, then added in order.
template <class T>
__global__ void __launch_bounds__(attention_sink_heads* attention_sink_rows)
    attention_sinks_kernel(float* partials, const T* sinks, const float* lse, const float* D, int NH, Parts parts, int64_t first_part) {
    float(&sums)[attention_sink_rows * attention_sink_heads] = shared_array<float, attention_sink_rows * attention_sink_heads>();
    const int column = static_cast<int>(threadIdx.x), side = static_cast<int>(threadIdx.y);
    const int head = static_cast<int>(blockIdx.y) * attention_sink_heads + column;
    const PartRows part(parts, first_part + blockIdx.x);
    float sum = 0;
    if (head < NH) {
        const float sink = to_float(sinks[head]);
        for (int64_t row = part.begin + side; row < part.end; row += attention_sink_rows)
            sum -= attention_exp(sink, lse[row * NH + head]) * D[row * NH + head];
    }
    sums[side * attention_sink_heads + column] = sum;
    __syncthreads();
    if (side != 0 || head >= NH) return;
    for (int s = 1; s < attention_sink_rows; s++) sum += sums[s * attention_sink_heads + column];
    partials[int64_t{blockIdx.x} * NH + head] = sum;
}

template <class T>
void attention_first_pass(const AttentionGradients& d, const Tensor& dout, const Tensor& out, const AttentionInputs& in,
                          const AttentionScratch& scratch, Stream& stream) {
    const int NH = static_cast<int>(in.q.shape[1]), HS = static_cast<int>(in.q.shape[2]);
    const int64_t pairs = in.q.rows() * NH;
    const AttentionHeads<T> x = attention_heads<T>(dout);
    const AttentionHeads<const T> y = attention_heads<const T>(out);
    const AttentionGate<T> gates{attention_heads<const T>(in.gate), attention_heads<T>(d.dgate),
                                 in.gate ? static_cast<int>(in.gate.shape[2]) : 0};
    const bool elementwise = gates.width == HS;
    dispatch_width<T>(x.aligned && y.aligned && (!elementwise || (gates.gate.aligned && gates.dgate.aligned)), [&](auto chosen) {
        constexpr int width = decltype(chosen)::value;
        int team = 1;
        while (team < warp_size && team * width < HS) team *= 2;
        launch(attention_first_pass_kernel<T, width>, grid_of(div_ceil(pairs, attention_pass_threads / team)), dim3(attention_pass_threads),
               0, stream, scratch.delta.as<float>(), x, y, gates, pairs, NH, HS, team);
    });
}

template <class T>
void attention_sinks(const Tensor& dsinks, const Tensor& sinks, const Tensor& lse, const Tensor& D, int64_t unit_rows, Stream& stream) {
    const int64_t NH = lse.cols(), part_bytes = NH * size_of(Dtype::f32), room = stream.workspace_bytes() / part_bytes;
    ENSURE(room > 0);
    const Parts parts = Parts::of(lse.rows(), unit_rows, room < 1024 ? room : 1024, 64);  // 64 rows are worth a block
    const int64_t count = parts.count(), at_once = parts.at_once(stream.workspace_bytes(), part_bytes);
    for (int64_t first = 0; first < count; first += at_once) {
        const int64_t here = count - first < at_once ? count - first : at_once;
        float* partials = static_cast<float*>(stream.workspace(here * part_bytes));
        launch(attention_sinks_kernel<T>, dim3(static_cast<unsigned>(here), static_cast<unsigned>(div_ceil(NH, attention_sink_heads))),
               dim3(attention_sink_heads, attention_sink_rows), 0, stream, partials, sinks.as<T>(), lse.as<float>(), D.as<float>(),
               static_cast<int>(NH), parts, first);
        fold_units(dsinks.as<float>(), partials, here, parts.per_unit(), NH, NH, stream);
    }
}

// ---- which kernels

// Fastest first; the last takes whatever the contract allows.
struct AttentionTier {
    AttentionKernel kernel;
    const char* name;
    bool proven;        // its tests have passed on a card: may be chosen without being asked for
    const char* needs;  // for a message
    bool (*takes)(const AttentionInputs&);
    decltype(&simple_attention_forward) forward;
    decltype(&simple_attention_backward) backward;
};

static bool any_attention(const AttentionInputs&) { return true; }

static constexpr AttentionTier attention_tiers[] = {
    {AttentionKernel::hopper, "hopper", false, "sm_90, bf16, heads of 64 or 128, rows at multiples of 16 bytes, factors of rank 64 at most",
     hopper_attention_takes, hopper_attention_forward, hopper_attention_backward},
    {AttentionKernel::tiled, "tiled", false, "bf16, and heads of a multiple of 8 up to 256 at multiples of 16 bytes", tiled_attention_takes,
     tiled_attention_forward, tiled_attention_backward},
    {AttentionKernel::simple, "simple", true, "", any_attention, simple_attention_forward, simple_attention_backward},
};

static const AttentionTier& attention_tier(const AttentionInputs& in) {
    const AttentionKernel wanted = wanted_attention_kernel();
    for (const AttentionTier& tier : attention_tiers) {
        if (wanted == AttentionKernel::automatic ? !tier.proven : tier.kernel != wanted) continue;
        if (tier.takes(in)) return tier;
        if (wanted != AttentionKernel::automatic)
            throw Error(ExitCode::usage,
                        format("--attention-kernel %s does not compute this model here: it needs %s", tier.name, tier.needs),
                        "use --attention-kernel auto, which takes what fits");
    }
    ENSURE(!"a kernel of the list");
    return attention_tiers[0];
}

AttentionKernel chosen_attention_kernel(const AttentionInputs& in) { return attention_tier(in).kernel; }

void attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments, const AttentionParams& params,
                       Stream& stream) {
    if (in.q.rows() == 0) return;
    attention_tier(in).forward(out, lse, in, segments, params, stream);
}

void attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                        const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params, Stream& stream) {
    if (in.q.rows() == 0) return;
    const AttentionTier& tier = attention_tier(in);  // refuses before anything is changed
    dispatch_stored(in.q.dtype, [&](auto stored) {
        using T = decltype(stored);
        attention_first_pass<T>(d, dout, out, in, scratch, stream);
        if (d.dsinks) attention_sinks<T>(d.dsinks, in.sinks, lse, scratch.delta, params.unit_rows, stream);
    });
    tier.backward(d, dout, lse, in, scratch, segments, params, stream);
    if (d.drelative) attention_backward_relative(d.drelative, dout, lse, scratch.delta, in, segments, params, stream);
}

}  // namespace traincu::gpu
