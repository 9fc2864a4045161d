// Moving numbers on the GPU. What is contiguous and keeps its type goes to the copy engine of the runtime; rows of views, and conversions,
// to a kernel in which a thread moves two packs of 16 bytes (of 4 elements in a conversion), or 2 elements.
//
// Bytes per element: its sizes. Floor: these over the memory's speed; 0.6 G weights from f32 to bf16 at 4.3 TB/s: 0.84 ms. Fraction: not
// measured.
#include "kernels/copy.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr int copy_threads = 256, copy_in_flight = 2;

// What is copied as it is: elements of 2, 4, 8 bytes, or 16 bytes of whichever.
struct alignas(16) Bytes16 {
    uint64_t halves[2];
};

// Rows of `cols` elements, n elements in all. from = null: zeros.
template <class Raw>
__global__ void __launch_bounds__(copy_threads)
    copy_rows_kernel(Raw* to, const Raw* from, int64_t n, int64_t cols, int64_t to_stride, int64_t from_stride) {
    const int64_t first = int64_t{blockIdx.x} * copy_in_flight * copy_threads + threadIdx.x;
    Raw values[copy_in_flight];
    int64_t at[copy_in_flight];
#pragma unroll
    for (int k = 0; k < copy_in_flight; k++) {
        const int64_t i = first + k * copy_threads;
        if (i >= n) continue;
        const int64_t row = i / cols, c = i % cols;
        values[k] = from ? from[row * from_stride + c] : Raw{};
        at[k] = row * to_stride + c;
    }
#pragma unroll
    for (int k = 0; k < copy_in_flight; k++)
        if (first + k * copy_threads < n) to[at[k]] = values[k];
}

// The same in packs of `width` elements of different types: n and cols count packs.
template <class To, class From, int width>
__global__ void __launch_bounds__(copy_threads)
    convert_rows_kernel(To* to, const From* from, int64_t n, int64_t cols, int64_t to_stride, int64_t from_stride) {
    const int64_t first = int64_t{blockIdx.x} * copy_in_flight * copy_threads + threadIdx.x;
    float values[copy_in_flight][width];
    int64_t at[copy_in_flight];
#pragma unroll
    for (int k = 0; k < copy_in_flight; k++) {
        const int64_t i = first + k * copy_threads;
        if (i >= n) continue;
        const int64_t row = i / cols, c = i % cols * width;
        load_floats(values[k], from + row * from_stride + c);
        at[k] = row * to_stride + c;
    }
#pragma unroll
    for (int k = 0; k < copy_in_flight; k++)
        if (first + k * copy_threads < n) store_floats(to + at[k], values[k]);
}

inline dim3 copy_grid(int64_t n) { return grid_of(div_ceil(n, copy_in_flight * copy_threads)); }

template <class Raw>
void copy_rows(const Tensor& to, const Tensor& from, Stream& stream) {
    constexpr int64_t size = sizeof(Raw);
    const int64_t element = size_of(to.dtype), cols = to.cols() * element / size;
    launch(copy_rows_kernel<Raw>, copy_grid(to.rows() * cols), dim3(copy_threads), 0, stream, static_cast<Raw*>(to.data),
           static_cast<const Raw*>(from.data), to.rows() * cols, cols, to.row_stride * element / size, from.row_stride * element / size);
}

// from: of the type of to, or absent, for zeros
inline void move_rows(const Tensor& to, const Tensor& from, Stream& stream) {
    const int64_t size = size_of(to.dtype);
    if (to.cols() * size % 16 == 0 && rows_aligned({to, from})) return copy_rows<Bytes16>(to, from, stream);
    if (size == 8) return copy_rows<uint64_t>(to, from, stream);
    if (size == 4) return copy_rows<uint32_t>(to, from, stream);
    copy_rows<uint16_t>(to, from, stream);
}

template <class To, class From>
void convert_rows(const Tensor& to, const Tensor& from, Stream& stream) {
    const bool flat = to.contiguous() && from.contiguous();  // one long row
    const int64_t length = flat ? to.numel() : to.cols();
    const bool packed = length % Pack<float>::size == 0 && (flat ? pointers_aligned({to, from}) : rows_aligned({to, from}));
    dispatch_width<float>(packed, [&](auto w) {
        constexpr int width = decltype(w)::value;
        launch(convert_rows_kernel<To, From, width>, copy_grid(to.numel() / width), dim3(copy_threads), 0, stream, to.as<To>(),
               from.as<From>(), to.numel() / width, length / width, to.row_stride, from.row_stride);
    });
}

void zero(Tensor x, Stream& stream) {
    if (x.contiguous()) return fill_bytes(x.data, 0, x.bytes(), stream.handle());
    move_rows(x, {}, stream);
}

void copy(Tensor to, Tensor from, Stream& stream) {
    if (to.dtype == Dtype::bf16 && from.dtype == Dtype::f32) return convert_rows<bf16, float>(to, from, stream);
    if (to.dtype == Dtype::f32 && from.dtype == Dtype::bf16) return convert_rows<float, bf16>(to, from, stream);
    if (to.dtype == Dtype::f16 && from.dtype == Dtype::f32) return convert_rows<f16, float>(to, from, stream);
    if (to.dtype == Dtype::f32 && from.dtype == Dtype::f16) return convert_rows<float, f16>(to, from, stream);
    ENSURE(to.dtype == from.dtype);
    if (to.contiguous() && from.contiguous()) return copy(to.data, from.data, to.bytes(), stream.handle());
    move_rows(to, from, stream);
}

}  // namespace traincu::gpu
