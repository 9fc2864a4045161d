// Streams, arenas and what travels between the host and a device.
#include "src/device/transfer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <stdexcept>

#include "tests/support/numeric.h"

namespace traincu::test {

TEST_SUITE("device") {
    TEST_CASE("device: an arena of the stream's device arrives zeroed, and what is uploaded comes back") {
        Stream& stream = test_stream();
        Arena arena("test");
        Tensor x, y;
        arena.add(x, "x", Dtype::f32, {3, 7}), arena.add(y, "y", Dtype::i32, {5});
        arena.allocate(stream.memory());
        HostCopy copy(x, stream);
        for (int64_t i = 0; i < 21; i++) CHECK(copy.download().tensor().as<float>()[i] == 0);
        std::iota(copy.tensor().as<float>(), copy.tensor().as<float>() + 21, 1.0f);
        copy.upload();
        std::vector<float> back(21);
        stream.download(back.data(), x);
        for (size_t i = 0; i < 21; i++) CHECK(back[i] == static_cast<float>(i + 1));
    }

    TEST_CASE("device: two batches of inputs may be under way, and each arrives whole") {
        Stream& stream = test_stream();
        Arena arena("test");
        Tensor a, b, sums;
        arena.add(a, "a", Dtype::i32, {1000}), arena.add(b, "b", Dtype::i32, {3});
        arena.allocate(stream.memory());
        Uploads uploads;
        uploads.allocate(stream, 4 * 1003 + 64);
        std::vector<int32_t> values(1000), few(3);
        for (int32_t round = 0; round < 5; round++) {
            std::fill(values.begin(), values.end(), round), std::fill(few.begin(), few.end(), -round);
            uploads.begin();
            uploads.send(a, values.data(), stream);
            uploads.send(b, few.data(), stream);
            uploads.end(stream);
            std::fill(values.begin(), values.end(), 99), std::fill(few.begin(), few.end(), 99);  // may change at once
            if (round < 3) continue;
            std::vector<int32_t> back(1000), back_few(3);
            stream.download(back.data(), a), stream.download(back_few.data(), b);
            CHECK(back == std::vector<int32_t>(1000, round));
            CHECK(back_few == std::vector<int32_t>(3, -round));
        }
    }

    TEST_CASE("device: a bf16 tensor's copy on the host is f32, exact downwards and rounded to the nearest even upwards") {
        if (!on_gpu()) return;  // the CPU stores no bf16
        Stream& stream = test_stream();
        Arena arena("test");
        Tensor x;
        arena.add(x, "x", Dtype::bf16, {4});
        arena.allocate(stream.memory());
        HostCopy copy(x, stream);
        REQUIRE(copy.tensor().dtype == Dtype::f32);
        for (int i = 0; i < 4; i++) CHECK(copy.tensor().as<float>()[i] == 0);
        const float values[4] = {1.0f, 1.00390625f, 1.01171875f, -3e38f};  // the middle two lie half way between neighbours
        std::copy(values, values + 4, copy.tensor().as<float>());
        copy.upload();
        copy.download();
        CHECK(copy.tensor().as<float>()[0] == 1.0f);
        CHECK(copy.tensor().as<float>()[1] == 1.0f);
        CHECK(copy.tensor().as<float>()[2] == 1.015625f);
        CHECK(copy.tensor().as<float>()[3] == doctest::Approx(-3e38).epsilon(4e-3));
    }

    TEST_CASE("device: a workspace is as large as it was asked for, and no larger") {
        if (!on_gpu()) return;
        const Stream stream(Device::cuda, 4096);
        CHECK(stream.workspace(4096) == stream.workspace(1));
        CHECK_THROWS_AS(stream.workspace(4097), std::logic_error);
    }
}

}  // namespace traincu::test
