// Where the tests of this executable compute. build/run_tests has no GPU code and computes on the CPU; build/run_simt and build/run_gpu
// link the same test objects with the kernels of kernels/*.cu, executed by the SIMT runner or by a GPU.
#pragma once

#include <vector>

#include "src/device/stream.h"

namespace traincu::test {

inline Device test_device() { return gpu::built() ? Device::cuda : Device::cpu; }
inline bool on_gpu() { return test_device() == Device::cuda; }

// One for all tests; on a GPU its workspace is small, so that the tests see operations that must make do with little. Never destroyed: the
// runtime may be gone by then.
inline Stream& test_stream() {
    static Stream& stream = *new Stream(test_device(), int64_t{4} << 20);
    return stream;
}

// The storage types of activations to test.
inline std::vector<Dtype> test_dtypes() {
    return on_gpu() ? std::vector{Dtype::f32, Dtype::bf16} : std::vector{Dtype::f32, Dtype::f64, Dtype::bf16};
}

}  // namespace traincu::test
