// The GPU's runtime over CUDA's. Compiled only where CUDA is built in (make CUDA=1).
#include "src/device/gpu.h"

#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <cstdlib>

#include "src/base/error.h"

namespace traincu::gpu {

namespace {

std::string version_text(int version) { return format("%d.%d", version / 1000, version % 1000 / 10); }

[[noreturn]] void fail(cudaError_t error, const char* what) {
    const bool memory = error == cudaErrorMemoryAllocation;
    throw Error(memory ? ExitCode::memory : ExitCode::hardware,
                format("the GPU reports in %s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error)),
                memory ? "use a smaller --batch-size, or end what else uses the GPU's memory (nvidia-smi shows it)"
                       : "start again with --resume auto; if it comes back, look at nvidia-smi and dmesg, or try another GPU");
}

void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) fail(error, what);
}

// What nvcc compiled the kernels for: 80, or -90 for "90a", whose code runs on that one alone.
constexpr int built_for[] = {TRAIN_CUDA_ARCHS};

bool runs_on(int capability) {
    for (int arch : built_for)
        if (arch < 0 ? -arch == capability : arch / 10 == capability / 10 && arch <= capability)
            return true;  // code of sm_80 runs on sm_86, not on sm_90
    return false;
}

std::string built_for_text() {
    std::string text;
    for (int arch : built_for) text += format("%ssm_%d%s", text.empty() ? "" : ", ", std::abs(arch), arch < 0 ? "a" : "");
    return text;
}

int device_in_use = 0;  // by its number, since device_info() was first called

}  // namespace

std::string unusable() {
    int driver = 0, runtime = 0, count = 0;
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "there is no NVIDIA driver on this machine";
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver)
        return format("the NVIDIA driver is for CUDA %s, this build needs %s: update the driver, or build with an older toolkit",
                      version_text(driver).c_str(), version_text(runtime).c_str());
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return "the driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)";
    if (error != cudaSuccess) return format("the driver cannot be used: %s", cudaGetErrorString(error));
    cudaDeviceProp properties;
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    const int capability = 10 * properties.major + properties.minor;
    if (!runs_on(capability))
        return format("the %s is of architecture sm_%d, and this build has code for %s: build with make CUDA=1 ARCH=%d%s", properties.name,
                      capability, built_for_text().c_str(), capability, capability == 90 || capability == 100 ? "a" : "");
    int mode = cudaComputeModeDefault;
    check(cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, device), "cudaDeviceGetAttribute");
    if (mode == cudaComputeModeProhibited) return format("the %s is set to allow no computing", properties.name);
    size_t free = 0, total = 0;  // makes the context: an exclusive card that another process has is refused here
    if (cudaMemGetInfo(&free, &total) == cudaErrorDevicesUnavailable)
        return format("the %s is in use by another process and allows only one", properties.name);
    return "";
}

void choose_device(int local_rank) {
    int count = 0;
    // where there is none, unusable() tells why
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) check(cudaSetDevice(local_rank % count), "cudaSetDevice");
}

const DeviceInfo& device_info() {
    static const DeviceInfo info = [] {
        if (const std::string why = unusable(); !why.empty())
            throw Error(ExitCode::usage, "no GPU can be used: " + why, "mend that, or compute on the CPU: --device cpu");
        cudaDeviceProp properties;
        int device = 0, driver = 0, runtime = 0;
        check(cudaGetDevice(&device), "cudaGetDevice");
        check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
        check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
        check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
        size_t free = 0, total = 0;
        check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
        device_in_use = device;
        DeviceInfo result;
        result.name = properties.name;
        result.pci_bus_id = format("%08x:%02x:%02x.0", properties.pciDomainID, properties.pciBusID, properties.pciDeviceID);
        result.compute_capability = 10 * properties.major + properties.minor;
        result.multiprocessors = properties.multiProcessorCount;
        result.memory = static_cast<int64_t>(total), result.free_memory = static_cast<int64_t>(free);
        result.l2_bytes = properties.l2CacheSize;
        result.shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
        result.driver = version_text(driver), result.runtime = version_text(runtime);
        return result;
    }();
    return info;
}

// ---- memory

void* allocate(int64_t bytes) {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) return cudaGetLastError(), nullptr;  // the error is taken back: the caller tells it better
    check(error, "cudaMalloc");
    return memory;
}

void* allocate_pinned(int64_t bytes) {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocHost(&memory, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) return cudaGetLastError(), nullptr;
    check(error, "cudaMallocHost");
    return memory;
}

void* allocate_managed(int64_t bytes) {
    void* memory = nullptr;
    check(cudaMallocManaged(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1)), "cudaMallocManaged");
    return memory;
}

// Errors are not reported here: they would be those of a kernel before, and whoever waits for that reports them.
void release(void* memory) { cudaFree(memory); }
void release_pinned(void* memory) { cudaFreeHost(memory); }

// ---- work in order

StreamHandle create_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    return stream;
}
void destroy_stream(StreamHandle stream) { cudaStreamDestroy(stream); }
void synchronize(StreamHandle stream) { check(cudaStreamSynchronize(stream), "the work of a stream"); }

void copy(void* to, const void* from, int64_t bytes, StreamHandle stream) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}
void fill_bytes(void* to, int value, int64_t bytes, StreamHandle stream) {
    check(cudaMemsetAsync(to, value, static_cast<size_t>(bytes), stream), "cudaMemsetAsync");
}

EventHandle create_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    return event;
}
void destroy_event(EventHandle event) { cudaEventDestroy(event); }
void record(EventHandle event, StreamHandle stream) { check(cudaEventRecord(event, stream), "cudaEventRecord"); }
void wait(StreamHandle stream, EventHandle event) { check(cudaStreamWaitEvent(stream, event), "cudaStreamWaitEvent"); }
void synchronize(EventHandle event) { check(cudaEventSynchronize(event), "the work before an event"); }

bool is_past(EventHandle event) {
    const cudaError_t error = cudaEventQuery(event);
    if (error != cudaErrorNotReady) check(error, "the work before an event");
    return error == cudaSuccess;
}

double milliseconds(EventHandle from, EventHandle to) {
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, from, to), "cudaEventElapsedTime");
    return static_cast<double>(elapsed);
}

void adopt_device() { check(cudaSetDevice(device_in_use), "cudaSetDevice"); }

// ---- names for a profiler

void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }

// ---- kernels/launch_cuda.h

void launch_failed(const void* kernel, cudaError_t error) {
    const char* name = nullptr;
    if (cudaFuncGetName(&name, kernel) != cudaSuccess) name = "?";
    fail(error, format("the launch of %s", name).c_str());
}

}  // namespace traincu::gpu
