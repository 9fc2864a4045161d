// NCCL's functions, as src/parallel calls them: each looks up its namesake in libnccl.so.2, which is loaded when ranks with GPUs begin. So
// ./train starts where the library is not installed, and its ranks fall back on MPI. Compiled only where CUDA is built in.
#include <dlfcn.h>
#include <nccl.h>

#include "src/base/error.h"
#include "src/parallel/comm_nccl.h"

namespace traincu {

namespace {

struct Library {
    void* handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    std::string missing;  // why; empty: it is there
    Library() {
        if (!handle) missing = format("NCCL's library cannot be loaded (%s)", dlerror());
    }
};
const Library& library() {
    static const Library& library = *new Library;  // never closed: its threads outlive us
    return library;
}

template <class Function>
Function* find(const char* name) {
    void* function = library().handle ? dlsym(library().handle, name) : nullptr;
    if (!function)
        throw Error(ExitCode::usage,
                    format("NCCL's library has no %s%s%s", name, library().missing.empty() ? "" : ": ", library().missing.c_str()),
                    "install NCCL 2.18 or newer (package libnccl2), or send through MPI");
    return reinterpret_cast<Function*>(function);
}

}  // namespace

std::string nccl_library_missing() { return library().missing; }

}  // namespace traincu

#define FORWARD(result, name, parameters, ...)                                        \
    result name parameters {                                                          \
        static decltype(name)* const function = traincu::find<decltype(name)>(#name); \
        return function(__VA_ARGS__);                                                 \
    }

extern "C" {
FORWARD(const char*, ncclGetErrorString, (ncclResult_t result), result)
FORWARD(const char*, ncclGetLastError, (ncclComm_t comm), comm)
FORWARD(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * id), id)
FORWARD(ncclResult_t, ncclCommInitRank, (ncclComm_t * comm, int ranks, ncclUniqueId id, int rank), comm, ranks, id, rank)
FORWARD(ncclResult_t, ncclCommSplit, (ncclComm_t comm, int color, int key, ncclComm_t* part, ncclConfig_t* config), comm, color, key, part,
        config)
FORWARD(ncclResult_t, ncclCommDestroy, (ncclComm_t comm), comm)
FORWARD(ncclResult_t, ncclCommAbort, (ncclComm_t comm), comm)
FORWARD(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t* error), comm, error)
FORWARD(ncclResult_t, ncclCommUserRank, (const ncclComm_t comm, int* rank), comm, rank)
FORWARD(ncclResult_t, ncclGroupStart, ())
FORWARD(ncclResult_t, ncclGroupEnd, ())
FORWARD(ncclResult_t, ncclSend, (const void* from, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream), from, n,
        type, peer, comm, stream)
FORWARD(ncclResult_t, ncclRecv, (void* to, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream), to, n, type,
        peer, comm, stream)
FORWARD(ncclResult_t, ncclAllGather, (const void* from, void* to, size_t n, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream),
        from, to, n, type, comm, stream)
FORWARD(ncclResult_t, ncclReduceScatter,
        (const void* from, void* to, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream), from, to, n,
        type, op, comm, stream)
FORWARD(ncclResult_t, ncclAllReduce,
        (const void* from, void* to, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream), from, to, n,
        type, op, comm, stream)
FORWARD(ncclResult_t, ncclBroadcast,
        (const void* from, void* to, size_t n, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream), from, to, n, type,
        root, comm, stream)
}
