// A frame on a connection: kind (1 byte), length (4 bytes), text.
//   w   the sender fails, and why        any rank -> rank 0, or rank 0 -> all (as l)
//   l   a rank is lost: which, and why   rank 0 -> all
//   b   goodbye: what follows is the end of file of a rank that is done
#include "src/parallel/peer_watch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace traincu {

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double connect_seconds = 10;  // that ranks wait for one another when they start
constexpr double grace_seconds = 0.5;   // that the main thread has to look by itself; ten seconds once it has
constexpr uint32_t longest_text = 4096;

void set_option(int socket, int level, int option, int value) { setsockopt(socket, level, option, &value, sizeof value); }

// A host that has vanished is given up after 10 + 3 * 5 seconds.
void watch_connection(int socket) {
    set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
}

void set_timeout(int socket, double seconds) {
    const timeval time{static_cast<time_t>(seconds), static_cast<suseconds_t>((seconds - static_cast<int>(seconds)) * 1e6)};
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

sockaddr_in address_of(uint32_t address, uint16_t port) {
    sockaddr_in to = {};
    to.sin_family = AF_INET, to.sin_addr.s_addr = address, to.sin_port = htons(port);
    return to;
}

bool send_all(int socket, const void* data, size_t bytes) {
    return ::send(socket, data, bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes);  // small: it fits into the socket's buffer
}
bool receive_all(int socket, void* data, size_t bytes) { return recv(socket, data, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes); }

const char* remedy =
    "the first error among the ranks' lines says more; a process that ended without a word was often killed for memory (dmesg). Start "
    "again with --resume auto to continue from the last checkpoint";

}  // namespace

struct PeerWatch::Hello {
    uint64_t token = 0;
    int32_t rank = 0, process = 0;
    char host[64] = "";

    Hello() = default;
    Hello(uint64_t t, int r) : token(t), rank(r), process(getpid()) { gethostname(host, sizeof host - 1); }
    std::string name() const { return format("rank %d (host %.63s, process %d)", rank, host, process); }
};

PeerWatch::PeerWatch(int rank, int size) : rank_(rank), size_(size) {}

PeerWatch::~PeerWatch() {
    leaving_ = true;
    if (thread_.joinable()) {
        for (const Peer& peer : peers_) send(peer, 'b', "");
        const uint64_t one = 1;
        [[maybe_unused]] ssize_t written = write(wake_, &one, sizeof one);
        thread_.join();
    }
    for (const Peer& peer : peers_)
        if (peer.socket >= 0) close(peer.socket);
    if (wake_ >= 0) close(wake_);
    if (door_ >= 0) close(door_);
}

// ---- the beginning

PeerWatch::Invitation PeerWatch::invite(bool one_host) {
    Invitation invitation;
    rlimit files = {};  // a connection for each rank
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    if (getrandom(&invitation.token, sizeof invitation.token, 0) != sizeof invitation.token) return invitation;

    door_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in here = address_of(htonl(one_host ? INADDR_LOOPBACK : INADDR_ANY), 0);
    socklen_t length = sizeof here;
    if (door_ < 0 || bind(door_, reinterpret_cast<sockaddr*>(&here), sizeof here) != 0 || listen(door_, size_) != 0 ||
        getsockname(door_, reinterpret_cast<sockaddr*>(&here), &length) != 0)
        return invitation;
    invitation.port = ntohs(here.sin_port);
    if (one_host) {
        invitation.address[invitation.addresses++] = htonl(INADDR_LOOPBACK);
        return invitation;
    }
    // Which of its addresses the others can reach, they find out.
    ifaddrs* list = nullptr;
    if (getifaddrs(&list) != 0) return invitation;
    for (const ifaddrs* i = list; i && invitation.addresses < 8; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && (i->ifa_flags & IFF_UP) && !(i->ifa_flags & IFF_LOOPBACK))
            invitation.address[invitation.addresses++] = reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr;
    freeifaddrs(list);
    return invitation;
}

