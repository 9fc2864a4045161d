// Philox4x32-10, the counter-based random generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC'11). A random number is a pure function of (seed, stream, step, index): nothing random in this
// program depends on a thread, a rank, or how a batch is split, and no generator state is ever saved.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace traincu {

// The uses of randomness; each has its own stream of numbers.
enum class RandomStream : uint32_t {
    init = 1,
    shard_order = 2,
    sample_order = 3,
    sampling = 4,
    rounding = 5,
    weight_rounding = 6,
    quantization = 7
};

using PhiloxBlock = std::array<uint32_t, 4>;

// Ten rounds over a 128-bit counter under a 64-bit key.
constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::array<uint32_t, 2> key) {
    for (int round = 0; round < 10; round++) {
        uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
        key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
    }
    return counter;
}

struct Random {
    uint64_t seed = 0;
    RandomStream stream = RandomStream::init;

    // 128 random bits for (step, index).
    constexpr PhiloxBlock bits(uint32_t step, uint64_t index) const {
        std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
        return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step, static_cast<uint32_t>(stream)}, key);
    }
    // Uniform in [0, n), without the bias of a plain remainder (below 2^-32 for n < 2^32).
    uint64_t below(uint64_t n, uint32_t step, uint64_t index) const {
        PhiloxBlock b = bits(step, index);
        uint64_t wide = uint64_t{b[0]} << 32 | b[1];
        return static_cast<uint64_t>(static_cast<unsigned __int128>(wide) * n >> 64);
    }
    // Uniform in (0, 1), 53 bits.
    double uniform(uint32_t step, uint64_t index) const {
        PhiloxBlock b = bits(step, index);
        return to_unit(uint64_t{b[0]} << 32 | b[1]);
    }
    // Standard normal (Box-Muller).
    double normal(uint32_t step, uint64_t index) const {
        PhiloxBlock b = bits(step, index);
        double u = to_unit(uint64_t{b[0]} << 32 | b[1]), v = to_unit(uint64_t{b[2]} << 32 | b[3]);
        return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
    }

private:
    static double to_unit(uint64_t x) { return (static_cast<double>(x >> 11) + 0.5) * 0x1p-53; }
};

}  // namespace traincu
