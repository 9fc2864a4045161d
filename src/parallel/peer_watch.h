// PeerWatch: notices that another rank's process has ended. Each rank holds a TCP connection to rank 0, and a thread listens to it. The
// kernel closes a process's connections however it ends, so its death is an end of file within milliseconds; rank 0 tells all others. A
// rank that fails says why before it ends, one that is done says goodbye. What the thread learns, waits find out by lost(); a rank whose
// main thread does not look (it computes, or stands in a call that will not return) is ended by the thread itself after half a second.
// Launchers leave little more: mpirun kills what is left one second after the first failure.
//
// Not noticed: a process that hangs (waits have a deadline), and a host that vanishes from the network, for as long as TCP takes to give
// up (25 s here). IPv4 only.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/base/error.h"

namespace traincu {

class PeerWatch {
public:
    struct Invitation {  // plain bytes, so that MPI can carry it from rank 0 to all
        int32_t addresses = 0;
        uint32_t address[8];  // IPv4, in network order
        uint16_t port = 0;
        uint64_t token = 0;  // who knows it belongs to this run
    };

    PeerWatch(int rank, int size);
    ~PeerWatch();  // says goodbye
    PeerWatch(const PeerWatch&) = delete;
    PeerWatch& operator=(const PeerWatch&) = delete;

    // Rank 0 opens its door, on the loopback device where all ranks are on one host; then all ranks connect, at the same time. Returns
    // what is amiss: a rank that cannot be watched is no reason not to train.
    Invitation invite(bool one_host);
    std::string start(const Invitation& invitation);

    bool lost() const { return lost_; }
    // Error(peer) where a rank is lost; waits up to so many seconds for the news.
    void check(double patience_seconds = 0);

    // Of a rank that is about to end because of an error: everybody hears what it was.
    void last_words(const std::string& sentence);

private:
    struct Peer {
        int socket = -1;
        std::string name;      // "rank 3 (host a, process 1234)"
        std::string received;  // the beginning of a frame
        bool goodbye = false;
    };
    struct Hello;

    void welcome_all(uint64_t token);
    bool knock(const Invitation& invitation);
    void run();
    void read(Peer& peer);
    void declare_lost(const std::string& reason);
    void send(const Peer& peer, char kind, const std::string& text);

    int rank_, size_;
    std::vector<Peer> peers_;  // rank 0: all others; another rank: rank 0
    int door_ = -1, wake_ = -1;
    std::thread thread_;
    std::mutex sending_;  // of a socket's number and of what is written to it
    std::mutex naming_;   // of reason_
    std::string reason_;
    std::atomic<bool> lost_{false}, noticed_{false}, leaving_{false};
};

}  // namespace traincu
