// A block takes 32 columns (threadIdx.x, so that a warp reads 128 neighbouring bytes) and 16 units at a time (threadIdx.y): each thread
// adds the parts of its unit, then the first row of threads adds the 16 units in order. Bytes: 4 a partial sum, most of them still in the
// L2 cache.
#include "kernels/fold.h"

namespace traincu::gpu {

constexpr int fold_columns = 32, fold_side_by_side = 16;

__global__ void __launch_bounds__(fold_columns* fold_side_by_side)
    fold_units_kernel(float* total, const float* partials, int64_t parts, int64_t per_unit, int64_t stride, int64_t width) {
    float(&sums)[fold_side_by_side * fold_columns] = shared_array<float, fold_side_by_side * fold_columns>();
    const int column = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
    const int64_t c = int64_t{blockIdx.x} * fold_columns + column, units = div_ceil(parts, per_unit);
    float result = row == 0 && c < width ? total[c] : 0.0f;
    for (int64_t first = 0; first < units; first += fold_side_by_side) {
        const int64_t begin = (first + row) * per_unit, end = begin + per_unit < parts ? begin + per_unit : parts;
        float sum = 0;
        if (c < width)
#pragma unroll 8
            for (int64_t p = begin; p < end; p++) sum += partials[p * stride + c];
        sums[row * fold_columns + column] = sum;
        __syncthreads();
        if (row == 0) {
            const int64_t here = units - first < fold_side_by_side ? units - first : fold_side_by_side;
            for (int64_t u = 0; u < here; u++) result += sums[u * fold_columns + column];
        }
        __syncthreads();
    }
    if (row == 0 && c < width) total[c] = result;
}

void fold_units(float* total, const float* partials, int64_t parts, int64_t per_unit, int64_t stride, int64_t width, Stream& stream) {
    launch(fold_units_kernel, grid_of(div_ceil(width, fold_columns)), dim3(fold_columns, fold_side_by_side), 0, stream, total, partials,
           parts, per_unit, stride, width);
}

}  // namespace traincu::gpu
