// The watch between processes, without MPI: this process is rank 0, forked ones are the others.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

#include "src/parallel/peer_watch.h"

namespace traincu::test {

namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

// A process that joins as a rank, does something, and ends there and then: with 0, or with 7 where it throws.
pid_t rank_process(int rank, int size, const PeerWatch::Invitation& invitation, const std::function<void(PeerWatch&)>& work) {
    const pid_t child = fork();
    if (child != 0) return child;
    int code = 0;
    try {
        PeerWatch watch(rank, size);
        if (!watch.start(invitation).empty()) _exit(3);
        work(watch);
    } catch (const Error& error) {
        code = static_cast<int>(error.code());
    }
    _exit(code);
}

int status_of(pid_t child) {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string loss(PeerWatch& watch) {
    try {
        watch.check(5);
    } catch (const Error& error) {
        CHECK(error.code() == ExitCode::peer);
        return error.what();
    }
    return "";
}

}  // namespace

TEST_SUITE("peer watch") {
    TEST_CASE("peer watch: who says goodbye is not lost") {
        PeerWatch watch(0, 3);
        const PeerWatch::Invitation invitation = watch.invite(true);
        const pid_t one = rank_process(1, 3, invitation, [](PeerWatch&) {}), two = rank_process(2, 3, invitation, [](PeerWatch&) {});
        CHECK(watch.start(invitation).empty());
        CHECK(status_of(one) == 0);
        CHECK(status_of(two) == 0);
        sleep_ms(100);
        CHECK(!watch.lost());
        watch.check();
    }

    TEST_CASE("peer watch: a killed process is named, to everybody") {
        for (const bool one_host : {true, false}) {
            PeerWatch watch(0, 3);
            const PeerWatch::Invitation invitation = watch.invite(one_host);
            if (invitation.addresses == 0) continue;  // a machine without a network
            const pid_t one = rank_process(1, 3, invitation, [](PeerWatch& w) {
                const std::string said = loss(w);
                if (said.find("rank 2 (host ") != 0 || said.find(") ended without a word") == std::string::npos) _exit(4);
            });
            const pid_t two = rank_process(2, 3, invitation, [](PeerWatch&) { std::raise(SIGKILL); });
            CHECK(watch.start(invitation).empty());
            CHECK(loss(watch).find(format(", process %d) ended without a word", two)) != std::string::npos);
            CHECK(status_of(two) == 128 + SIGKILL);
            CHECK(status_of(one) == 0);
        }
    }

    TEST_CASE("peer watch: last words come first, and what follows from them is not told") {
        PeerWatch watch(0, 3);
        const PeerWatch::Invitation invitation = watch.invite(true);
        const pid_t one = rank_process(1, 3, invitation, [](PeerWatch& w) {
            w.last_words("no room for the weights");
            sleep_ms(1000);  // it takes its time to end, and still does so by itself
            _exit(6);
        });
        const pid_t two = rank_process(2, 3, invitation, [](PeerWatch& w) { w.check(5); });
        CHECK(watch.start(invitation).empty());
        CHECK(loss(watch).find("failed: no room for the weights") != std::string::npos);
        CHECK(status_of(one) == 6);
        CHECK(status_of(two) == 7);
    }

    TEST_CASE("peer watch: a rank that does not look is ended") {
        PeerWatch watch(0, 2);
        const PeerWatch::Invitation invitation = watch.invite(true);
        const pid_t one = rank_process(1, 2, invitation, [](PeerWatch&) {
            close(STDERR_FILENO);
            sleep_ms(20'000);
        });
        CHECK(watch.start(invitation).empty());
        watch.last_words("rank 0 has failed");
        CHECK(status_of(one) == 7);
    }

    TEST_CASE("peer watch: a stranger at the door is sent away") {
        PeerWatch watch(0, 2);
        const PeerWatch::Invitation invitation = watch.invite(true);
        sockaddr_in to = {};
        to.sin_family = AF_INET, to.sin_addr.s_addr = invitation.address[0], to.sin_port = htons(invitation.port);
        const int stranger = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        REQUIRE(connect(stranger, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
        const std::string request(200, 'x');
        REQUIRE(send(stranger, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()));
        PeerWatch::Invitation wrong = invitation;
        wrong.token++;
        const pid_t of_another_run = rank_process(1, 2, wrong, [](PeerWatch&) {});
        sleep_ms(50);
        const pid_t one = rank_process(1, 2, invitation, [](PeerWatch&) {});
        CHECK(watch.start(invitation).empty());
        CHECK(status_of(of_another_run) == 3);
        CHECK(status_of(one) == 0);
        close(stranger);
    }
}

}  // namespace traincu::test
