// What tests say to the stand-in for cuBLASLt, and ask it.
#pragma once

#include <cstdint>

namespace traincu::simt {

// Milliseconds on the runner's clock that a product takes beside its own time, with GELU at its end and without. A GPU whose library does
// GELU in a slow kernel of its own, and one where it costs nothing.
struct CublasltGelu {
    double milliseconds = 0, milliseconds_without = 0;
    int64_t runs = 0;  // of products with GELU
};
extern CublasltGelu cublaslt_gelu;

}  // namespace traincu::simt
