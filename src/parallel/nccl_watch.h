// What happens when NCCL does not go on. A collective whose peer is dead runs for ever on the device, and the host waits for it in
// cudaStreamSynchronize(), from where nobody can call it back. So a thread looks, 50 times a second: has a communicator met an error? Is an
// operation under way for longer than the deadline? Is the host inside a call of NCCL for longer than that? If so
//   1. it aborts all communicators of the family, each in a thread of its own, since one abort may wait for another rank's;
//   2. the host, which comes back from its wait, meets the error as an exception at its next operation, wait() or progress();
//   3. if it does not within a second, the thread prints the error itself and ends the process, with exit code 7.
// Between 1 and 2 the device's memory holds whatever the aborted operations left: whoever waits for a stream calls progress() before it
// trusts what it finds.
#pragma once

#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "src/base/error.h"
#include "src/device/gpu.h"

namespace traincu {

class NcclWatch {
public:
    // An operation on its way.
    struct Flight {
        Flight(ncclComm_t on, const char* operation, int64_t its_number, std::string communicator)
            : comm(on), kind(operation), number(its_number), name(std::move(communicator)) {}
        ~Flight() { gpu::destroy_event(begun), gpu::destroy_event(ended); }
        Flight(const Flight&) = delete;
        Flight& operator=(const Flight&) = delete;
        std::string title() const;  // "all_gather (operation 5 of the world communicator)"

        ncclComm_t comm;
        const char* kind;
        int64_t number;
        std::string name;
        gpu::EventHandle begun = gpu::create_event(), ended = gpu::create_event();  // around it on the side stream
        double waited = -1;                                                         // seconds since it was first seen begun; -1: not yet
    };

    explicit NcclWatch(double timeout_seconds);
    ~NcclWatch();
    NcclWatch(const NcclWatch&) = delete;
    NcclWatch& operator=(const NcclWatch&) = delete;

    void check();  // throws what was noticed
    bool failed();

    void add(ncclComm_t comm);
    bool remove(ncclComm_t comm);  // false: it was aborted, and is NCCL's no more
    void follow(std::shared_ptr<Flight> flight);

    // Lives around calls of NCCL: nothing is aborted under them.
    class Call {
    public:
        Call(NcclWatch& watch, std::string what);
        ~Call();
        Call(const Call&) = delete;
        Call& operator=(const Call&) = delete;

    private:
        NcclWatch& watch_;
        std::unique_lock<std::timed_mutex> lock_;
    };

private:
    void run();
    std::optional<Error> look(double seconds);
    void end(const Error& error);
    void abort_all();
    Error overdue(const std::string& what, double seconds) const;

    const double timeout_seconds_;
    std::timed_mutex calls_;  // held during calls of NCCL
    std::mutex mutex_;        // of all that follows
    std::condition_variable changed_;
    std::vector<ncclComm_t> comms_;
    std::vector<std::shared_ptr<Flight>> flights_;
    std::string call_;  // that is under way; empty: none
    double call_waited_ = 0;
    std::optional<Error> failure_;
    bool taken_ = false, stop_ = false;  // failure_ was thrown; the thread shall end
    std::thread thread_;                 // last: it uses what stands above
};

// Error with NCCL's own words where a call failed.
void check_nccl(ncclResult_t result, const char* call);

}  // namespace traincu
