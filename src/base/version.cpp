#include "src/base/version.h"

#include <utility>

#ifdef TRAIN_HAS_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif

#include "src/base/error.h"

namespace traincu {

std::string revision() { return TRAIN_REVISION; }

std::string build_summary() {
    std::string text = format("train.cu %s\ncompiler  %s, C++%ld\n", TRAIN_REVISION, __VERSION__, __cplusplus / 100 % 100);
#ifdef TRAIN_HAS_ONEDNN
    const dnnl_version_t* v = dnnl_version();
    text += format("oneDNN    %d.%d.%d\n", v->major, v->minor, v->patch);
#else
    text += "oneDNN    not built in (package libdnnl-dev): our own matrix product is used\n";
#endif
#if defined(__x86_64__)
    text += "processor";
    for (auto [name, present] : {std::pair{"AVX2", __builtin_cpu_supports("avx2")},
                                 {"FMA", __builtin_cpu_supports("fma")},
                                 {"AVX-512", __builtin_cpu_supports("avx512f")}})
        if (present) text += std::string(" ") + name;
    text += " found\n";
#endif
    text += "CUDA      not built in: this version trains on the CPU\n";
    return text;
}

}  // namespace traincu
