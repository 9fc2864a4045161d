// What the tests of quantisation share: the codec once more, number by number, in plain loops; and both devices in one call.
#pragma once

#include "kernels/quantize.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "src/base/philox.h"
#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

namespace traincu::test {

// H x by its recursion, H(2k) = (H(k) H(k); H(k) -H(k)): both halves first, then their sum and difference.
inline std::vector<float> sylvester(const std::vector<float>& x) {
    if (x.size() == 1) return x;
    const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
    std::vector<float> a = sylvester({x.begin(), middle}), b = sylvester({middle, x.end()}), y(x.size());
    for (size_t i = 0; i < a.size(); i++) y[i] = a[i] + b[i], y[a.size() + i] = a[i] - b[i];
    return y;
}
inline std::vector<float> rotated(const std::vector<float>& x) {
    std::vector<float> y;
    for (auto block = x.begin(); block != x.end(); block += 32)
        for (float z : sylvester({block, block + 32})) y.push_back(z);
    return y;
}

// u in (0,1) that rounds number i of a shard, as the contract says.
inline float chance(const QuantNoise& noise, int64_t shard, int64_t i) {
    const uint64_t index = static_cast<uint64_t>(noise.first + shard * noise.stride + i);
    const uint64_t hop = static_cast<uint64_t>(noise.hop), rank = static_cast<uint64_t>(noise.rank);
    const PhiloxBlock words =
        Random{noise.seed, RandomStream::quantization}.bits(noise.step, index / 8 + (uint64_t{1} << 44) * (hop * 65536 + rank));
    const uint32_t word = words[index / 2 % 4], half = index % 2 ? word >> 16 : word & 0xFFFF;
    return (static_cast<float>(half) + 0.5f) / 65536.0f;
}

// Rounded before anything is added to it.
inline float product(float a, float b) {
    const volatile float rounded = a * b;
    return rounded;
}

// The code of one number whose group has the multiplier k.
inline int code_of(float x, float k, const QuantFormat& format, float u) {
    const float v = product(x, k), lower = std::floor(v);
    float code = std::nearbyint(v);
    if (format.rounding == QuantFormat::stochastic) code = lower + (u < v - lower ? 1.0f : 0.0f);
    const int most = 1 << (format.bits - 1);
    return static_cast<int>(code >= static_cast<float>(most) ? static_cast<float>(most - 1) : code);
}

// A message as it is read off the wire.
struct Message {
    std::vector<int> codes;
    std::vector<float> scales;
    std::vector<uint8_t> padding;

    Message() = default;
    Message(const uint8_t* bytes, int64_t n, const QuantFormat& format) {
        for (int64_t i = 0; i < n; i++) {
            if (format.bits == 8) {
                codes.push_back(bytes[i] < 128 ? bytes[i] : bytes[i] - 256);
                continue;
            }
            const int nibble = i % 2 ? bytes[i / 2] % 16 : bytes[i / 2] / 16;
            codes.push_back(nibble < 8 ? nibble : nibble - 16);
        }
        scales.resize(static_cast<size_t>(n / format.group));
        const uint8_t* at = bytes + n * format.bits / 8;
        std::memcpy(scales.data(), at, scales.size() * 4);
        padding.assign(at + scales.size() * 4, bytes + message_bytes(n, format));
    }
    float value(int64_t i, const QuantFormat& format) const {
        return product(static_cast<float>(codes[static_cast<size_t>(i)]), scales[static_cast<size_t>(i / format.group)]);
    }
};
inline Message message(const Tensor& messages, int64_t which, int64_t n, const QuantFormat& format) {
    return {messages.as<uint8_t>() + which * message_bytes(n, format), n, format};
}

// What a shard of numbers becomes; `rotate`: by H first.
inline Message literal(std::vector<float> x, float factor, const QuantFormat& format, const QuantNoise& noise, int64_t shard, bool rotate) {
    if (rotate) x = rotated(x);
    Message m;
    for (int64_t begin = 0; begin < static_cast<int64_t>(x.size()); begin += format.group) {
        float a = 0;
        bool finite = true;
        for (int64_t i = begin; i < begin + format.group; i++) {
            finite = finite && std::isfinite(x[static_cast<size_t>(i)]);
            a = std::max(a, std::abs(x[static_cast<size_t>(i)]));
        }
        const bool codes = finite && a >= 1e-30f;
        const float k = (format.sixteen_levels ? 8.0f : format.bits == 4 ? 7.0f : 127.0f) / a;
        for (int64_t i = begin; i < begin + format.group; i++)
            m.codes.push_back(codes ? code_of(x[static_cast<size_t>(i)], k, format, chance(noise, shard, i)) : 0);
        m.scales.push_back(codes ? factor / k : finite ? 1.0f : std::nanf(""));
    }
    return m;
}

inline bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}
// Equal to the last bit, and the padding is zeros.
inline bool same(const Message& from_wire, const Message& wanted) {
    for (uint8_t byte : from_wire.padding)
        if (byte != 0) return false;
    return from_wire.codes == wanted.codes && same_floats(from_wire.scales, wanted.scales);
}

// Numbers of a shard, widened.
inline std::vector<float> shard_of(const Tensor& x, int64_t shard, int64_t n) {
    std::vector<float> values;
    for (int64_t i = 0; i < n; i++) values.push_back(static_cast<float>(Pool::get(x, shard * n + i)));
    return values;
}

// Runs body(out, stream) on the CPU's twin and, where there is one, on the GPU, on copies of `before`: the results are equal to the last
// bit.
template <class Body>
Tensor on_both(Pool& pool, const Tensor& before, Body&& body) {
    auto run = [&](Stream& stream) {
        Tensor out = before;
        out.data = pool.zeros(before.dtype, {before.numel()}).data;
        std::memcpy(out.data, before.data, static_cast<size_t>(before.bytes()));
        body(out, stream);
        stream.synchronize();
        return out;
    };
    Stream cpu;
    Tensor here = run(cpu), there = run(test_stream());
    CHECK(equal_bits(here, there));
    return there;
}

}  // namespace traincu::test
