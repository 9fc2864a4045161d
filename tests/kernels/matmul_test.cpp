#include "kernels/matmul.h"

#include <doctest/doctest.h>

#include <utility>

#include <nlohmann/json.hpp>

#include "tests/kernels/bits.h"
#include "tests/kernels/matmul_fixture.h"
#include "tests/support/files.h"

namespace traincu::test {

TEST_SUITE("matmul") {
    TEST_CASE("linear: forward and backward agree with a double loop, over odd shapes and strided views, on every engine") {
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const Shape& s : odd_shapes())
                    for (bool with_bias : {false, true}) {
                        if (repeats_own(engine, s) || (on_gpu() && !with_bias && s.N > 17)) continue;
                        set_gemm_engine(engine);
                        INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC, " ", with_bias);
                        Pool pool;
                        Slice inp_slice(pool, dtype, s.N, s.gap, s.IC, s.gap), out_slice(pool, dtype, s.N, s.gap, s.OC, 2 * s.gap);
                        Slice dinp_slice(pool, dtype, s.N, 2 * s.gap, s.IC, s.gap);
                        const Tensor inp = inp_slice.set(pool.normal(dtype, {s.N, s.IC})).inner, out = out_slice.inner,
                                     dinp = dinp_slice.inner;
                        Tensor weight = pool.normal(dtype, {s.OC, s.IC}), bias = with_bias ? pool.normal(dtype, {s.OC}) : Tensor();

                        // `naive` is what a plain loop in f32 gives, rounded to the type of the result. Where that happens to be exact, a
                        // rounding is still allowed; of the few sums of a small result it may well be, so K of them may walk at random.
                        auto check = [&](const Tensor& got, int64_t K, auto start, auto a, auto b) {
                            int64_t M = got.rows(), N = got.cols();
                            Tensor exact = brute_force<double>(pool, M, N, K, start, a, b);
                            Tensor naive = pool.copy(brute_force<float>(pool, M, N, K, start, a, b), got.dtype);
                            double naive_error = got.dtype == Dtype::f64 ? 0 : relative_error(naive, exact);
                            double rounding = got.dtype == Dtype::f64 ? 4e-15
                                              : M * N < 8             ? 1.2e-7 * std::sqrt(static_cast<double>(K))
                                                                      : 1.2e-7;
                            CHECK(relative_error(packed(pool, got), exact) <= 2 * naive_error + rounding);
                        };
                        forward(out, inp, weight, bias);
                        check(
                            out, s.IC, [&](int64_t, int64_t o) { return bias ? Pool::get(bias, o) : 0.0; },
                            [&](int64_t n, int64_t i) { return at(inp, n, i); }, [&](int64_t i, int64_t o) { return at(weight, o, i); });

                        const Tensor dout = out;
                        backward_input(dinp, dout, weight);
                        check(
                            dinp, s.OC, [](int64_t, int64_t) { return 0.0; }, [&](int64_t n, int64_t o) { return at(dout, n, o); },
                            [&](int64_t o, int64_t i) { return at(weight, o, i); });

                        const Dtype sums = statistics_of(dtype);
                        Tensor dweight = pool.normal(sums, {s.OC, s.IC}), before = pool.copy(dweight, sums);
                        Tensor dbias = with_bias ? pool.filled(sums, {s.OC}, 0.5) : Tensor();
                        backward_weight(dweight, dbias, dout, inp, 0);
                        check(
                            dweight, s.N, [&](int64_t o, int64_t i) { return at(before, o, i); },
                            [&](int64_t o, int64_t n) { return at(dout, n, o); }, [&](int64_t n, int64_t i) { return at(inp, n, i); });
                        if (with_bias)
                            check(
                                dbias.view({s.OC}), s.N, [](int64_t, int64_t) { return 0.5; },
                                [&](int64_t o, int64_t n) { return at(dout, n, o); }, [](int64_t, int64_t) { return 1.0; });
                        CHECK(inp_slice.gaps_untouched());
                        CHECK(out_slice.gaps_untouched());
                        CHECK(dinp_slice.gaps_untouched());
                    }
    }

    TEST_CASE("linear: small whole numbers give exact results, in every unit, however the rows lie") {
        // -1, 0, 1: sums of up to 256 of them are whole numbers that even bf16 holds.
        Settings settings;
        struct Case {
            Shape shape;
            int64_t unit;
        };
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const auto& [s, unit] : {Case{{150, 40, 72, 8}, 0}, Case{{150, 40, 72, 8}, 64}, Case{{150, 39, 71, 1}, 0},
                                              Case{{130, 39, 17, 1}, 50}, Case{{200, 144, 136, 16}, 70}, Case{{9, 8, 8, 0}, 1}}) {
                    if (repeats_own(engine, s)) continue;
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC, " ", s.gap, " ", unit);
                    Pool pool;
                    auto operand = [&](int64_t rows, int64_t cols) {
                        Tensor values = pool.copy(pool.integers({rows, cols}, 3), dtype);
                        for (int64_t i = 0; i < values.numel(); i++) Pool::set(values, i, Pool::get(values, i) - 1);
                        return Slice(pool, dtype, rows, s.gap, cols, s.gap).set(values).inner;
                    };
                    const Tensor inp = operand(s.N, s.IC), dout = operand(s.N, s.OC), weight = operand(s.OC, s.IC);
                    const Tensor out = Slice(pool, dtype, s.N, s.gap, s.OC, s.gap).inner,
                                 dinp = Slice(pool, dtype, s.N, 0, s.IC, s.gap).inner;
                    Tensor dweight = pool.filled(statistics_of(dtype), {s.OC, s.IC}, 7),
                           dbias = pool.filled(statistics_of(dtype), {s.OC}, 5);
                    forward(out, inp, weight, {});
                    backward_input(dinp, dout, weight);
                    backward_weight(dweight, dbias, dout, inp, unit);
                    auto differences = [&](const Tensor& got, int64_t K, double start, auto a, auto b) {
                        const Tensor exact = brute_force<double>(
                            pool, got.rows(), got.cols(), K, [&](int64_t, int64_t) { return start; }, a, b);
                        return relative_error(packed(pool, got), exact);
                    };
                    auto x = [&](int64_t n, int64_t i) { return at(inp, n, i); };
                    auto dy = [&](int64_t n, int64_t o) { return at(dout, n, o); };
                    auto dy_t = [&](int64_t o, int64_t n) { return at(dout, n, o); };
                    CHECK(differences(out, s.IC, 0, x, [&](int64_t i, int64_t o) { return at(weight, o, i); }) == 0);
                    CHECK(differences(dinp, s.OC, 0, dy, [&](int64_t o, int64_t i) { return at(weight, o, i); }) == 0);
                    CHECK(differences(dweight, s.N, 7, dy_t, x) == 0);
                    CHECK(differences(dbias.view({s.OC}), s.N, 5, dy_t, [](int64_t, int64_t) { return 1.0; }) == 0);
                }
    }

    TEST_CASE("linear: one shape with other strides, with and without bias, in turns") {
        Settings settings;
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            Pool pool;
            Tensor inp = pool.normal(Dtype::f32, {20, 90}), weight = pool.normal(Dtype::f32, {40, 90}),
                   bias = pool.normal(Dtype::f32, {40});
            auto run = [&](int64_t inp_begin, int64_t weight_begin, int64_t out_width, const Tensor& added) {
                Tensor out = pool.poison(Dtype::f32, {20, out_width}).slice_cols(0, 40);
                Tensor x = packed(pool, inp.slice_cols(inp_begin, 30)), w = packed(pool, weight.slice_cols(weight_begin, 30));
                forward(out, inp_begin ? inp.slice_cols(inp_begin, 30) : x, weight_begin ? weight.slice_cols(weight_begin, 30) : w, added);
                Tensor exact = brute_force<double>(
                    pool, 20, 40, 30, [&](int64_t, int64_t o) { return added ? Pool::get(added, o) : 0.0; },
                    [&](int64_t n, int64_t i) { return at(x, n, i); }, [&](int64_t i, int64_t o) { return at(w, o, i); });
                CHECK(relative_error(packed(pool, out), exact) < 1e-6);
            };
            for (int round = 0; round < 2; round++)
                for (int64_t inp_begin : {0, 30})
                    for (int64_t weight_begin : {0, 60})
                        for (int64_t out_width : {40, 57}) {
                            run(inp_begin, weight_begin, out_width, {});
                            run(inp_begin, weight_begin, out_width, bias);
                        }
        }
    }

    TEST_CASE("linear: the bits do not depend on the number of threads, nor on the order in which a GPU's blocks and warps run") {
        Settings settings;
        const std::vector<Shape> shapes =
            on_gpu() ? std::vector<Shape>{{140, 65, 40}, {264, 64, 40}}
                     : std::vector<Shape>{{300, 65, 129}, {1030, 64, 64}, {1030, 17, 63}, {5, 500, 300}, {64, 33, 2000}};
        const std::vector<int> thread_counts = on_gpu() ? std::vector{2} : std::vector{2, 3, 8};
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const Shape& s : shapes) {
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC);
                    Pool pool;
                    const Dtype sums = statistics_of(dtype);
                    Tensor inp = pool.normal(dtype, {s.N, s.IC}), weight = pool.normal(dtype, {s.OC, s.IC}),
                           bias = pool.normal(dtype, {s.OC});
                    Tensor dout = pool.normal(dtype, {s.N, s.OC});
                    auto run = [&](int threads, int64_t unit) {
                        omp_set_num_threads(threads);
                        std::vector<Tensor> results = {pool.poison(dtype, {s.N, s.OC}), pool.poison(dtype, {s.N, s.IC}),
                                                       pool.filled(sums, {s.OC, s.IC}, 0.25), pool.filled(sums, {s.OC}, 0.25)};
                        forward(results[0], inp, weight, bias);
                        backward_input(results[1], dout, weight);
                        backward_weight(results[2], results[3], dout, inp, unit);
                        return results;
                    };
                    for (int64_t unit : {int64_t{0}, int64_t{256}}) {
                        std::vector<Tensor> one = run(1, unit);
                        for (int threads : thread_counts) {
                            std::vector<Tensor> many = run(threads, unit);
                            for (size_t i = 0; i < one.size(); i++) {
                                INFO("threads ", threads, " unit ", unit, " result ", i);
                                CHECK(same_bits(one[i], many[i]));
                            }
                        }
                    }
                }
    }

    TEST_CASE("linear: a row's bits do not depend on how many rows there are") {
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes()) {
                if (engine == GemmEngine::cublaslt) continue;  // the library chooses another kernel for another shape
                set_gemm_engine(engine);
                Pool pool;
                const int64_t N = 150, OC = on_gpu() ? 200 : 97, IC = on_gpu() ? 72 : 800;  // on a GPU: tiles of both sizes
                Tensor inp = pool.normal(dtype, {N, IC}), weight = pool.normal(dtype, {OC, IC}), bias = pool.normal(dtype, {OC});
                Tensor all = pool.poison(dtype, {N, OC}), dinp = pool.poison(dtype, {N, IC});
                forward(all, inp, weight, bias);
                backward_input(dinp, all, weight);
                for (int64_t rows : on_gpu() ? std::vector<int64_t>{1, 64, 149} : std::vector<int64_t>{1, 2, 11, 64, 149})
                    for (int64_t begin : {int64_t{0}, int64_t{1}}) {
                        INFO(engine_name(), " ", std::string(name_of(dtype)), " ", rows, " ", begin);
                        Tensor few = pool.poison(dtype, {rows, OC}), dfew = pool.poison(dtype, {rows, IC});
                        forward(few, inp.slice_rows(begin, rows), weight, bias);
                        backward_input(dfew, all.slice_rows(begin, rows), weight);
                        CHECK(same_bits(few, all.slice_rows(begin, rows)));
                        CHECK(same_bits(dfew, dinp.slice_rows(begin, rows)));
                    }
            }
    }

    TEST_CASE("linear: the weight's gradient has the same bits however the units are split into calls") {
        Settings settings;
        const std::vector<int64_t> units = on_gpu() ? std::vector<int64_t>{1, 7, 48, 300} : std::vector<int64_t>{1, 7, 48, 500};
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (int64_t unit : units) {
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", unit);
                    Pool pool;
                    const int64_t N = (on_gpu() ? 4 : 8) * unit, OC = on_gpu() ? 72 : 65, IC = on_gpu() ? 40 : 34;
                    const Dtype sums_type = statistics_of(dtype);
                    Tensor dout = pool.normal(dtype, {N, OC}), inp = pool.normal(dtype, {N, IC});
                    auto run = [&](int64_t rows_per_call) {
                        std::vector<Tensor> sums = {pool.filled(sums_type, {OC, IC}, 0.125), pool.filled(sums_type, {OC}, 0.125)};
                        for (int64_t n = 0; n < N; n += rows_per_call)
                            backward_weight(sums[0], sums[1], dout.slice_rows(n, rows_per_call), inp.slice_rows(n, rows_per_call), unit);
                        return sums;
                    };
                    std::vector<Tensor> at_once = run(N), one_by_one = run(unit), in_twos = run(2 * unit);
                    for (size_t i = 0; i < 2; i++) {
                        CHECK(same_bits(at_once[i], one_by_one[i]));
                        CHECK(same_bits(at_once[i], in_twos[i]));
                    }
                    // unit_rows = 0 is one unit.
                    Tensor whole = pool.zeros(sums_type, {OC, IC}), one_unit = pool.zeros(sums_type, {OC, IC});
                    backward_weight(whole, {}, dout, inp, 0);
                    backward_weight(one_unit, {}, dout, inp, N);
                    CHECK(same_bits(whole, one_unit));
                }
    }

    TEST_CASE("linear: a unit is summed on its own before it is added") {
        // Units of two rows with the products 1 and 2 on top of 2^24: unit by unit, 2^24 + 3 rounds to 2^24 + 4; one by one, to 2^24 + 2.
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes()) {
                if (dtype == Dtype::f64) continue;  // has all the digits
                for (int64_t width : {1, 8}) {
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", width);
                    Pool pool;
                    Tensor dout = pool.filled(dtype, {6, width}, 1), inp = pool.filled(dtype, {6, width}, 1);
                    for (int64_t n : {1, 3, 5})
                        for (int64_t c = 0; c < width; c++) Pool::set(dout, n * width + c, 2);
                    Tensor dweight = pool.filled(Dtype::f32, {width, width}, 16777216), dbias = pool.filled(Dtype::f32, {width}, 16777216);
                    backward_weight(dweight, dbias, dout, inp, 2);
                    CHECK(Pool::get(dweight, 0) == 16777216 + 12);
                    CHECK(Pool::get(dbias, 0) == 16777216 + 12);
                    dweight = pool.filled(Dtype::f32, {width, width}, 16777216);
                    backward_weight(dweight, {}, dout, inp, 0);
                    CHECK(Pool::get(dweight, 0) == 16777216 + 8);  // 9, a tie, to even
                }
            }
    }

    TEST_CASE("linear: a bias gradient of many columns goes through a workspace of few") {
        if (!on_gpu()) return;
        Pool pool;
        const int64_t N = 520, OC = 1000;
        Stream small(Device::cuda, 3 * 512 * 4);  // 3 partial sums of up to 512 columns
        for (Dtype dtype : test_dtypes()) {
            Tensor dout = pool.filled(dtype, {N, OC}, 1), inp = pool.filled(dtype, {N, 8}, 1);
            for (int64_t i = 0; i < dout.numel(); i++) Pool::set(dout, i, static_cast<double>(i % OC % 7));
            Tensor dweight = pool.zeros(Dtype::f32, {OC, 8}), dbias = pool.zeros(Dtype::f32, {OC});
            set_gemm_engine(GemmEngine::own);
            linear_backward_weight(dweight, dbias, dout, inp, 0, small);
            small.synchronize();
            set_gemm_engine(GemmEngine::automatic);
            int64_t wrong = 0;
            for (int64_t c = 0; c < OC; c++) wrong += Pool::get(dbias, c) != static_cast<double>(N * (c % 7));
            CHECK(wrong == 0);
        }
    }

    TEST_CASE("linear: cuBLASLt and our own product agree, with bias gradients by the library, by us, and with no room for them") {
        if (!gpu::cublaslt_version) return;
        Settings settings;
        for (Dtype dtype : test_dtypes())
            for (const auto& [workspace, OC] : {std::pair<int64_t, int64_t>{4 << 20, 72}, {4 << 20, 65}, {24 << 10, 72}, {3 << 10, 72}}) {
                INFO(std::string(name_of(dtype)), " ", workspace, " ", OC);
                Pool pool;
                const int64_t N = 100, IC = 40, unit = 32, wide = 72;  // units of 32, 32, 32 and 4 rows
                Stream stream(Device::cuda, workspace);
                Tensor inp = pool.normal(dtype, {N, IC}), weight = pool.normal(dtype, {OC, IC}), bias = pool.normal(dtype, {OC});
                Tensor dout = pool.normal(dtype, {N, wide}).slice_cols(0, OC);
                auto run = [&](GemmEngine engine) {
                    set_gemm_engine(engine);
                    std::vector<Tensor> results = {pool.poison(dtype, {N, wide}).slice_cols(0, OC), pool.poison(dtype, {N, IC}),
                                                   pool.filled(Dtype::f32, {OC, IC}, 0.25), pool.filled(Dtype::f32, {OC}, 0.25)};
                    linear_forward(results[0], inp, weight, bias, stream);
                    linear_backward_input(results[1], dout, weight, stream);
                    linear_backward_weight(results[2], results[3], dout, inp, unit, stream);
                    stream.synchronize();
                    results[0] = packed(pool, results[0]);
                    return results;
                };
                const std::vector<Tensor> own = run(GemmEngine::own), library = run(GemmEngine::cublaslt),
                                          again = run(GemmEngine::cublaslt);
                for (size_t i = 0; i < own.size(); i++) {
                    INFO("result ", i);
                    CHECK(relative_error(library[i], own[i]) < (i < 2 && dtype == Dtype::bf16 ? 0x1p-8 : 1e-6));
                    CHECK(same_bits(library[i], again[i]));
                }
            }
    }

    TEST_CASE(
        "linear: what cuBLASLt's algorithms were measured to be is read by the next process, and measured again if it is not theirs") {
        if (!gpu::cublaslt_version) return;
        test::TempDir dir;
        const std::string path = dir / "train.cu/gemm.json";
        auto run = [&] {
            return std::system(("TEST_CACHE_HOME=" + dir.path + " '" + test::fs::read_symlink("/proc/self/exe").string() +
                                "' -tc='linear: a unit is summed on its own*' > " + (dir / "output"))
                                   .c_str());
        };
        REQUIRE(run() == 0);
        const std::string first = test::read_file(path);
        CHECK(first.find("f32 NT 8x8x2") != std::string::npos);
        const auto written = test::fs::last_write_time(path);
        REQUIRE(run() == 0);
        CHECK(test::read_file(path) == first);
        CHECK(test::fs::last_write_time(path) == written);
        nlohmann::json file = nlohmann::json::parse(first);
        for (auto& choice : file["choices"])
            for (auto& number : choice) number = 12345;  // of no algorithm
        const std::string wrong = file.dump(1) + "\n";
        test::write_file(path, wrong);
        REQUIRE(run() == 0);
        CHECK(test::read_file(path) != wrong);
    }

    TEST_CASE("linear: cuBLASLt takes products with a bias") {
        if (!gpu::cublaslt_version) return;
        test::TempDir dir;
        REQUIRE(std::system(("TEST_CACHE_HOME=" + dir.path + " '" + test::fs::read_symlink("/proc/self/exe").string() +
                             "' -tc='linear: cuBLASLt and our own product agree*' > " + (dir / "output"))
                                .c_str()) == 0);
        const std::string choices = test::read_file(dir / "train.cu/gemm.json");
        CHECK(choices.find("bf16->bf16 TN 72x100x40 ld 40,40,72 +bias ") != std::string::npos);
        CHECK(choices.find("f32->f32 TN 72x100x40 ld 40,40,72 +bias ") != std::string::npos);
    }

    TEST_CASE("linear: backward is the gradient of forward (central differences in f64)") {
        if (on_gpu()) return;  // has no f64
        Pool pool;
        constexpr int64_t N = 9, OC = 7, IC = 5;
        Tensor inp = pool.normal(Dtype::f64, {N, IC}), weight = pool.normal(Dtype::f64, {OC, IC}), bias = pool.normal(Dtype::f64, {OC});
        Tensor dout = pool.normal(Dtype::f64, {N, OC}), out = pool.poison(Dtype::f64, {N, OC});
        auto loss = [&] {
            forward(out, inp, weight, bias);
            double sum = 0;
            for (int64_t i = 0; i < out.numel(); i++) sum += Pool::get(out, i) * Pool::get(dout, i);
            return sum;
        };
        Tensor dinp = pool.poison(Dtype::f64, {N, IC}), dweight = pool.zeros(Dtype::f64, {OC, IC}), dbias = pool.zeros(Dtype::f64, {OC});
        backward_input(dinp, dout, weight);
        backward_weight(dweight, dbias, dout, inp, 4);
        CHECK(test::gradient_error(loss, inp, dinp) < 1e-8);
        CHECK(test::gradient_error(loss, weight, dweight) < 1e-8);
        CHECK(test::gradient_error(loss, bias, dbias) < 1e-8);
    }

    TEST_CASE("matmul: no rows are no work, NaN is passed on, time is counted, engines have names") {
        Settings settings;
        Pool pool;
        Tensor weight = pool.normal(Dtype::f32, {5, 3}), dweight = pool.filled(Dtype::f32, {5, 3}, 2);
        forward(pool.zeros(Dtype::f32, {0, 5}), pool.zeros(Dtype::f32, {0, 3}), weight, {});
        backward_weight(dweight, {}, pool.zeros(Dtype::f32, {0, 5}), pool.zeros(Dtype::f32, {0, 3}), 0);
        CHECK(Pool::get(dweight, 14) == 2);

        const Device device = test::test_device();
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            CHECK(gemm_engine(device) == engine);
            const char* name = engine == GemmEngine::own ? "own (" : engine == GemmEngine::onednn ? "oneDNN " : "cuBLASLt ";
            CHECK(gemm_engine_name(device).rfind(name, 0) == 0);
            Tensor inp = pool.zeros(Dtype::f32, {2, 3}), out = pool.zeros(Dtype::f32, {2, 5});
            Pool::set(inp, 4, std::nan(""));
            double before = matmul_seconds();
            forward(out, inp, weight, {});
            CHECK((matmul_seconds() > before || on_gpu()));
            CHECK(Pool::get(out, 0) == 0);
            CHECK(std::isnan(Pool::get(out, 7)));
        }
        if (!cpu::onednn_usable()) CHECK_THROWS_AS(set_gemm_engine(GemmEngine::onednn), Error);
        if (!gpu::cublaslt_version) CHECK_THROWS_AS(set_gemm_engine(GemmEngine::cublaslt), Error);
    }
}

}  // namespace traincu::test
