#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/checkpoint/lock.h"
#include "tests/checkpoint/fixture.h"
#include "tests/faults/fault_io.h"

using namespace traincu;
using namespace traincu::test;

namespace {

int open_descriptors() { return static_cast<int>(std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator{})); }

bool has_leftovers(const std::string& run_dir) {
    for (const std::string& name : names_in(run_dir))
        if (name[0] == '.') return true;
    return false;
}

struct Models {
    Arenas older{small_model("llama")}, newer{small_model("llama")}, restored{small_model("llama")};
    Models() { older.fill(1), newer.fill(2); }
    bool holds(const FoundCheckpoint& found, const Arenas& expected) {
        read_checkpoint(found, restored.config, restored.table, restored.params, restored.m, restored.v);
        return restored.same_bits(expected);
    }
};

// Runs `body` in a child; its exit code, or 1000 + the signal that ended it.
int in_child(const std::function<int()>& body) {
    std::fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        int code = 99;
        try {
            code = body();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "child: %s\n", error.what());
        }
        _exit(code);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace

TEST_SUITE("io faults") {
    TEST_CASE("io faults: one failing call, whichever and however, and the checkpoint is committed or the older one intact") {
        Models models;
        int injected = 0, recovered = 0, reported = 0;
        for (int fault : {EIO, ENOSPC, EDQUOT, EFBIG, EACCES, EROFS, EINTR, ENOENT, static_cast<int>(FaultIo::short_write)}) {
            for (int64_t nth = 1;; nth++) {
                TempDir dir;
                RealIo real;
                save(real, dir.path, 10, models.older);
                FaultIo io(nth, fault);
                int descriptors = open_descriptors();
                bool committed = true;
                try {
                    save(io, dir.path, 20, models.newer);
                } catch (const Error& error) {
                    committed = false;
                    CHECK(error.code() == ExitCode::io);
                    CHECK_FALSE(error.remedy().empty());
                }
                if (!io.fired() && nth > io.calls()) break;
                injected += io.fired(), recovered += io.fired() && committed, reported += !committed;
                CHECK(open_descriptors() == descriptors);
                if (fault == EINTR || fault == FaultIo::short_write) CHECK(committed);
                std::string reasons;
                auto found = newest_checkpoint(dir.path, [&](const std::string& reason) { reasons += reason; });
                REQUIRE(found);
                CHECK_MESSAGE(reasons.empty(), reasons);
                if (committed) CHECK(found->step == 20);
                CHECK(models.holds(*found, found->step == 20 ? models.newer : models.older));
                CHECK(models.holds(open_checkpoint(dir / "step_0000000010"), models.older));
                if (committed && fault != ENOENT) CHECK(names_in(dir.path).size() <= 3);
                retain_checkpoints(real, dir.path, 0);
                CHECK_FALSE(has_leftovers(dir.path));
            }
        }
        CHECK(injected > 200);
        CHECK(recovered > 0);
        MESSAGE(injected << " single faults: " << recovered << " survived by retrying, " << reported << " reported");
    }

    TEST_CASE("io faults: a disk that fails for good, from any call on, is reported and harms nothing") {
        Models models;
        int injected = 0;
        for (int fault : {EIO, ENOSPC, EDQUOT, EROFS}) {
            for (int64_t nth = 1;; nth++) {
                TempDir dir;
                RealIo real;
                save(real, dir.path, 10, models.older);
                FaultIo io(nth, fault, FaultIo::from_then_on);
                int descriptors = open_descriptors();
                bool committed = true;
                try {
                    save(io, dir.path, 20, models.newer);
                } catch (const Error& error) {
                    committed = false;
                    CHECK(error.code() == ExitCode::io);
                }
                if (!io.fired()) break;
                injected++;
                CHECK_FALSE(committed);
                CHECK(open_descriptors() == descriptors);
                CHECK(models.holds(open_checkpoint(dir / "step_0000000010"), models.older));
                retain_checkpoints(real, dir.path, 0);
                CHECK_FALSE(has_leftovers(dir.path));
                auto found = newest_checkpoint(dir.path, ignore);
                REQUIRE(found);
                CHECK(models.holds(*found, found->step == 20 ? models.newer : models.older));
            }
        }
        CHECK(injected >= 4 * 20);
    }

    TEST_CASE("io faults: a replaced checkpoint survives every single and lasting fault of its replacement") {
        Models models;
        for (FaultIo::Mode mode : {FaultIo::once, FaultIo::from_then_on})
            for (int64_t nth = 1;; nth++) {
                TempDir dir;
                RealIo real;
                save(real, dir.path, 10, models.older);
                FaultIo io(nth, EIO, mode);
                bool committed = true;
                try {
                    save(io, dir.path, 10, models.newer);
                } catch (const Error&) {
                    committed = false;
                }
                if (!io.fired()) break;
                auto found = newest_checkpoint(dir.path, ignore);
                REQUIRE(found);
                CHECK((models.holds(*found, models.newer) || (!committed && models.holds(*found, models.older))));
                retain_checkpoints(real, dir.path, 0);
                CHECK(names_in(dir.path).size() == 1);
                REQUIRE(newest_checkpoint(dir.path, ignore));
            }
    }

    TEST_CASE("io faults: whatever fails in retention, the newest two stay, and the next start clears up") {
        Models models;
        for (int fault : {EIO, EACCES})
            for (int64_t nth = 1;; nth++) {
                TempDir dir;
                RealIo real;
                for (int64_t step : {10, 20, 30, 40}) save(real, dir.path, step, step == 40 ? models.newer : models.older);
                fs::copy(dir / "step_0000000010", dir / ".tmp_step_0000000041_00");
                FaultIo io(nth, fault);
                bool failed = false;
                try {
                    retain_checkpoints(io, dir.path, 2);
                } catch (const Error& error) {
                    failed = true;
                    CHECK(error.code() == ExitCode::io);
                }
                if (!io.fired()) break;
                CHECK(failed);
                CHECK(models.holds(open_checkpoint(dir / "step_0000000040"), models.newer));
                CHECK(models.holds(open_checkpoint(dir / "step_0000000030"), models.older));
                retain_checkpoints(real, dir.path, 2);
                CHECK(names_in(dir.path) == std::vector<std::string>{"step_0000000030", "step_0000000040"});
            }
    }

    TEST_CASE("io faults: too little free space is refused before anything is written, with both figures") {
        class FullDisk : public RealIo {
        protected:
            int64_t perform(const IoCall& call) override {
                if (call.kind == IoCall::free_space) return 12345;
                writes_ += call.kind == IoCall::make_dir || call.kind == IoCall::open_new;
                return RealIo::perform(call);
            }

        public:
            int writes_ = 0;
        };
        TempDir dir;
        FullDisk io;
        Models models;
        Error error = error_of([&] { save(io, dir.path, 20, models.newer); });
        CHECK(error.code() == ExitCode::io);
        CHECK(std::string(error.what()).find("12345 bytes) free") != std::string::npos);
        CHECK(std::string(error.what()).find(" needed") != std::string::npos);
        CHECK(io.writes_ == 0);
        CHECK(names_in(dir.path).empty());
    }

    TEST_CASE("io faults: a real file size limit (ulimit -f) is an Error(io) with both figures, not a signal") {
        TempDir dir;
        Models models;
        RealIo real;
        save(real, dir.path, 10, models.older);
        for (rlim_t limit : {rlim_t{0}, rlim_t{100}, rlim_t{4096}, rlim_t{20000}}) {
            int code = in_child([&] {
                rlimit lower{limit, limit};
                if (setrlimit(RLIMIT_FSIZE, &lower) != 0) return 98;
                RealIo io;
                try {
                    save(io, dir.path, 20, models.newer);
                } catch (const Error& error) {
                    bool told = std::string(error.what()).find("needed") != std::string::npos &&
                                std::string(error.what()).find("free") != std::string::npos;
                    return error.code() == ExitCode::io && told ? 8 : 97;
                }
                return 0;
            });
            CHECK(code == 8);
            CHECK(names_in(dir.path).size() == 1);
            CHECK(models.holds(newest_checkpoint(dir.path, ignore).value(), models.older));
        }
    }

    TEST_CASE("io faults: a really full disk (a small tmpfs) is an Error(io), and the older checkpoint stays") {
        TempDir dir;
        const uid_t user = getuid();
        const gid_t group = getgid();
        int code = in_child([&] {
            if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 50;
            std::ofstream("/proc/self/setgroups") << "deny";
            std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
            std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
            // Room for one checkpoint and the margin of the preflight, but not for two; then for the margin, but full underneath.
            if (mount("tmpfs", dir.path.c_str(), "tmpfs", 0, "size=1600k") != 0) return 50;
            Models models;
            RealIo io;
            save(io, dir.path, 10, models.older);
            write_file(dir / "filler", std::string(300 << 10, 'x'));
            class BlindIo : public RealIo {  // the preflight sees room that is not there: another user was faster
            protected:
                int64_t perform(const IoCall& call) override {
                    return call.kind == IoCall::free_space ? int64_t{1} << 40 : RealIo::perform(call);
                }
            };
            for (int blocks = 0; blocks < 400; blocks += 3) {  // the disk fills up 12 KiB at a time: it ends in every call once
                std::ofstream(dir / "filler", std::ios::app) << std::string(12 << 10, 'x');
                BlindIo blind;
                try {
                    save(blind, dir.path, 20, models.newer);
                    fs::remove_all(dir / "step_0000000020");
                } catch (const Error& error) {
                    if (error.code() != ExitCode::io || std::string(error.what()).find("needed") == std::string::npos) return 10;
                    if (has_leftovers(dir.path)) return 11;
                }
                auto found = newest_checkpoint(dir.path, ignore);
                if (!found || found->step != 10 || !models.holds(*found, models.older)) return 12;
            }
            try {
                save(io, dir.path, 20, models.newer);
            } catch (const Error& error) {
                return error.code() == ExitCode::io ? 0 : 13;
            }
            return 14;
        });
        if (code == 50)
            MESSAGE("skipped: this machine lets nobody mount a tmpfs in a user namespace");
        else
            CHECK(code == 0);
    }

    TEST_CASE("io faults: a folder that is read-only, gone, or a file is Error(io) naming it") {
        TempDir dir;
        Models models;
        RealIo io;
        write_file(dir / "file", "x");
        for (const std::string& place : {dir / "gone", dir / "file"}) {
            Error error = error_of([&] { save(io, place, 20, models.newer); });
            CHECK(error.code() == ExitCode::io);
            CHECK(std::string(error.what()).find(place) != std::string::npos);
        }
        if (geteuid() == 0) {
            MESSAGE("skipped for root: a read-only folder");
        } else {
            fs::create_directory(dir / "locked");
            fs::permissions(dir / "locked", fs::perms::owner_read | fs::perms::owner_exec);
            CHECK(error_of([&] { save(io, dir / "locked", 20, models.newer); }).code() == ExitCode::io);
        }
    }

    TEST_CASE("io faults: failing calls while the lock is taken are reported; the lock is free afterwards") {
        for (int fault : {EIO, ENOSPC})
            for (int64_t nth = 1; nth <= 4; nth++) {
                TempDir dir;
                int descriptors = open_descriptors();
                try {
                    RunLock lock(dir.path, std::make_unique<FaultIo>(nth, fault));
                    CHECK(nth == 2);  // "no locks here": the other kind of lock is taken
                } catch (const Error& error) {
                    CHECK(error.code() == ExitCode::io);
                }
                CHECK(open_descriptors() == descriptors);
                CHECK_NOTHROW(RunLock(dir.path));
            }
    }
}
