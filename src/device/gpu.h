// The GPU's runtime, as much of it as this program uses. Two implementations, and a build links one or none:
//   gpu.cpp          CUDA's runtime library
//   tests/simt       host memory, and a runner that executes every kernel on the CPU
// All functions are declared weak: a build without a GPU links without them (built() is then false), and no stream is on a GPU there. So
// one object file of everything above serves all three.
#pragma once

#include <cstdint>
#include <string>

#define TRAINCU_GPU [[gnu::weak]]

struct CUstream_st;  // CUDA's own names, so that no header of CUDA is needed above kernels/
struct CUevent_st;

namespace traincu::gpu {

using StreamHandle = CUstream_st*;
using EventHandle = CUevent_st*;

struct DeviceInfo {
    std::string name;            // "NVIDIA H200"
    std::string pci_bus_id;      // "00000000:3b:00.0"
    int compute_capability = 0;  // 90: sm_90
    int multiprocessors = 0;
    int64_t memory = 0, free_memory = 0;  // bytes
    int64_t l2_bytes = 0;
    int64_t shared_bytes = 0;     // that one block may ask for
    std::string driver, runtime;  // "13.0"
};

// Why no GPU can be used: no driver, a driver older than the toolkit, no device, a device that this build has no code for. Empty: one can.
TRAINCU_GPU std::string unusable();
// Of several ranks on a host each takes a card of its own, in turn where there are fewer cards. Before anything else that asks for the
// device.
TRAINCU_GPU void choose_device(int local_rank);
// The current device (CUDA_VISIBLE_DEVICES chooses, choose_device() among those). Error(usage) with a remedy where unusable().
TRAINCU_GPU const DeviceInfo& device_info();

inline bool built() { return &unusable != nullptr; }

// ---- memory. Null where there is not enough.
TRAINCU_GPU void* allocate(int64_t bytes);          // on the device, 256-byte aligned, content undefined
TRAINCU_GPU void* allocate_pinned(int64_t bytes);   // on the host, for copies that do not hold up the host
TRAINCU_GPU void* allocate_managed(int64_t bytes);  // seen by both sides: for tests
TRAINCU_GPU void release(void* memory);             // of allocate() and allocate_managed()
TRAINCU_GPU void release_pinned(void* memory);

// ---- work in order. Error(hardware) where the device reports a failure, with CUDA's own words.
TRAINCU_GPU StreamHandle create_stream();
TRAINCU_GPU void destroy_stream(StreamHandle stream);
TRAINCU_GPU void synchronize(StreamHandle stream);                                      // the host waits for all of its work
TRAINCU_GPU void copy(void* to, const void* from, int64_t bytes, StreamHandle stream);  // between any two memories
TRAINCU_GPU void fill_bytes(void* to, int value, int64_t bytes, StreamHandle stream);

TRAINCU_GPU EventHandle create_event();
TRAINCU_GPU void destroy_event(EventHandle event);
TRAINCU_GPU void record(EventHandle event, StreamHandle stream);
TRAINCU_GPU void wait(StreamHandle stream, EventHandle event);      // the stream goes on after the event; one never recorded is past
TRAINCU_GPU void synchronize(EventHandle event);                    // the host goes on after it
TRAINCU_GPU bool is_past(EventHandle event);                        // one never recorded is
TRAINCU_GPU double milliseconds(EventHandle from, EventHandle to);  // between two that are past

// What a thread of the host calls first that is not the main one: it works with the main one's device.
TRAINCU_GPU void adopt_device();

// ---- names for a profiler's time line (NVTX)
TRAINCU_GPU void push_range(const char* name);
TRAINCU_GPU void pop_range();

}  // namespace traincu::gpu
