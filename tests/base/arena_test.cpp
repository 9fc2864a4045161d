#include "src/base/arena.h"

#include <doctest/doctest.h>

#include <cstring>
#include <stdexcept>

using namespace traincu;

TEST_SUITE("arena") {
    TEST_CASE("arena: tensors are aligned, zeroed, inside the arena, and do not overlap") {
        Arena arena("activations");
        std::array<Tensor, 6> tensors;
        arena.add(tensors[0], "one byte over", Dtype::bf16, {33});
        arena.add(tensors[1], "matrix", Dtype::f32, {17, 129});
        arena.add(tensors[2], "empty", Dtype::f32, {0, 8});
        arena.add(tensors[3], "one", Dtype::f64, {1});
        arena.add(tensors[4], "four dimensions", Dtype::i32, {2, 3, 5, 7});
        arena.add(tensors[5], "last", Dtype::bf16, {1});
        arena.allocate();
        CHECK(arena.allocated());
        CHECK(tensors[1].is({17, 129}));
        CHECK(tensors[1].contiguous());
        CHECK(tensors[4].dtype == Dtype::i32);
        for (const Tensor& t : tensors) {
            CHECK(reinterpret_cast<uintptr_t>(t.data) % 64 == 0);
            const auto* bytes = static_cast<const unsigned char*>(t.data);
            bool zero = true;
            for (int64_t i = 0; i < t.bytes(); i++) zero = zero && bytes[i] == 0;
            CHECK(zero);
        }
        // each is filled with its own number; all still hold it when all are filled
        for (size_t i = 0; i < tensors.size(); i++)
            std::memset(tensors[i].data, static_cast<int>(i + 1), static_cast<size_t>(tensors[i].bytes()));
        for (size_t i = 0; i < tensors.size(); i++) {
            const auto* bytes = static_cast<const unsigned char*>(tensors[i].data);
            bool whole = true;
            for (int64_t b = 0; b < tensors[i].bytes(); b++) whole = whole && bytes[b] == i + 1;
            CHECK(whole);
            CHECK(arena.rows()[i].offset + tensors[i].bytes() <= arena.bytes());
        }
    }

    TEST_CASE("arena: declaring counts bytes, padding included, and allocates nothing") {
        Arena arena("optimizer");
        Tensor m, v;
        arena.add(m, "m", Dtype::f32, {1000000, 1000000});  // 4 TB: no machine of ours would give it
        arena.add(v, "v", Dtype::f32, {3});
        CHECK(arena.bytes() == int64_t{4000000000000} + 64);
        CHECK(!arena.allocated());
        CHECK(!m);
        CHECK(m.is({1000000, 1000000}));
        REQUIRE(arena.rows().size() == 2);
        CHECK(arena.rows()[1].name == "v");
        CHECK(arena.rows()[1].offset == int64_t{4000000000000});
        CHECK(arena.rows()[1].bytes == 12);
        CHECK(arena.rows()[1].tensor == &v);
    }

    TEST_CASE("arena: too large a request names the arena and its size") {
        Arena arena("gradients");
        Tensor huge;
        arena.add(huge, "huge", Dtype::f32, {int64_t{1} << 50});
        try {
            arena.allocate();
            FAIL("4 PiB were granted");
        } catch (const Error& error) {
            CHECK(error.code() == ExitCode::memory);
            CHECK(std::string(error.what()).find("gradients") != std::string::npos);
            CHECK(std::string(error.what()).find("4096.00 TiB") != std::string::npos);
            CHECK(!error.remedy().empty());
        }
        CHECK(!arena.allocated());
        CHECK(!huge);
    }

    TEST_CASE("arena: an empty one may be allocated; a second allocation or a late declaration is refused") {
        Arena empty("nothing");
        empty.allocate();
        CHECK(empty.bytes() == 0);
        Arena arena("weights");
        Tensor w, late;
        arena.add(w, "w", Dtype::f32, {4});
        arena.allocate();
        CHECK_THROWS_AS(arena.allocate(), std::logic_error);
        CHECK_THROWS_AS(arena.add(late, "late", Dtype::f32, {4}), std::logic_error);
    }

    TEST_CASE("human_bytes: binary units") {
        CHECK(human_bytes(0) == "0 B");
        CHECK(human_bytes(1023) == "1023 B");
        CHECK(human_bytes(1024) == "1.00 KiB");
        CHECK(human_bytes(5 * 1024 * 1024 / 2) == "2.50 MiB");
        CHECK(human_bytes(int64_t{5} << 28) == "1.25 GiB");
        CHECK(human_bytes(int64_t{3} << 40) == "3.00 TiB");
    }
}
