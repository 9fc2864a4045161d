#include "src/plan/gpu_peak.h"

#include <doctest/doctest.h>

namespace traincu::test {

TEST_SUITE("gpu peak") {
    // Names as CUDA reports them; TFLOP/s as published, to the digits published.
    TEST_CASE("gpu peak: known cards, dense and with fp32 sums") {
        struct Card {
            const char* name;
            double bf16, f32;
        };
        for (const Card& card : {
                 Card{"NVIDIA A100-SXM4-80GB", 312, 19.5},
                 Card{"NVIDIA A100-PCIE-40GB", 312, 19.5},
                 Card{"NVIDIA H100 80GB HBM3", 989.5, 67},
                 Card{"NVIDIA H100 PCIe", 756.5, 51},
                 Card{"NVIDIA H100 NVL", 835.5, 60},
                 Card{"NVIDIA H200", 989.5, 67},
                 Card{"NVIDIA H200 NVL", 836, 60},
                 Card{"NVIDIA GH200 480GB", 989.5, 67},
                 Card{"NVIDIA B200", 2250, 75},
                 Card{"NVIDIA GB200", 2500, 80},
                 Card{"NVIDIA L40S", 362.05, 91.6},
                 Card{"NVIDIA L40", 181.05, 90.5},
                 Card{"NVIDIA L4", 121, 30.3},
                 Card{"NVIDIA A10", 125, 31.2},
                 Card{"NVIDIA RTX 6000 Ada Generation", 364.2, 91.1},
                 Card{"NVIDIA GeForce RTX 3090", 71.2, 35.6},
                 Card{"NVIDIA GeForce RTX 3090 Ti", 80, 40},
                 Card{"NVIDIA GeForce RTX 4090", 165.2, 82.6},
                 Card{"NVIDIA GeForce RTX 4080 SUPER", 104.4, 52.2},
                 Card{"NVIDIA GeForce RTX 4070 Ti SUPER", 88.2, 44.1},
                 Card{"NVIDIA GeForce RTX 5090", 209.5, 104.8},
                 Card{"NVIDIA GeForce RTX 5080", 112.6, 56.3},
             }) {
            INFO(card.name);
            CHECK(gpu_peak(card.name, Dtype::bf16) / 1e12 == doctest::Approx(card.bf16).epsilon(2e-3));
            CHECK(gpu_peak(card.name, Dtype::f32) / 1e12 == doctest::Approx(card.f32).epsilon(2e-3));
        }
    }

    TEST_CASE("gpu peak: what is not known is 0") {
        for (const char* name : {"NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 5090 D", "NVIDIA GeForce GTX 1080 Ti",
                                 "NVIDIA A10G", "NVIDIA L400", "Tesla V100-SXM2-16GB", "NVIDIA GeForce RTX 409", "the SIMT runner", ""}) {
            INFO(name);
            CHECK(gpu_peak(name, Dtype::bf16) == 0);
            CHECK(gpu_peak(name, Dtype::f32) == 0);
        }
        CHECK(gpu_peak("NVIDIA H200", Dtype::f64) == 0);
    }
}

}  // namespace traincu::test
