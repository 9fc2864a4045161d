// Compiled, never run, and only where NCCL's own header is (tests/scripts/nccl_test.sh): does the stand-in's header say the same? Each
// function is declared by both, which the compiler refuses where they differ; the constants are compared here.
#include <nccl.h>
#ifdef TRAINCU_NCCL_STANDIN_H
#error "this is not NCCL's header"
#endif
namespace standin {
#include "tests/nccl/include/nccl_types.h"
}
#include "tests/nccl/include/nccl.h"

#define SAME(name) static_assert(static_cast<int>(::name) == static_cast<int>(standin::name))
SAME(ncclSuccess);
SAME(ncclUnhandledCudaError);
SAME(ncclSystemError);
SAME(ncclInternalError);
SAME(ncclInvalidArgument);
SAME(ncclInvalidUsage);
SAME(ncclRemoteError);
SAME(ncclInProgress);
SAME(ncclSum);
SAME(ncclProd);
SAME(ncclMax);
SAME(ncclMin);
SAME(ncclAvg);
SAME(ncclInt8);
SAME(ncclUint8);
SAME(ncclInt32);
SAME(ncclUint32);
SAME(ncclInt64);
SAME(ncclUint64);
SAME(ncclFloat16);
SAME(ncclFloat32);
SAME(ncclFloat64);
SAME(ncclBfloat16);
static_assert(sizeof(::ncclUniqueId) == sizeof(standin::ncclUniqueId));
static_assert(sizeof(::ncclDataType_t) == sizeof(standin::ncclDataType_t));
