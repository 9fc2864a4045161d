// Waiting: other ranks may need this core. The first microseconds are spent looking, then the core is offered to others between looks,
// then the thread sleeps for 50 us at a time: but not while messages are likely to be moving, which MPI may do in pieces of 32 KiB, a few
// at each look (without CMA, two ranks of a host move 2 GB/s while looked at, 0.4 GB/s where the sleep begins at once).
#ifdef TRAIN_HAS_MPI

#include "src/parallel/mpi_operation.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "src/parallel/peer_watch.h"

namespace traincu::mpi {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Pause {
public:
    explicit Pause(int64_t bytes) : awake_(500e-6 + static_cast<double>(bytes) / 1e9) {}  // as long as they take at 1 GB/s
    void operator()() const {
        const double waited = seconds_since(start_);
        if (waited > awake_)
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        else if (waited > 5e-6)
            sched_yield();
    }

private:
    const Clock::time_point start_ = Clock::now();
    const double awake_;
};

constexpr const char* kind_names[kinds] = {"all_gather", "reduce_scatter", "all_to_all", "exchange", "broadcast", "all_reduce", "barrier"};

// A message's tag: the operation's number on its communicator, and its kind. So messages of different operations never meet, and that
// ranks disagree about an operation is seen. 2^15 - 1 is the largest tag that every MPI has.
int tag_of(int64_t number, int kind) { return static_cast<int>(number % 2048) * 16 + kind; }

}  // namespace

std::unique_ptr<Buffer> BufferPool::take(const Stream& stream, int64_t bytes) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
        const int64_t size = (*it)->memory.bytes();
        if ((*it)->pinned != stream.on_gpu() || size < bytes || size > 2 * std::max(bytes, smallest)) continue;
        if (best == free_.end() || size < (*best)->memory.bytes()) best = it;
    }
    if (best == free_.end()) return std::make_unique<Buffer>(stream, std::max(bytes, smallest));
    std::unique_ptr<Buffer> buffer = std::move(*best);
    free_.erase(best);
    if (buffer->used) gpu::synchronize(buffer->used);
    return buffer;
}

void Engine::progress() {
    // What was sent and waited for may still lie in buffers of MPI's own, which any call empties.
    int found = 0;
    check(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &found, MPI_STATUS_IGNORE), "MPI_Iprobe");
    for (Operation* operation : under_way) operation->advance();
}

void Engine::check_peers(double patience_seconds) const {
    if (settings.watch) settings.watch->check(patience_seconds);
}

void Engine::check(int result, const char* call) const {
    if (result != MPI_SUCCESS) check_peers(1);
    check_mpi(result, call);
}

Operation::Operation(Engine& engine, Group& group, Kind kind, const Stream& stream)
    : engine_(engine), group_(group), kind_(kind), on_gpu_(stream.on_gpu()), number_(group.operations++) {
    place_ = engine_.under_way.insert(engine_.under_way.end(), this);
}

Operation::~Operation() {
    engine_.under_way.erase(place_);
    for (size_t i = 0; i < requests_.size(); i++) {
        if (requests_[i] == MPI_REQUEST_NULL) continue;
        if (messages_[i].receives) MPI_Cancel(&requests_[i]);
        MPI_Request_free(&requests_[i]);
    }
}

std::byte* Operation::input(const Tensor& tensor, Stream& stream) {
    if (!on_gpu_) return static_cast<std::byte*>(tensor.data);
    std::byte* host = scratch(tensor.bytes(), stream);
    copy_bytes(host, tensor.data, tensor.bytes(), stream);
    return host;
}

std::byte* Operation::output(const Tensor& tensor, Stream& stream) {
    if (!on_gpu_) return static_cast<std::byte*>(tensor.data);
    std::byte* host = scratch(tensor.bytes(), stream);
    uploads_.push_back({tensor, host});
    return host;
}

std::byte* Operation::in_place(const Tensor& tensor, Stream& stream) {
    std::byte* host = input(tensor, stream);
    if (on_gpu_) uploads_.push_back({tensor, host});
    return host;
}

std::byte* Operation::scratch(int64_t bytes, const Stream& stream) {
    buffers_.push_back(engine_.buffers.take(stream, bytes));
    return buffers_.back()->memory.data();
}

bool Operation::advance() {
    while (!done_) {
        if (open_ > 0 && !test()) return false;
        requests_.clear(), messages_.clear();
        if (rest_.empty()) return done_ = true;
        const std::function<void()> work = std::move(rest_.front());
        rest_.pop_front();
        work();
    }
    return true;
}

void Operation::wait(Stream& stream) {
    ENSURE(stream.on_gpu() == on_gpu_);
    wait_for_messages();
    for (const Upload& upload : uploads_) copy_bytes(upload.tensor.data, upload.host, upload.tensor.bytes(), stream);
    for (std::unique_ptr<Buffer>& buffer : buffers_) {
        if (buffer->used) gpu::record(buffer->used, stream.handle());
        engine_.buffers.give_back(std::move(buffer));
    }
    buffers_.clear();
}

