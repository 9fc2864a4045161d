#include "src/base/arena.h"

#include <sys/mman.h>

namespace traincu {

constexpr int64_t alignment = 64;  // a cache line, and one AVX-512 register

void Arena::add(Tensor& tensor, std::string name, Dtype dtype, std::initializer_list<int64_t> shape) {
    ENSURE(!allocated());
    double bytes = static_cast<double>(size_of(dtype));  // in double, so that an overflow is seen
    for (int64_t dim : shape) bytes *= static_cast<double>(dim);
    if (bytes + static_cast<double>(bytes_) > 0x1p60)
        throw Error(ExitCode::memory, format("with %s the %s arena would take more than 2^60 bytes", name.c_str(), name_.c_str()),
                    "use a smaller --batch-size or --seq-len, or a smaller model");
    tensor = Tensor(nullptr, dtype, shape);
    rows_.push_back({std::move(name), &tensor, bytes_, tensor.bytes()});
    bytes_ += round_up(tensor.bytes(), alignment);
}

// Anonymous memory arrives zeroed, and page by page where it is first touched: the threads that use it place it.
static void* allocate_pages(int64_t bytes) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // fewer TLB misses; harmless if refused
    return memory;
}
const MemorySource host_memory{allocate_pages, [](void* memory, int64_t bytes) { munmap(memory, static_cast<size_t>(bytes)); },
                               "host memory"};

void Arena::allocate(const MemorySource& source) {
    ENSURE(!allocated());
    if (bytes_ == 0) return;
    memory_ = source.allocate(bytes_);
    if (!memory_)
        throw Error(ExitCode::memory, format("out of %s: the %s arena needs %s", source.name, name_.c_str(), human_bytes(bytes_).c_str()),
                    "use a smaller --batch-size or --seq-len, --recompute block, or a smaller model");
    source_ = &source;
    for (Row& row : rows_) row.tensor->data = static_cast<std::byte*>(memory_) + row.offset;
}

Arena::~Arena() {
    if (memory_) source_->release(memory_, bytes_);
}

std::string human_bytes(int64_t bytes) {
    const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = static_cast<double>(bytes);
    int unit = 0;
    while (value >= 1024 && unit < 4) value /= 1024, unit++;
    return unit == 0 ? format("%lld B", static_cast<long long>(bytes)) : format("%.2f %s", value, units[unit]);
}

}  // namespace traincu
