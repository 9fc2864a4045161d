// What the runner's own tests share.
#pragma once

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "src/base/error.h"
#include "src/device/stream.h"

namespace traincu::simt_test {

template <class T>
struct Managed {
    T* data;
    int64_t n;
    explicit Managed(int64_t count, T value = T{}) : data(static_cast<T*>(gpu::allocate_managed(count * int64_t{sizeof(T)}))), n(count) {
        for (int64_t i = 0; i < n; i++) data[i] = value;
    }
    ~Managed() { gpu::release(data); }
    Managed(const Managed&) = delete;
    Managed& operator=(const Managed&) = delete;
    T& operator[](int64_t i) { return data[i]; }
};

// What synchronize() says; empty if it returns.
inline std::string failure(const Stream& stream) {
    try {
        stream.synchronize();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}
// A faulty kernel must end with a sentence that has these parts, its correct sibling with none.
inline void check_failure(const std::string& text, bool faulty, const std::vector<std::string>& parts) {
    CAPTURE(text);
    if (!faulty) CHECK(text == "");
    if (faulty)
        for (const std::string& part : parts) {
            CAPTURE(part);
            CHECK(text.find(part) != std::string::npos);
        }
}

inline Stream gpu_stream() { return Stream(Device::cuda, 1 << 20); }

}  // namespace traincu::simt_test
