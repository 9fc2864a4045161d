#include "src/plan/gpu_peak.h"

#include <array>
#include <cctype>

namespace traincu {

namespace {

// Cards for data centres and workstations: TFLOP/s as their data sheets state them, bf16 without sparsity (half of the figure that the
// sheets of Hopper and Blackwell print). The most special name of a family first: the first one found in the device's name counts.
struct Sheet {
    const char* name;
    double bf16, f32;
};
constexpr std::array<Sheet, 24> sheets = {{
    {"GB200", 2500, 80},                                 // GB200 NVL72: 5,000 sparse
    {"B200", 2250, 75},                                  // HGX B200: 4,500 sparse; 75
    {"B100", 1750, 60},                                  // Blackwell architecture brief: 3,500 sparse; recalled
    {"H200 NVL", 836, 60},                               // H200: 1,671 sparse
    {"H200", 989.5, 67},                                 // H200 SXM: 1,979 sparse
    {"GH200", 989.5, 67},                                // GH200: 1,979 sparse
    {"H100 NVL", 835.5, 60},                             // H100: 1,671 sparse
    {"H100 PCIe", 756.5, 51},                            // H100: 1,513 sparse
    {"H100", 989.5, 67},                                 // H100 SXM ("NVIDIA H100 80GB HBM3"): 1,979 sparse
    {"H20", 148, 44},                                    // recalled
    {"A100", 312, 19.5},                                 // A100, PCIe and SXM alike
    {"A800", 312, 19.5},                                 // as the A100, with slower links
    {"A30", 165, 10.3},                                  // A30
    {"A40", 149.7, 37.4},                                // A40
    {"A10", 125, 31.2},                                  // A10; the A10G is another card
    {"L40S", 362.05, 91.6},                              // L40S
    {"L40", 181.05, 90.5},                               // L40
    {"L4", 121, 30.3},                                   // L4: 242 sparse
    {"RTX PRO 6000 Blackwell Workstation", 503.8, 125},  // RTX Blackwell PRO architecture; recalled
    {"RTX 6000 Ada", 364.2, 91.1},                       // RTX 6000 Ada: 1,457 sparse fp8
    {"RTX 5000 Ada", 261.1, 65.3},                       // RTX 5000 Ada: 1,044 sparse fp8
    {"RTX A6000", 154.8, 38.7},                          // GA102 architecture paper
    {"RTX A5000", 111.1, 27.8},                          // RTX A5000: 222.2 sparse
    {"RTX A4000", 76.7, 19.2},                           // RTX A4000: 153.4 sparse
}};

// GeForce: CUDA cores and boost clock in MHz as the vendor's specification pages state them. A core does one multiply-add a clock. On these
// cards tensor cores that sum in fp32 run at half the rate of those that sum in fp16: twice the rate of the CUDA cores (architecture papers
// of GA102, Ada and RTX Blackwell: 3090 71, 4090 165.2, 5090 209.5 TFLOP/s).
struct GeForce {
    const char* name;
    double cores, mhz;
};
constexpr std::array<GeForce, 28> geforces = {{
    {"RTX 3050", 2560, 1777},       {"RTX 3060 Ti", 4864, 1665},       {"RTX 3060", 3584, 1777},
    {"RTX 3070 Ti", 6144, 1770},    {"RTX 3070", 5888, 1725},          {"RTX 3080 Ti", 10240, 1665},
    {"RTX 3080", 8704, 1710},  // with 10 GB; the one with 12 GB has the same name and 8,960 cores
    {"RTX 3090 Ti", 10752, 1860},   {"RTX 3090", 10496, 1695},         {"RTX 4060 Ti", 4352, 2535},
    {"RTX 4060", 3072, 2460},       {"RTX 4070 Ti SUPER", 8448, 2610}, {"RTX 4070 Ti", 7680, 2610},
    {"RTX 4070 SUPER", 7168, 2475}, {"RTX 4070", 5888, 2475},          {"RTX 4080 SUPER", 10240, 2550},
    {"RTX 4080", 9728, 2505},       {"RTX 4090 D", 14592, 2520},       {"RTX 4090", 16384, 2520},
    {"RTX 5050", 2560, 2572},       {"RTX 5060 Ti", 4608, 2572},       {"RTX 5060", 3840, 2497},
    {"RTX 5070 Ti", 8960, 2452},    {"RTX 5070", 6144, 2512},          {"RTX 5080", 10752, 2617},
    {"RTX 5090 D v2", 0, 0},  // slower tensor cores, not published
    {"RTX 5090 D", 0, 0},           {"RTX 5090", 21760, 2407},
}};

// Whether the words of `name` stand in `device` as whole words: "L4" is not in "NVIDIA L40S".
bool names(const std::string& device, const std::string& name) {
    auto is_part = [&](size_t i) { return i < device.size() && std::isalnum(static_cast<unsigned char>(device[i])); };
    for (size_t at = device.find(name); at != std::string::npos; at = device.find(name, at + 1))
        if ((at == 0 || !is_part(at - 1)) && !is_part(at + name.size())) return true;
    return false;
}

}  // namespace

double gpu_peak(const std::string& device, Dtype dtype) {
    if (names(device, "Laptop") || names(device, "Max-Q") || (dtype != Dtype::bf16 && dtype != Dtype::f32)) return 0;
    if (names(device, "GeForce")) {
        for (const GeForce& card : geforces)
            if (names(device, card.name)) return card.cores * 2 * card.mhz * 1e6 * (dtype == Dtype::bf16 ? 2 : 1);
        return 0;
    }
    for (const Sheet& card : sheets)
        if (names(device, card.name)) return 1e12 * (dtype == Dtype::bf16 ? card.bf16 : card.f32);
    return 0;
}

}  // namespace traincu
