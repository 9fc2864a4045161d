#include "tests/nccl/board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "src/base/error.h"

namespace traincu::nccl_standin {

namespace {
constexpr int64_t board_bytes = (static_cast<int64_t>(sizeof(Board)) + 4095) / 4096 * 4096;
constexpr const char* types[] = {"i8", "u8", "i32", "u32", "i64", "u64", "f16", "f32", "f64", "bf16"};
constexpr const char* ops[] = {"sum", "product", "max", "min", "average"};
}  // namespace

const char* name_of(Kind kind) {
    constexpr const char* names[] = {"nothing",       "ncclAllGather", "ncclReduceScatter", "ncclAllReduce",
                                     "ncclBroadcast", "ncclSend",      "ncclRecv"};
    return names[static_cast<int>(kind)];
}

std::string Call::text() const {
    std::string text = format("%s of %lld %s", name_of(kind), static_cast<long long>(count), types[dtype]);
    if (op >= 0) text += format(", %s", ops[op]);
    if (root >= 0) text += format(", root %d", root);
    return text;
}

Shared::Shared(std::string path, int ranks) : path_(std::move(path)), bytes_(board_bytes + ranks * 3 * room) {
    const int file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ENSURE(file >= 0 && ftruncate(file, bytes_) == 0);
    memory_ = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    ::close(file);
    ENSURE(memory_ != MAP_FAILED);
}
Shared::~Shared() { munmap(memory_, static_cast<size_t>(bytes_)); }

void Shared::attached(int ranks) {
    if (++(*this)->attached == ranks) ::unlink(path_.c_str());
}

std::byte* Shared::data(int rank, int64_t which) const {
    return static_cast<std::byte*>(memory_) + board_bytes + (3 * rank + which) * room;
}

void Shared::break_down(const std::string& why) {
    int32_t none = 0;
    if (!(*this)->broken.compare_exchange_strong(none, 1)) return;
    std::snprintf((*this)->why, sizeof Board::why, "%s", why.c_str());
    (*this)->broken = 2;
}
std::string Shared::broken() const { return (*this)->broken == 2 ? (*this)->why : ""; }

}  // namespace traincu::nccl_standin
