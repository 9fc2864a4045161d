#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/checkpoint/lock.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// As small as a model gets: its folder is written hundreds of times here.
ModelConfig tiny_model() {
    ModelConfig c;
    c.n_layer = c.n_head = c.n_kv_head = 1, c.head_size = c.d_model = 2, c.d_ff = 3, c.vocab_size = 5, c.max_seq_len = 3;
    return c;
}

constexpr int64_t seed_of(int64_t step) { return 100 + step; }

// What a run does to its folder: lock, clear up, checkpoints with retention, one of them a second time. Every step whose commit was
// acknowledged goes into the pipe: that is what the user was told.
void run_like(const std::string& run_dir, int acknowledge, Io& io) {
    Arenas arenas(tiny_model());
    RunLock lock(run_dir);
    retain_checkpoints(io, run_dir, 0);
    for (int64_t step : {10, 20, 30, 30}) {
        save(io, run_dir, step, arenas.fill(static_cast<uint64_t>(seed_of(step))));
        if (write(acknowledge, &step, sizeof step) != sizeof step) _exit(90);
        retain_checkpoints(io, run_dir, 2);
    }
}

struct Crash {
    bool killed = false;
    int64_t acknowledged = -1;
};

Crash crash_run(const std::string& run_dir, const std::string& crash_at) {
    int channel[2];
    REQUIRE(pipe(channel) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("CRASH_AT", crash_at.c_str(), 1);
        try {
            RealIo io;
            run_like(run_dir, channel[1], io);
        } catch (const std::exception&) {
            _exit(91);
        }
        _exit(0);
    }
    close(channel[1]);
    Crash crash;
    int64_t step;
    while (read(channel[0], &step, sizeof step) == sizeof step) crash.acknowledged = step;
    close(channel[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    crash.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!crash.killed) CHECK(WEXITSTATUS(status) == 0);
    return crash;
}

}  // namespace

