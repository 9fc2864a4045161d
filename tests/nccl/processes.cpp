#include "tests/nccl/processes.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "src/base/error.h"

namespace traincu::nccl_standin {

namespace {

std::string read_all(int file) {
    std::string text;
    char piece[4096];
    for (ssize_t count; (count = ::read(file, piece, sizeof piece)) > 0;) text.append(piece, static_cast<size_t>(count));
    ::close(file);
    return text;
}

}  // namespace

std::vector<Ended> on_processes(int ranks, const std::function<std::string(int rank)>& body) {
    struct Child {
        pid_t pid;
        int said, errors;
    };
    std::vector<Child> children;
    std::fflush(nullptr);
    for (int rank = 0; rank < ranks; rank++) {
        std::array<int, 2> said{}, errors{};
        ENSURE(::pipe(said.data()) == 0 && ::pipe(errors.data()) == 0);
        const pid_t pid = ::fork();
        ENSURE(pid >= 0);
        if (pid == 0) {
            ::alarm(60);
            ::dup2(errors[1], STDERR_FILENO);
            std::string text;
            try {
                text = body(rank);
            } catch (const std::exception& error) {
                text = error.what();
            }
            const ssize_t written = ::write(said[1], text.data(), text.size());
            _exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
        }
        ::close(said[1]), ::close(errors[1]);
        children.push_back({pid, said[0], errors[0]});
    }
    std::vector<Ended> all;
    for (const Child& child : children) {
        Ended ended;
        ended.said = read_all(child.said);
        ended.errors = read_all(child.errors);
        int status = 0;
        ::waitpid(child.pid, &status, 0);
        ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        all.push_back(ended);
    }
    return all;
}

}  // namespace traincu::nccl_standin
