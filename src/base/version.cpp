#include "src/base/version.h"

#include <utility>

#ifdef TRAIN_HAS_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif
#ifdef TRAIN_HAS_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif
#ifdef TRAIN_HAS_UTF8PROC
#include <utf8proc.h>
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
#ifdef TRAIN_HAS_PCRE2
    char pcre2[64] = "", unicode[64] = "";
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, unicode);
    text += format("PCRE2     %s, Unicode %s\n", pcre2, unicode);
#else
    text += "PCRE2     not built in (package libpcre2-dev): no vocabulary of GPT-2, Llama 3 or Qwen can be read\n";
#endif
#ifdef TRAIN_HAS_UTF8PROC
    text += format("utf8proc  %s, Unicode %s\n", utf8proc_version(), utf8proc_unicode_version());
#else
    text += "utf8proc  not built in (package libutf8proc-dev): no vocabulary with NFC, such as Qwen's, can be read\n";
#endif
#if defined(__x86_64__)
    text += "processor";
    for (auto [name, present] : {std::pair{"AVX2", __builtin_cpu_supports("avx2")},
                                 {"FMA", __builtin_cpu_supports("fma")},
                                 {"AVX-512", __builtin_cpu_supports("avx512f")}})
        if (present) text += std::string(" ") + name;
    text += " found\n";
#endif
    return text;
}

}  // namespace traincu