std::string PeerWatch::start(const Invitation& invitation) {
    if (rank_ == 0)
        welcome_all(invitation.token);
    else
        knock(invitation);
    if (!peers_.empty()) {
        wake_ = eventfd(0, EFD_CLOEXEC);
        // Signals are the main thread's.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        thread_ = std::thread([this] { run(); });
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    const int missing = (rank_ == 0 ? size_ - 1 : 1) - static_cast<int>(peers_.size());
    if (missing == 0) return "";
    return format("rank %d has no TCP connection to %d of the other ranks: that one is lost is noticed only when a wait is overdue", rank_,
                  missing);
}

void PeerWatch::welcome_all(uint64_t token) {
    if (door_ < 0) return;
    const Clock::time_point start = Clock::now();
    const Hello mine(token, 0);
    while (static_cast<int>(peers_.size()) < size_ - 1) {
        const double left = connect_seconds - Seconds(Clock::now() - start).count();
        pollfd door{door_, POLLIN, 0};
        if (left <= 0 || poll(&door, 1, static_cast<int>(left * 1000)) <= 0) return;
        const int socket = accept4(door_, nullptr, nullptr, SOCK_CLOEXEC);
        if (socket < 0) continue;
        set_timeout(socket, 2);
        Hello hello;
        if (!receive_all(socket, &hello, sizeof hello) || hello.token != token || !send_all(socket, &mine, sizeof mine)) {
            close(socket);  // a stranger
            continue;
        }
        watch_connection(socket);
        hello.host[sizeof hello.host - 1] = '\0';
        peers_.push_back({socket, hello.name(), "", false});
    }
}

bool PeerWatch::knock(const Invitation& invitation) {
    const Hello mine(invitation.token, rank_);
    for (int i = 0; i < invitation.addresses; i++) {
        const int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (door < 0) return false;
        set_timeout(door, connect_seconds / 4);
        const sockaddr_in to = address_of(invitation.address[i], invitation.port);
        Hello theirs;
        if (connect(door, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 && send_all(door, &mine, sizeof mine)) {
            set_timeout(door, connect_seconds);
            if (receive_all(door, &theirs, sizeof theirs) && theirs.token == invitation.token) {
                watch_connection(door);
                peers_.push_back({door, theirs.name(), "", false});
                return true;
            }
        }
        close(door);
    }
    return false;
}

// ---- the thread

void PeerWatch::run() {
    Clock::time_point lost_at{};
    for (;;) {
        std::vector<pollfd> files{{wake_, POLLIN, 0}};
        for (const Peer& peer : peers_) files.push_back({peer.socket, POLLIN, 0});  // a closed one is -1, which poll() skips
        if (poll(files.data(), files.size(), lost_ ? 50 : -1) < 0 && errno != EINTR) return;
        if (leaving_) return;
        for (size_t i = 0; i < peers_.size(); i++)
            if (files[i + 1].revents) read(peers_[i]);
        if (!lost_) continue;
        if (lost_at == Clock::time_point{}) lost_at = Clock::now();
        if (Seconds(Clock::now() - lost_at).count() < (noticed_ ? 10 : grace_seconds)) continue;
        // The main thread does not come to it: it may compute, or stand in a call that will never return.
        const Error error(ExitCode::peer, reason_, remedy);
        std::fprintf(stderr, "error: %s\n  what to do: %s\n%s\n", error.what(), error.remedy().c_str(), error.json().c_str());
        _exit(static_cast<int>(ExitCode::peer));
    }
}

void PeerWatch::read(Peer& peer) {
    char bytes[4096];
    const ssize_t got = recv(peer.socket, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got <= 0) {
        {
            const std::lock_guard lock(sending_);
            close(peer.socket);
            peer.socket = -1;
        }
        if (!peer.goodbye) declare_lost(peer.name + " ended without a word");
        return;
    }
    peer.received.append(bytes, static_cast<size_t>(got));
    while (peer.received.size() >= 5) {
        uint32_t length = 0;
        std::memcpy(&length, peer.received.data() + 1, sizeof length);
        if (length > longest_text || peer.received.size() < 5 + length) return;
        const char kind = peer.received[0];
        const std::string text = peer.received.substr(5, length);
        peer.received.erase(0, 5 + length);
        if (kind == 'b') peer.goodbye = true;
        if (kind == 'w') declare_lost(peer.name + " failed: " + text);
        if (kind == 'l') declare_lost(text);
    }
}

// The first loss is the cause; what follows from it is not told.
void PeerWatch::declare_lost(const std::string& reason) {
    if (lost_) return;
    if (rank_ == 0)
        for (const Peer& peer : peers_) send(peer, 'l', reason);
    {
        const std::lock_guard lock(naming_);
        reason_ = reason;
    }
    lost_ = true;
}

void PeerWatch::send(const Peer& peer, char kind, const std::string& text) {
    const std::lock_guard lock(sending_);
    const uint32_t length = static_cast<uint32_t>(std::min<size_t>(text.size(), longest_text));
    std::string frame(1, kind);
    frame.append(reinterpret_cast<const char*>(&length), sizeof length).append(text, 0, length);
    if (peer.socket >= 0) send_all(peer.socket, frame.data(), frame.size());
}

// ---- the main thread

void PeerWatch::check(double patience_seconds) {
    for (const Clock::time_point start = Clock::now(); !lost_; std::this_thread::sleep_for(std::chrono::milliseconds(1)))
        if (Seconds(Clock::now() - start).count() >= patience_seconds) return;
    noticed_ = true;
    const std::lock_guard lock(naming_);
    throw Error(ExitCode::peer, reason_, remedy);
}

void PeerWatch::last_words(const std::string& sentence) {
    if (lost_) return;  // then it is not this rank's error
    leaving_ = true;    // and the thread has no more say in how this process ends
    const std::string name = Hello(0, rank_).name();
    for (const Peer& peer : peers_) {
        if (rank_ == 0)
            send(peer, 'l', name + " failed: " + sentence);
        else
            send(peer, 'w', sentence);
    }
}

}  // namespace traincu
