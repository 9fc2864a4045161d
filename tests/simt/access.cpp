#include "tests/simt/access.h"

#include "src/base/error.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"

namespace traincu::simt {

void read_access(const void*, int64_t, const void*) {}
void write_access(const void*, int64_t, const void*) {}
void atomic_access(const void*, int64_t, const void*) {}

void check_aligned(const void* address, int64_t alignment, const Where& at) {
    if (reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(alignment))
        fail(format("accesses %lld bytes at %p, which is not aligned to them", static_cast<long long>(alignment), address), at);
}

void check_shared(const void* address, int64_t bytes, const char* what, const Where& at) {
    const int64_t offset = static_cast<const std::byte*>(address) - shared_memory();
    if (offset < 0 || offset + bytes > block.shared_bytes)
        fail(format("calls %s for %p, which is not in its shared memory", what, address), at);
    check_aligned(address, bytes, at);
}

}  // namespace traincu::simt

// ---- what -fsanitize=thread makes of every load and store

using traincu::simt::read_access;
using traincu::simt::write_access;

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define HOOK(bytes)                                                                                    \
    void __tsan_read##bytes(void* p) { read_access(p, bytes, __builtin_return_address(0)); }           \
    void __tsan_write##bytes(void* p) { write_access(p, bytes, __builtin_return_address(0)); }         \
    void __tsan_unaligned_read##bytes(void* p) { read_access(p, bytes, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##bytes(void* p) { write_access(p, bytes, __builtin_return_address(0)); }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
#undef HOOK
void __tsan_read_range(void* p, unsigned long bytes) { read_access(p, static_cast<int64_t>(bytes), __builtin_return_address(0)); }
void __tsan_write_range(void* p, unsigned long bytes) { write_access(p, static_cast<int64_t>(bytes), __builtin_return_address(0)); }
void __tsan_vptr_update(void** p, void*) { write_access(p, 8, __builtin_return_address(0)); }
void __tsan_vptr_read(void** p) { read_access(p, 8, __builtin_return_address(0)); }
// Atomics of the host's code in these files (counts of std::shared_ptr, guards of static variables).
#define ATOMICS(bits, T)                                                                                    \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
#undef ATOMICS
}
