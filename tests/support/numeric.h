// Helpers of the numerical tests: tensors that own their memory, random values, central differences.
#pragma once

#include <cmath>
#include <cstdlib>
#include <functional>
#include <vector>

#include <doctest/doctest.h>

#include "src/base/philox.h"
#include "src/base/tensor.h"
#include "tests/support/device.h"

namespace traincu::test {

// A place for the tensors of one test; their memory lives as long as it does.
class Pool {
public:
    explicit Pool(uint64_t seed = 1) : seed_(seed) {}
    ~Pool() {
        try {
            if (!memory_.empty() && on_gpu()) test_stream().synchronize();  // a kernel may still use it
        } catch (const Error& error) {  // perhaps during another one's way up: throwing would end all tests without a word
            FAIL_CHECK(error.what());
        }
        for (void* memory : memory_) release(memory);
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Filled with NaN: an output that a kernel forgets to write is seen.
    Tensor poison(Dtype dtype, std::initializer_list<int64_t> shape) { return filled(dtype, shape, std::nan("")); }
    Tensor zeros(Dtype dtype, std::initializer_list<int64_t> shape) { return filled(dtype, shape, 0.0); }
    Tensor filled(Dtype dtype, std::initializer_list<int64_t> shape, double value) {
        Tensor t = make(dtype, shape);
        for (int64_t i = 0; i < t.numel(); i++) set(t, i, value);
        return t;
    }
    // Normal with the given standard deviation and mean. The same call gives the same values in f32 (rounded) and f64.
    Tensor normal(Dtype dtype, std::initializer_list<int64_t> shape, double std = 1.0, double mean = 0.0) {
        Tensor t = make(dtype, shape);
        Random random{seed_, RandomStream::init};
        uint32_t which = count_++;
        for (int64_t i = 0; i < t.numel(); i++) set(t, i, mean + std * random.normal(which, static_cast<uint64_t>(i)));
        return t;
    }
    // Whole numbers in [0, below).
    Tensor integers(std::initializer_list<int64_t> shape, int64_t below) {
        Tensor t = make(Dtype::i32, shape);
        Random random{seed_, RandomStream::sampling};
        uint32_t which = count_++;
        for (int64_t i = 0; i < t.numel(); i++)
            set(t, i, static_cast<double>(random.below(static_cast<uint64_t>(below), which, static_cast<uint64_t>(i))));
        return t;
    }
    // A copy of contiguous values in another type: f64 inputs of a reference from the f32 inputs of a kernel.
    Tensor copy(Tensor from, Dtype dtype) {
        ENSURE(from.contiguous());
        Tensor t = from;
        t.dtype = dtype;
        t.data = allocate(t.bytes());
        for (int64_t i = 0; i < t.numel(); i++) set(t, i, get(from, i));
        return t;
    }

    static double get(const Tensor& t, int64_t i) {
        switch (t.dtype) {
            case Dtype::f64:
                return t.as<double>()[i];
            case Dtype::f32:
                return t.as<float>()[i];
            case Dtype::bf16:
                return bf16_to_float(t.as<bf16>()[i].bits);
            case Dtype::f16:
                return half_to_float(t.as<f16>()[i].bits);
            case Dtype::i64:
                return static_cast<double>(t.as<int64_t>()[i]);
            default:
                return t.as<int32_t>()[i];
        }
    }
    static void set(const Tensor& t, int64_t i, double value) {
        switch (t.dtype) {
            case Dtype::f64:
                t.as<double>()[i] = value;
                return;
            case Dtype::f32:
                t.as<float>()[i] = static_cast<float>(value);
                return;
            case Dtype::bf16:
                t.as<bf16>()[i] = {float_to_bf16(static_cast<float>(value))};
                return;
            case Dtype::f16:
                t.as<f16>()[i] = {float_to_half(static_cast<float>(value))};
                return;
            case Dtype::i64:
                t.as<int64_t>()[i] = static_cast<int64_t>(value);
                return;
            case Dtype::i16:
                t.as<int16_t>()[i] = static_cast<int16_t>(value);
                return;
            case Dtype::u8:
                t.as<uint8_t>()[i] = static_cast<uint8_t>(value);
                return;
            default:
                t.as<int32_t>()[i] = static_cast<int32_t>(value);
                return;
        }
    }

private:
    Tensor make(Dtype dtype, std::initializer_list<int64_t> shape) {
        Tensor t(nullptr, dtype, shape);
        t.data = allocate(t.bytes());
        return t;
    }
    // Memory that the host and the device of the tests both see.
    void* allocate(int64_t bytes) {
        void* memory = on_gpu() ? gpu::allocate_managed(bytes) : std::calloc(1, static_cast<size_t>(bytes) + 64);
        ENSURE(memory != nullptr);
        memory_.push_back(memory);
        return memory;
    }
    static void release(void* memory) {
        if (on_gpu())
            gpu::release(memory);
        else
            std::free(memory);
    }

    uint64_t seed_;
    uint32_t count_ = 0;
    std::vector<void*> memory_;
};

// |a - b| / |b| in the Euclidean norm over contiguous tensors of any type; |a - b| where b is all zero. NaN in a gives NaN.
inline double relative_error(const Tensor& a, const Tensor& b) {
    ENSURE(a.numel() == b.numel());
    double difference = 0, size = 0;
    for (int64_t i = 0; i < a.numel(); i++) {
        double x = Pool::get(a, i), y = Pool::get(b, i);
        difference += (x - y) * (x - y), size += y * y;
    }
    return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

// Gradient check by central differences in double. `loss` recomputes a scalar from the current values of x;
// returns the relative error of the analytic gradient `dx` over `samples` elements of x (all of them if samples = 0).
inline double gradient_error(const std::function<double()>& loss, const Tensor& x, const Tensor& dx, int64_t samples = 0,
                             double step = 1e-5) {
    ENSURE(x.dtype == Dtype::f64 && dx.dtype == Dtype::f64 && x.numel() == dx.numel());
    int64_t n = x.numel(), count = samples > 0 && samples < n ? samples : n;
    double difference = 0, size = 0;
    for (int64_t s = 0; s < count; s++) {
        int64_t i = count == n ? s : (s * 2654435761LL) % n;
        double* p = x.as<double>() + i;
        double saved = *p;
        *p = saved + step;
        double up = loss();
        *p = saved - step;
        double down = loss();
        *p = saved;
        double numeric = (up - down) / (2 * step), analytic = dx.as<double>()[i];
        difference += (numeric - analytic) * (numeric - analytic), size += numeric * numeric;
    }
    return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace traincu::test