TEST_SUITE("crash points") {
    TEST_CASE("crash points: killed before or after every single call, a run is found again with what it was told was kept") {
        // How often each point is passed: counted in a run that is not killed. The lock counts for itself, so its points are tried until
        // none fires.
        RealIo counter;
        {
            TempDir dir;
            int sink[2];
            REQUIRE(pipe(sink) == 0);
            run_like(dir.path, sink[1], counter);
            close(sink[0]), close(sink[1]);
        }
        int kills = 0;
        std::vector<std::string> never_passed;
        for (size_t i = 0; i < crash_point_names.size(); i++) {
            const CrashPoint point = static_cast<CrashPoint>(i);
            const bool of_lock = point == CrashPoint::lock_take || point == CrashPoint::lock_drop;
            int here = 0;
            for (int64_t pass = 1; of_lock || pass <= counter.passes(point); pass++) {
                bool killed = false;
                for (const char* when : {"before", "after"}) {
                    TempDir dir;
                    const std::string crash_at = std::string(crash_point_names[i]) + ":" + when + ":" + std::to_string(pass);
                    CAPTURE(crash_at);
                    Crash crash = crash_run(dir.path, crash_at);
                    killed = crash.killed;
                    if (!killed) break;
                    here++;
                    auto found = newest_checkpoint(dir.path, ignore);
                    CHECK(damage_in(dir.path) == "");  // whatever is called a checkpoint is a whole one
                    CHECK((found ? found->step : -1) >= crash.acknowledged);
                    Arenas expected(tiny_model()), restored(tiny_model());
                    if (found) {
                        read_checkpoint(*found, restored.config, restored.table, restored.params, restored.m, restored.v);
                        CHECK(restored.same_bits(expected.fill(static_cast<uint64_t>(seed_of(found->step)))));
                    }
                    // The next start: the lock is free, the leftovers go, the answer is the same.
                    RealIo io;
                    RunLock lock(dir.path);
                    retain_checkpoints(io, dir.path, 0);
                    for (const std::string& name : names_in(dir.path)) CHECK_MESSAGE((name == "LOCK" || name.rfind("step_", 0) == 0), name);
                    auto again = newest_checkpoint(dir.path, ignore);
                    CHECK((again ? again->step : -1) == (found ? found->step : -1));
                }
                if (!killed) break;
            }
            if (here == 0) never_passed.push_back(crash_point_names[i]);
            kills += here;
        }
        CHECK_MESSAGE(never_passed.empty(), never_passed.front());  // a point in the table that no call passes
        CHECK(kills > 200);
        MESSAGE(kills << " kills at " << crash_point_names.size() << " points");
    }

    TEST_CASE("crash points: a kill while the next start clears up loses nothing") {
        for (const char* first : {"write_r:before:8", "rename:after:4", "retire_fsync:after", "unlink:after:2"})
            for (const char* point : {"retire_fsync", "unlink"})
                for (const char* when : {"before", "after"})
                    for (int pass = 1; pass <= 3; pass += 2) {
                        TempDir dir;
                        Crash crash = crash_run(dir.path, first);
                        REQUIRE(crash.killed);
                        auto before = newest_checkpoint(dir.path, ignore);
                        pid_t pid = fork();
                        if (pid == 0) {
                            setenv("CRASH_AT", (std::string(point) + ":" + when + ":" + std::to_string(pass)).c_str(), 1);
                            try {
                                RealIo io;
                                retain_checkpoints(io, dir.path, 0);
                            } catch (const std::exception&) {
                                _exit(91);
                            }
                            _exit(0);
                        }
                        int status = 0;
                        waitpid(pid, &status, 0);
                        CHECK((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
                        CHECK(damage_in(dir.path) == "");
                        auto after = newest_checkpoint(dir.path, ignore);
                        CHECK((after ? after->step : -1) == (before ? before->step : -1));
                        RealIo io;
                        retain_checkpoints(io, dir.path, 0);
                        for (const std::string& name : names_in(dir.path))
                            CHECK_MESSAGE((name == "LOCK" || name.rfind("step_", 0) == 0), name);
                    }
    }

    TEST_CASE("crash points: CRASH_AT is checked, and every point has its own name") {
        for (size_t i = 0; i < crash_point_names.size(); i++)
            for (size_t j = 0; j < i; j++) CHECK(std::string(crash_point_names[i]) != crash_point_names[j]);
        for (const char* wrong :
             {"nowhere", "rename:sometimes", "rename:0", "rename:-1", "rename:1x", ":", "rename:before:99999999999999999999"}) {
            setenv("CRASH_AT", wrong, 1);
            CHECK_MESSAGE(error_of([] { RealIo io; }).code() == ExitCode::usage, wrong);
        }
        setenv("CRASH_AT", "rename:after:3", 1);
        CHECK_NOTHROW(RealIo());
        unsetenv("CRASH_AT");
    }
}

TEST_SUITE("long crash points") {
    TEST_CASE("crash points: killed at 200 random moments, nothing that was acknowledged is lost") {
        Random random{42, RandomStream::sampling};
        int kills = 0;
        for (uint32_t round = 0; kills < 200 && round < 2000; round++) {
            TempDir dir;
            int channel[2];
            REQUIRE(pipe(channel) == 0);
            pid_t pid = fork();
            if (pid == 0) {
                RealIo io;
                run_like(dir.path, channel[1], io);
                _exit(0);
            }
            close(channel[1]);
            usleep(static_cast<useconds_t>(random.below(12000, round, 0)));
            kill(pid, SIGKILL);
            int64_t step, acknowledged = -1;
            while (read(channel[0], &step, sizeof step) == sizeof step) acknowledged = step;
            close(channel[0]);
            int status = 0;
            waitpid(pid, &status, 0);
            kills += WIFSIGNALED(status);
            auto found = newest_checkpoint(dir.path, ignore);
            CHECK(damage_in(dir.path) == "");
            CHECK((found ? found->step : -1) >= acknowledged);
        }
        CHECK(kills == 200);
        MESSAGE(kills << " random kills");
    }
}
