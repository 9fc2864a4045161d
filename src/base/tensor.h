// Tensor: a view of memory that someone else owns (an Arena): pointer, dtype, shape, and one stride.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>

#include "src/base/dtype.h"
#include "src/base/integers.h"

namespace traincu {

struct Tensor {
    void* data = nullptr;
    Dtype dtype = Dtype::f32;
    int rank = 0;
    std::array<int64_t, 4> shape{};
    int64_t row_stride = 0;  // elements from one index of dimension 0 to the next; the rest is dense

    Tensor() = default;
    Tensor(void* memory, Dtype type, std::initializer_list<int64_t> dims) : data(memory), dtype(type) {
        ENSURE(dims.size() <= shape.size());
        for (int64_t dim : dims) shape[static_cast<size_t>(rank++)] = dim;
        row_stride = cols();
    }

    // An absent tensor (no bias, no gate) is an empty one.
    explicit operator bool() const { return data != nullptr; }

    int64_t rows() const { return rank > 0 ? shape[0] : 0; }
    // Elements of one row: the product of all dimensions but the first.
    int64_t cols() const {
        int64_t product = 1;
        for (int i = 1; i < rank; i++) product *= shape[static_cast<size_t>(i)];
        return product;
    }
    int64_t numel() const { return rank > 0 ? rows() * cols() : 0; }
    int64_t bytes() const { return numel() * size_of(dtype); }
    bool contiguous() const { return row_stride == cols(); }

    // Typed pointer to the first element; the type must match.
    template <class T>
    T* as() const {
        ENSURE(DtypeOf<T>::value == dtype);
        return static_cast<T*>(data);
    }

    // The same, or null where the tensor is absent.
    template <class T>
    T* as_or_null() const {
        return *this ? as<T>() : nullptr;
    }

    bool is(std::initializer_list<int64_t> dims) const {
        if (static_cast<int>(dims.size()) != rank) return false;
        int i = 0;
        for (int64_t dim : dims)
            if (shape[static_cast<size_t>(i++)] != dim) return false;
        return true;
    }

    // Rows [begin, begin + count).
    Tensor slice_rows(int64_t begin, int64_t count) const {
        ENSURE(begin >= 0 && count >= 0 && begin + count <= rows());
        Tensor part = *this;
        part.data = static_cast<std::byte*>(data) + begin * row_stride * size_of(dtype);
        part.shape[0] = count;
        return part;
    }

    // Columns [begin, begin + width) of a (rows, cols) matrix: a strided view, e.g. K inside packed QKV.
    Tensor slice_cols(int64_t begin, int64_t width) const {
        ENSURE(rank == 2 && begin >= 0 && width >= 0 && begin + width <= shape[1]);
        Tensor part = *this;
        part.data = static_cast<std::byte*>(data) + begin * size_of(dtype);
        part.shape[1] = width;
        return part;
    }

    // The same rows with their columns named otherwise: (T, NH*HS) as (T, NH, HS).
    Tensor view(std::initializer_list<int64_t> dims) const {
        Tensor other(data, dtype, dims);
        ENSURE(other.rows() == rows() && other.cols() == cols());
        other.row_stride = row_stride;
        return other;
    }
};

}  // namespace traincu
