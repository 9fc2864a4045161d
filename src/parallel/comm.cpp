#include "src/parallel/comm.h"

#include <cstring>
#include <exception>
#include <utility>

namespace traincu {

int64_t Traffic::bytes() const {
    int64_t sum = 0;
    for (const Links& links : sent) sum += links.inside_node + links.between_nodes;
    return sum;
}

// ---- Pending

void Pending::swap(Pending& other) noexcept {
    std::swap(operation_, other.operation_), std::swap(open_, other.open_), std::swap(exceptions_, other.exceptions_);
}

Pending& Pending::operator=(Pending&& other) {
    ENSURE(!open_);
    swap(other);
    return *this;
}

Pending::~Pending() noexcept(false) { ENSURE(!open_ || std::uncaught_exceptions() > exceptions_); }

void Pending::wait(Stream& stream) {
    ENSURE(open_);
    open_ = false;
    if (!operation_) return;
    operation_->wait(stream);
    operation_.reset();
}

// ---- what both engines share

void copy_bytes(void* to, const void* from, int64_t bytes, Stream& stream) {
    if (bytes == 0 || to == from) return;
    if (stream.on_gpu())
        gpu::copy(to, from, bytes, stream.handle());
    else
        std::memcpy(to, from, static_cast<size_t>(bytes));
}

std::byte* block_of(const Tensor& tensor, int blocks, int block) {
    return static_cast<std::byte*>(tensor.data) + tensor.bytes() / blocks * block;
}

namespace {

void check(const Tensor& tensor) { ENSURE(tensor.numel() == 0 || (tensor.data && tensor.contiguous())); }

// `many` holds size blocks of `one`.
void check(const Tensor& many, const Tensor& one, int size) {
    check(many), check(one);
    ENSURE(many.dtype == one.dtype && many.numel() == size * one.numel());
}

bool is_float(Dtype dtype) { return dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::bf16; }

}  // namespace

void Communicator::count(int peer, int64_t bytes, Cargo cargo) {
    if (peer == rank_) return;
    Traffic::Links& links = traffic_->sent[static_cast<size_t>(cargo)];
    (node_of(peer) == node_of(rank_) ? links.inside_node : links.between_nodes) += bytes;
}

Pending Communicator::all_gather(const Tensor& out, const Tensor& in, Cargo cargo, Stream& stream) {
    check(out, in, size());
    for (int peer = 0; peer < size(); peer++) count(peer, in.bytes(), cargo);
    return begin_all_gather(out, in, stream);
}

Pending Communicator::reduce_scatter(const Tensor& out, const Tensor& in, Cargo cargo, Stream& stream) {
    check(in, out, size());
    ENSURE(is_float(in.dtype));
    for (int peer = 0; peer < size(); peer++) count(peer, out.bytes(), cargo);
    return begin_reduce_scatter(out, in, stream);
}

Pending Communicator::all_to_all(const Tensor& out, const Tensor& in, Cargo cargo, Stream& stream) {
    check(out), check(in);
    ENSURE(out.dtype == in.dtype && out.numel() == in.numel() && in.numel() % size() == 0);
    ENSURE(in.numel() == 0 || out.data != in.data);
    for (int peer = 0; peer < size(); peer++) count(peer, in.bytes() / size(), cargo);
    return begin_all_to_all(out, in, stream);
}

Pending Communicator::exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Cargo cargo, Stream& stream) {
    for (const auto* messages : {&sends, &receives})
        for (const Message& message : *messages) {
            check(message.tensor);
            ENSURE(message.peer >= 0 && message.peer < size());
        }
    for (const Message& message : sends) count(message.peer, message.tensor.bytes(), cargo);
    return begin_exchange(sends, receives, stream);
}

Pending Communicator::broadcast(const Tensor& data, int root, Cargo cargo, Stream& stream) {
    check(data);
    ENSURE(root >= 0 && root < size());
    if (rank_ == root)
        for (int peer = 0; peer < size(); peer++) count(peer, data.bytes(), cargo);
    return begin_broadcast(data, root, stream);
}

Pending Communicator::all_reduce(const Tensor& data, Reduce how, Cargo cargo, Stream& stream) {
    check(data);
    ENSURE(is_float(data.dtype) || data.dtype == Dtype::i32 || data.dtype == Dtype::i64);
    const auto bytes_of = [&](int peer) { return (share(data.numel(), peer)[1] - share(data.numel(), peer)[0]) * size_of(data.dtype); };
    for (int peer = 0; peer < size(); peer++) count(peer, bytes_of(peer) + bytes_of(rank_), cargo);
    return begin_all_reduce(data, how, stream);
}

// ---- one rank

namespace {

class SingleRank final : public Communicator {
public:
    explicit SingleRank(std::shared_ptr<Traffic> traffic) : Communicator(0, {{0, 0}}, std::move(traffic)) {}

    void barrier(Stream& stream) override { stream.synchronize(); }
    std::unique_ptr<Communicator> split(int, int, const std::string&) override { return std::make_unique<SingleRank>(shared_traffic()); }

private:
    static Pending copied(const Tensor& to, const Tensor& from, Stream& stream) {
        copy_bytes(to.data, from.data, from.bytes(), stream);
        return Pending(nullptr);
    }
    Pending begin_all_gather(const Tensor& out, const Tensor& in, Stream& stream) override { return copied(out, in, stream); }
    Pending begin_reduce_scatter(const Tensor& out, const Tensor& in, Stream& stream) override { return copied(out, in, stream); }
    Pending begin_all_to_all(const Tensor& out, const Tensor& in, Stream& stream) override { return copied(out, in, stream); }
    Pending begin_exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Stream& stream) override {
        ENSURE(sends.size() == receives.size());
        for (size_t i = 0; i < sends.size(); i++) {
            ENSURE(sends[i].tensor.bytes() == receives[i].tensor.bytes());
            copy_bytes(receives[i].tensor.data, sends[i].tensor.data, sends[i].tensor.bytes(), stream);
        }
        return Pending(nullptr);
    }
    Pending begin_broadcast(const Tensor&, int, Stream&) override { return Pending(nullptr); }
    Pending begin_all_reduce(const Tensor&, Reduce, Stream&) override { return Pending(nullptr); }
};

}  // namespace

std::unique_ptr<Communicator> single_rank_communicator() { return std::make_unique<SingleRank>(std::make_shared<Traffic>()); }

}  // namespace traincu
