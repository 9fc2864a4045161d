// GELU at a product's end, as cuBLASLt's stand-in does it: on a GPU where that is fast, and on one where it is slow.
#if __has_include(<cublasLt.h>)

#include "tests/simt/cublaslt.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

#include <nlohmann/json.hpp>

#include "kernels/activation.h"
#include "kernels/matmul.h"
#include "tests/kernels/bits.h"
#include "tests/support/files.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// A GPU where the library's GELU is fast, or slow; put back at the end.
struct LibraryGelu {
    explicit LibraryGelu(bool fast) { set(fast); }
    ~LibraryGelu() { simt::cublaslt_gelu = {}; }
    static void set(bool fast) { simt::cublaslt_gelu = fast ? simt::CublasltGelu{0, 1e6, 0} : simt::CublasltGelu{1e6, 0, 0}; }
};

int64_t runs_with_gelu() { return simt::cublaslt_gelu.runs; }

struct Mlp {
    int64_t N, C, F;
    Pool pool;
    Tensor x, w_fc, bias, w_out, dout, pre, act, dpre;
    // x and dout are slices of wider buffers: `shift` columns lie before theirs.
    Mlp(Dtype dtype, int64_t N, int64_t C, int64_t F, bool with_bias, int64_t shift = 0) : N(N), C(C), F(F) {
        x = pool.normal(dtype, {N, C + shift}).slice_cols(shift, C);
        dout = pool.normal(dtype, {N, C + shift}).slice_cols(shift, C);
        w_fc = pool.normal(dtype, {F, C}, 0.3), w_out = pool.normal(dtype, {C, F}, 0.3);
        if (with_bias) bias = pool.normal(dtype, {F});
        clear();
    }
    void clear() { pre = pool.poison(x.dtype, {N, F}), act = pool.poison(x.dtype, {N, F}), dpre = pool.poison(x.dtype, {N, F}); }
    void run() {
        linear_gelu_forward(act, pre, x, w_fc, bias, test_stream());
        linear_gelu_backward_input(dpre, dout, w_out, pre, test_stream());
        test_stream().synchronize();
    }
    // The operations that exist without GELU, in the same library.
    void run_apart() {
        linear_forward(pre, x, w_fc, bias, test_stream());
        gelu_forward(act, pre, test_stream());
        linear_backward_input(dpre, dout, w_out, test_stream());
        gelu_backward(dpre, dpre, pre, test_stream());
        test_stream().synchronize();
    }
};

}  // namespace

TEST_SUITE("cublaslt gelu") {
    TEST_CASE("the library's GELU is used where it is the faster way, and the way stays") {
        for (const bool fast : {true, false})
            for (const bool with_bias : {true, false}) {
                INFO(fast, " ", with_bias);
                const LibraryGelu library(fast);
                Mlp mlp(Dtype::bf16, fast ? 24 : 40, 16, 72, with_bias);
                mlp.run();  // chooses, unless an earlier process has
                const Tensor pre = mlp.pre, act = mlp.act, dpre = mlp.dpre;
                LibraryGelu::set(!fast);  // what is chosen is not asked again
                mlp.clear();
                mlp.run();
                CHECK(runs_with_gelu() == (fast ? 2 : 0));
                CHECK(equal_bits(mlp.pre, pre));
                CHECK(equal_bits(mlp.act, act));
                CHECK(equal_bits(mlp.dpre, dpre));
                mlp.clear();
                mlp.run_apart();
                CHECK(runs_with_gelu() == (fast ? 2 : 0));
                CHECK(equal_bits(mlp.pre, pre));
                // Not one bit differs where the same kernels ran; where the library did it, what is rounded on the way differs.
                CHECK(equal_bits(mlp.act, act) == !fast);
                CHECK(equal_bits(mlp.dpre, dpre) == !fast);
                CHECK(relative_error(act, mlp.act) < 0x1p-7);
                CHECK(relative_error(dpre, mlp.dpre) < 0x1p-7);
            }
    }

    TEST_CASE("f32, and rows that do not begin at multiples of 16 bytes, never come to the library's GELU") {
        const LibraryGelu library(true);
        for (bool with_bias : {true, false}) {
            Mlp(Dtype::f32, 8, 16, 24, with_bias).run();
            Mlp(Dtype::bf16, 9, 16, 20, with_bias).run();
            Mlp(Dtype::bf16, 9, 16, 24, with_bias, 4).run();
            CHECK(runs_with_gelu() == 0);
            Mlp(Dtype::bf16, 9, 16, 24, with_bias, 8).run();
            CHECK(runs_with_gelu() > 0);
            simt::cublaslt_gelu.runs = 0;
        }
        set_gemm_engine(GemmEngine::own);
        Mlp(Dtype::bf16, 9, 16, 24, true, 8).run();
        set_gemm_engine(GemmEngine::automatic);
        CHECK(runs_with_gelu() == 0);
    }

    TEST_CASE("both ways are read by the next process, which measures neither") {
        const TempDir dir;
        const std::string path = dir / "train.cu/gemm.json";
        auto run = [&] {
            return std::system(("TEST_CACHE_HOME=" + dir.path + " '" + fs::read_symlink("/proc/self/exe").string() +
                                "' -tc=\"the library's GELU is used*\" > " + (dir / "output"))
                                   .c_str());
        };
        REQUIRE(run() == 0);
        const std::string first = read_file(path);
        int64_t together = 0, apart = 0;
        const nlohmann::json file = nlohmann::json::parse(first);
        for (const auto& [key, choice] : file["choices"].items())
            if (key.find("gelu") != std::string::npos) (choice.empty() ? apart : together)++;
        CHECK(together == 3);  // forward with bias and without; backward
        CHECK(apart == 3);
        const auto written = fs::last_write_time(path);
        REQUIRE(run() == 0);
        CHECK(read_file(path) == first);
        CHECK(fs::last_write_time(path) == written);
    }
}

#endif
