#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "src/checkpoint/lock.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

// A disk that knows no locks, as some network file systems.
class LocklessIo : public RealIo {
protected:
    int64_t perform(const IoCall& call) override { return call.kind == IoCall::lock ? -ENOLCK : RealIo::perform(call); }
};
static std::unique_ptr<Io> disk(bool lockless) { return lockless ? std::make_unique<LocklessIo>() : std::make_unique<RealIo>(); }

// A process that holds the lock until it is told to end: by exit (the lock is dropped) or by a kill.
class Holder {
public:
    Holder(const std::string& run_dir, bool lockless) {
        int ready[2], go[2];
        REQUIRE(pipe(ready) == 0);
        REQUIRE(pipe(go) == 0);
        pid = fork();
        if (pid == 0) {
            ::close(go[1]);  // else it would wait for itself
            char byte = 'n';
            try {
                RunLock lock(run_dir, disk(lockless));
                byte = 'y';
                if (::write(ready[1], &byte, 1) != 1 || ::read(go[0], &byte, 1) < 0) _exit(2);
            } catch (const Error&) {
                if (::write(ready[1], &byte, 1) != 1) _exit(2);
            }
            _exit(0);
        }
        char byte = 0;
        REQUIRE(::read(ready[0], &byte, 1) == 1);
        holds = byte == 'y';
        ::close(ready[0]), ::close(ready[1]), ::close(go[0]);
        go_ = go[1];
    }
    ~Holder() { end(false); }
    void end(bool by_kill) {
        if (pid <= 0) return;
        if (by_kill) kill(pid, SIGKILL);
        ::close(go_);
        int status;
        waitpid(pid, &status, 0);
        pid = 0;
    }
    pid_t pid = 0;
    bool holds = false;

private:
    int go_ = -1;
};

TEST_SUITE("lock") {
    TEST_CASE("lock: a second run is refused and told who has the folder; a clean end frees it") {
        for (bool lockless : {false, true}) {
            CAPTURE(lockless);
            TempDir dir;
            Holder first(dir.path, lockless);
            REQUIRE(first.holds);
            Error error = error_of([&] { RunLock(dir.path, disk(lockless)); });
            CHECK(error.code() == ExitCode::locked);
            CHECK_MESSAGE(std::string(error.what()).find("process " + std::to_string(first.pid)) != std::string::npos, error.what());
            char host[256] = {};
            gethostname(host, sizeof host - 1);
            CHECK(std::string(error.what()).find(host) != std::string::npos);
            CHECK_FALSE(Holder(dir.path, lockless).holds);
            first.end(false);
            CHECK_NOTHROW(RunLock(dir.path, disk(lockless)));
            CHECK_NOTHROW(RunLock(dir.path, disk(lockless)));
        }
    }

    TEST_CASE("lock: one left by a killed process of this machine is taken over") {
        for (bool lockless : {false, true}) {
            TempDir dir;
            Holder first(dir.path, lockless);
            REQUIRE(first.holds);
            first.end(true);
            CHECK(Holder(dir.path, lockless).holds);
        }
    }

    TEST_CASE("lock: without locks, an owner on another machine is never presumed dead, one before the last boot is") {
        TempDir dir;
        write_file(dir / "LOCK.owner", R"({"host":"elsewhere","pid":1,"boot_id":"b","nonce":"n"})");
        Error error = error_of([&] { RunLock(dir.path, disk(true)); });
        CHECK(error.code() == ExitCode::locked);
        CHECK(std::string(error.what()).find("elsewhere") != std::string::npos);
        CHECK(error.remedy().find("remove") != std::string::npos);
        char host[256] = {};
        gethostname(host, sizeof host - 1);
        write_file(dir / "LOCK.owner", std::string(R"({"host":")") + host + R"(","pid":1,"boot_id":"an earlier one","nonce":"n"})");
        CHECK_NOTHROW(RunLock(dir.path, disk(true)));
        for (const char* odd : {"", "{", "[1]", "{\"pid\":\"x\"}", "{\"pid\":1e99,\"host\":3}"}) {
            write_file(dir / "LOCK.owner", odd);
            CHECK(error_of([&] { RunLock(dir.path, disk(true)); }).code() == ExitCode::locked);
        }
    }

    TEST_CASE("lock: with locks, whatever LOCK says is only a name: the kernel decides") {
        TempDir dir;
        for (const char* odd : {"", "{", "[1]", "{\"host\":\"elsewhere\",\"pid\":1}", "\xFF\xFE"}) {
            write_file(dir / "LOCK", odd);
            RunLock lock(dir.path);
            CHECK(lock.owner().pid == getpid());
            CHECK(read_file(dir / "LOCK").find(lock.owner().nonce) != std::string::npos);
        }
        CHECK(read_file(dir / "LOCK").empty());
    }

    TEST_CASE("lock: a folder that is missing, a file, or a link is Error(io) naming it") {
        TempDir dir;
        write_file(dir / "file", "x");
        for (const std::string& place : {dir / "nowhere", dir / "file"}) {
            Error error = error_of([&] { RunLock lock(place); });
            CHECK(error.code() == ExitCode::io);
            CHECK(std::string(error.what()).find(place) != std::string::npos);
        }
        fs::create_symlink(dir / "file", dir / "LOCK");
        CHECK(error_of([&] { RunLock lock(dir.path); }).code() == ExitCode::io);
        CHECK(read_file(dir / "file") == "x");
    }
}