void Operation::post(int peer, std::byte* data, int64_t bytes, bool receives) {
    int64_t offset = 0;
    do {  // an empty message is sent as well: its absence would be one
        const int64_t piece = std::min(bytes - offset, engine_.settings.largest_message);
        requests_.push_back(MPI_REQUEST_NULL), messages_.push_back({peer, receives, offset, piece, bytes});
        if (receives)
            engine_.check(
                MPI_Irecv(data + offset, static_cast<int>(piece), MPI_BYTE, peer, tag_of(number_, kind_), group_.mpi, &requests_.back()),
                "MPI_Irecv");
        else
            engine_.check(
                MPI_Isend(data + offset, static_cast<int>(piece), MPI_BYTE, peer, tag_of(number_, kind_), group_.mpi, &requests_.back()),
                "MPI_Isend");
        open_++, offset += piece;
    } while (offset < bytes);
}

bool Operation::test() {
    const int count = static_cast<int>(requests_.size());
    finished_.resize(requests_.size()), statuses_.resize(requests_.size());
    int finished = 0;
    const int result = MPI_Testsome(count, requests_.data(), &finished, finished_.data(), statuses_.data());
    if (result != MPI_SUCCESS && result != MPI_ERR_IN_STATUS) engine_.check(result, "MPI_Testsome");
    for (int i = 0; i < finished; i++) {
        const Message& message = messages_[static_cast<size_t>(finished_[static_cast<size_t>(i)])];
        const MPI_Status& status = statuses_[static_cast<size_t>(i)];
        const int error = result == MPI_ERR_IN_STATUS ? status.MPI_ERROR : MPI_SUCCESS;
        if (message.receives) check_size(message, status, error);
        engine_.check(error, message.receives ? "MPI_Irecv" : "MPI_Isend");
    }
    open_ -= std::max(finished, 0);
    return open_ == 0;
}

std::string Operation::title() const {
    return format("%s (operation %lld of the %s communicator)", kind_names[kind_], static_cast<long long>(number_), group_.name.c_str());
}

void Operation::check_size(const Message& message, const MPI_Status& status, int error) const {
    int class_of_error = MPI_SUCCESS, received = 0;
    if (error != MPI_SUCCESS) MPI_Error_class(error, &class_of_error);
    if (error != MPI_SUCCESS && class_of_error != MPI_ERR_TRUNCATE) return;
    MPI_Get_count(&status, MPI_BYTE, &received);
    if (error == MPI_SUCCESS && received == message.piece) return;
    throw disagreement(format("rank %d sent %lld bytes where %lld were expected", rank_of(message.peer),
                              static_cast<long long>(message.offset + received), static_cast<long long>(message.bytes)));
}

Error Operation::disagreement(const std::string& what) const {
    return Error(ExitCode::peer, format("the ranks disagree in %s: %s", title().c_str(), what.c_str()),
                 "start all ranks with the same ./train, the same options and the same files");
}

// Another operation's message under this one's number: that rank will never send what is waited for here.
void Operation::check_kinds() const {
    for (size_t i = 0; i < requests_.size(); i++) {
        if (requests_[i] == MPI_REQUEST_NULL || !messages_[i].receives) continue;
        for (int kind = 0; kind < kinds; kind++) {
            int found = 0;
            if (kind != kind_)
                engine_.check(MPI_Iprobe(messages_[i].peer, tag_of(number_, kind), group_.mpi, &found, MPI_STATUS_IGNORE), "MPI_Iprobe");
            if (found) throw disagreement(format("rank %d called %s", rank_of(messages_[i].peer), kind_names[kind]));
        }
    }
}

void Operation::wait_for_messages() {
    if (advance()) return;
    const Clock::time_point start = Clock::now();
    Clock::time_point last = start;
    double waited = 0, look_at = 0.25;  // seconds
    int64_t bytes = 0;
    for (const Message& message : messages_) bytes += message.piece;
    for (const Pause pause(bytes); engine_.progress(), !done_; pause()) {
        engine_.check_peers();
        // Time in which this process was stopped is not held against others.
        const Clock::time_point now = Clock::now();
        waited += std::min(1.0, std::chrono::duration<double>(now - last).count()), last = now;
        if (waited > engine_.settings.timeout_seconds) throw overdue(waited);
        if (waited > look_at) check_kinds(), look_at = waited + 1;
    }
    group_.members.traffic().waited_seconds += seconds_since(start);
}

Error Operation::overdue(double waited) const {
    std::string silent;
    std::vector<int> named;
    for (const bool receives : {true, false})  // who sends nothing, and who takes nothing
        for (size_t i = 0; i < requests_.size(); i++) {
            const int rank = rank_of(messages_[i].peer);
            if (requests_[i] == MPI_REQUEST_NULL || messages_[i].receives != receives || std::ranges::count(named, rank)) continue;
            named.push_back(rank);
            silent += (silent.empty() ? "" : ", ") + std::to_string(rank);
        }
    return Error(ExitCode::peer, format("no answer from rank %s after %.3g s in %s", silent.c_str(), waited, title().c_str()),
                 "look at what that rank was doing (its machine, its last lines); where it is only slow, raise --peer-timeout");
}

}  // namespace traincu::mpi

#endif  // TRAIN_HAS_MPI
