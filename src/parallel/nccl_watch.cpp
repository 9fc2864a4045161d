#include "src/parallel/nccl_watch.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace traincu {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr const char* remedy =
    "look at what the other ranks said, at the first that stopped, and at the network (NCCL_DEBUG=INFO tells what NCCL does)";

Error nccl_error(ncclResult_t result, const std::string& where, ncclComm_t comm) {
    const char* detail = ncclGetLastError(comm);
    return Error(result == ncclUnhandledCudaError ? ExitCode::hardware : ExitCode::peer,
                 format("NCCL reports in %s: %s%s%s", where.c_str(), ncclGetErrorString(result), detail && *detail ? ": " : "",
                        detail ? detail : ""),
                 remedy);
}

}  // namespace

void check_nccl(ncclResult_t result, const char* call) {
    if (result != ncclSuccess) throw nccl_error(result, call, nullptr);
}

std::string NcclWatch::Flight::title() const {
    return format("%s (operation %lld of the %s communicator)", kind, static_cast<long long>(number), name.c_str());
}

NcclWatch::NcclWatch(double timeout_seconds) : timeout_seconds_(timeout_seconds), thread_([this] { run(); }) {}

NcclWatch::~NcclWatch() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void NcclWatch::check() {
    const std::lock_guard lock(mutex_);
    if (!failure_) return;
    taken_ = true;
    changed_.notify_all();
    throw *failure_;
}

bool NcclWatch::failed() {
    const std::lock_guard lock(mutex_);
    return failure_.has_value();
}

void NcclWatch::add(ncclComm_t comm) {
    const std::lock_guard lock(mutex_);
    comms_.push_back(comm);
}

bool NcclWatch::remove(ncclComm_t comm) {
    const std::lock_guard lock(mutex_);
    std::erase_if(flights_, [&](const auto& flight) { return flight->comm == comm; });
    return std::erase(comms_, comm) > 0;
}

void NcclWatch::follow(std::shared_ptr<Flight> flight) {
    const std::lock_guard lock(mutex_);
    flights_.push_back(std::move(flight));
}

NcclWatch::Call::Call(NcclWatch& watch, std::string what) : watch_(watch), lock_(watch.calls_) {
    watch_.check();  // it may have been aborted while this waited
    const std::lock_guard lock(watch_.mutex_);
    watch_.call_ = std::move(what), watch_.call_waited_ = 0;
}
NcclWatch::Call::~Call() {
    const std::lock_guard lock(watch_.mutex_);
    watch_.call_.clear();
}

void NcclWatch::run() {
    Clock::time_point last = Clock::now();
    try {
        gpu::adopt_device();
        for (std::unique_lock lock(mutex_); !changed_.wait_for(lock, 20ms, [&] { return stop_; });) {
            // Time in which this process was stopped is not held against others.
            const Clock::time_point now = Clock::now();
            const double seconds = std::min(1.0, std::chrono::duration<double>(now - last).count());
            last = now;
            if (const std::optional<Error> error = look(seconds)) {
                failure_ = error;
                lock.unlock();
                return end(*error);
            }
        }
    } catch (const Error& error) {  // of the device
        {
            const std::lock_guard lock(mutex_);
            failure_ = error;
        }
        end(error);
    }
}

Error NcclWatch::overdue(const std::string& what, double seconds) const {
    return Error(ExitCode::peer, format("%s is not done after %.3g s: another rank is lost, or has not begun it", what.c_str(), seconds),
                 std::string(remedy) + "; where a rank is only slow, raise --peer-timeout");
}

// With mutex_ held. NCCL's error comes before a deadline: it says more.
std::optional<Error> NcclWatch::look(double seconds) {
    std::erase_if(flights_, [](const auto& flight) { return gpu::is_past(flight->ended); });
    std::optional<Error> at_rest;
    for (ncclComm_t comm : comms_) {
        ncclResult_t state = ncclSuccess;
        const ncclResult_t result = ncclCommGetAsyncError(comm, &state);
        if (result != ncclSuccess) state = result;
        if (state == ncclSuccess || state == ncclInProgress) continue;
        const auto oldest = std::ranges::find(flights_, comm, [](const auto& flight) { return flight->comm; });
        if (oldest != flights_.end()) return nccl_error(state, (*oldest)->title(), comm);
        at_rest = nccl_error(state, "a communicator at rest", comm);
    }
    if (at_rest) return at_rest;
    for (const auto& flight : flights_) {
        if (!gpu::is_past(flight->begun)) continue;
        flight->waited = flight->waited < 0 ? 0 : flight->waited + seconds;
        if (flight->waited > timeout_seconds_) return overdue(flight->title(), flight->waited);
    }
    if (!call_.empty() && (call_waited_ += seconds) > timeout_seconds_) return overdue("the call of NCCL for " + call_, call_waited_);
    return {};
}

void NcclWatch::abort_all() {
    // Not under a call of NCCL: a host that hangs in one is ended as it is.
    const std::unique_lock calls(calls_, 500ms);
    if (!calls.owns_lock()) return;
    struct Progress {
        std::mutex mutex;
        std::condition_variable changed;
        size_t open;
    };
    const auto progress = std::make_shared<Progress>();
    std::vector<ncclComm_t> comms;
    {
        const std::lock_guard lock(mutex_);
        comms.swap(comms_);
    }
    progress->open = comms.size();
    for (ncclComm_t comm : comms)
        std::thread([comm, progress] {
            ncclCommAbort(comm);
            const std::lock_guard lock(progress->mutex);
            progress->open--;
            progress->changed.notify_all();
        }).detach();
    std::unique_lock lock(progress->mutex);
    progress->changed.wait_for(lock, 5s, [&] { return progress->open == 0; });
}

void NcclWatch::end(const Error& error) {
    abort_all();
    {
        std::unique_lock lock(mutex_);
        if (changed_.wait_for(lock, 1s, [&] { return taken_ || stop_; })) return;
    }
    std::fflush(stdout);
    std::fprintf(stderr, "error: %s\n  what to do: %s\n%s\n", error.what(), error.remedy().c_str(), error.json().c_str());
    std::fflush(nullptr);
    _exit(static_cast<int>(error.code()));
}

}  // namespace traincu
