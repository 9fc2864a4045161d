#include "tests/checkpoint/fixture.h"
#include "tests/faults/simdisk.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// The commits of the simulated run: number -> step. Step 30 comes twice (the run went back and came by again).
const std::vector<int64_t> commit_steps = {10, 20, 30, 30, 40};

std::string content_of(int commit) {
    std::string text;
    for (int i = 0; text.size() < 5000; i++) text += std::to_string(commit * 100000 + i);
    return text;
}

void commit(SimDisk& disk, const std::string& run_dir, int number) {
    const std::string big = content_of(number), small = "commit " + std::to_string(number);
    std::vector<CheckpointFile> files = {
        {"big.bin", static_cast<int64_t>(big.size()), [&](FileWriter& file) { file.append(big.data(), static_cast<int64_t>(big.size())); }},
        {"small.bin", static_cast<int64_t>(small.size()),
         [&](FileWriter& file) { file.append(small.data(), static_cast<int64_t>(small.size())); }}};
    int64_t step = commit_steps[static_cast<size_t>(number)];
    commit_checkpoint(disk, run_dir, step, files, {{"schema", 1}, {"step", step}});
    disk.acknowledge(number);
}

// Writes the state to a real folder and starts there. Empty, or what is wrong.
std::string violation(const CrashState& state, int acknowledged) {
    TempDir dir;
    for (auto& [name, files] : state.checkpoints) {
        fs::create_directory(dir / name);
        for (auto& [file, content] : files) write_file(dir / (name + "/" + file), content);
    }
    for (const std::string& name : state.others) fs::create_directory(dir / (name + "_0"));
    if (std::string damage = damage_in(dir.path); !damage.empty()) return "something that is called a checkpoint is not whole: " + damage;
    auto found = newest_checkpoint(dir.path, ignore);
    int64_t promised = acknowledged < 0 ? -1 : commit_steps[static_cast<size_t>(acknowledged)];
    if ((found ? found->step : -1) < promised) return "step " + std::to_string(promised) + " was acknowledged and is lost";
    if (found) {
        const std::string small = read_file(found->path + "/small.bin");
        int number = small.size() == 8 ? small[7] - '0' : -1;
        if (number < 0 || commit_steps[static_cast<size_t>(number)] != found->step ||
            read_file(found->path + "/big.bin") != content_of(number))
            return "the content is not what was written";
        if (found->step == promised && number < acknowledged) return "an older version of the acknowledged step came back";
    }
    RealIo io;
    retain_checkpoints(io, dir.path, 0);
    auto again = newest_checkpoint(dir.path, ignore);
    if ((again ? again->step : -1) != (found ? found->step : -1)) return "the second start finds something else";
    for (const std::string& name : names_in(dir.path))
        if (name[0] == '.') return "leftovers: " + name;
    return "";
}

// All states of a moment if they are at most 4096. The protocol as it is never has more; its mutants have, and are found out early.
struct Effort {
    int64_t exhaustive = 4096;
    int deviations = 3;
    int64_t samples = 10000;
};

struct Exploration {
    int64_t crash_moments = 0, states = 0, distinct = 0, violations = 0;
    std::string first;
};

// Cuts the power after every call of the log, from `begin` on.
Exploration explore(const std::vector<DiskOp>& log, const Effort& effort, size_t begin = 0, int64_t stop_after = 1) {
    Exploration result;
    DiskModel model;
    int acknowledged = -1;
    std::set<std::pair<CrashState, int>> seen;
    for (size_t at = 0; at <= log.size(); at++) {
        if (at > 0) {
            const DiskOp& op = log[at - 1];
            if (op.acknowledged >= 0)
                acknowledged = op.acknowledged;
            else
                model.apply(op);
        }
        if (at < begin) continue;
        result.crash_moments++;
        result.states += for_each_answer(model.questions(), effort.exhaustive, effort.deviations, effort.samples, at,
                                         [&](const std::vector<int>& answers) {
                                             if (result.violations >= stop_after) return;
                                             CrashState state = model.state(answers);
                                             if (!seen.insert({state, acknowledged}).second) return;
                                             std::string wrong = violation(state, acknowledged);
                                             if (wrong.empty()) return;
                                             result.violations++;
                                             if (result.first.empty())
                                                 result.first = "after call " + std::to_string(at) + " (" +
                                                                name_of(at > 0 ? log[at - 1].point : CrashPoint::mkdir_tmp) + "): " + wrong;
                                         });
    }
    result.distinct = static_cast<int64_t>(seen.size());
    return result;
}

std::vector<DiskOp> record(int64_t fail_sync = -1) {
    TempDir dir;
    SimDisk disk(dir.path);
    disk.fail_sync = fail_sync;
    for (int number = 0; number < static_cast<int>(commit_steps.size()); number++) {
        commit(disk, dir.path, number);
        retain_checkpoints(disk, dir.path, 2);
    }
    return disk.log;
}

std::vector<DiskOp> without(const std::vector<DiskOp>& log, CrashPoint point) {
    std::vector<DiskOp> result;
    for (const DiskOp& op : log)
        if (op.acknowledged >= 0 || op.point != point) result.push_back(op);
    return result;
}

// Old checkpoints are emptied under their own name.
std::vector<DiskOp> without_retire_rename(const std::vector<DiskOp>& log) {
    std::vector<DiskOp> result;
    std::map<std::string, std::string> original;
    for (DiskOp op : log) {
        if (op.acknowledged < 0 && op.point == CrashPoint::retire_rename) {
            original[op.to] = op.path;
            continue;
        }
        for (auto& [trash, name] : original)
            if (op.path.rfind(trash, 0) == 0) op.path = name + op.path.substr(trash.size());
        result.push_back(op);
    }
    return result;
}

// The folder gets its final name before its manifest is written.
std::vector<DiskOp> rename_before_manifest(const std::vector<DiskOp>& log) {
    std::vector<DiskOp> result;
    size_t manifest_opened = 0;
    for (const DiskOp& op : log) {
        if (op.acknowledged < 0 && op.point == CrashPoint::open_man) manifest_opened = result.size();
        if (op.acknowledged < 0 && op.kind == IoCall::rename_new && op.point == CrashPoint::rename) {
            for (size_t i = manifest_opened; i < result.size(); i++)
                if (result[i].path.rfind(op.path, 0) == 0) result[i].path = op.to + result[i].path.substr(op.path.size());
            result.insert(result.begin() + static_cast<std::ptrdiff_t>(manifest_opened), op);
        } else {
            result.push_back(op);
        }
    }
    return result;
}

void check_power_cuts() {
    const Effort effort;
    Exploration whole = explore(record(), effort);
    CHECK_MESSAGE(whole.violations == 0, whole.first);
    CHECK(whole.distinct > 10);

    int64_t states = whole.states, moments = whole.crash_moments, violations = whole.violations;
    for (int64_t failing : {0, 2, 5, 8, 9, 10, 11}) {  // data files and manifests of first, middle and replacing commits
        Exploration failed = explore(record(failing), effort);
        CHECK_MESSAGE(failed.violations == 0, failed.first);
        states += failed.states, moments += failed.crash_moments, violations += failed.violations;
    }
    MESSAGE(moments << " power cuts, " << states << " disk states, " << violations << " violations");
}

void check_recovery() {
    const Effort effort;
    // Killed at every call of the replacing commit and its retention; then the power fails while the next start clears up and commits.
    int64_t states = 0, kills = 0;
    for (int64_t kill_at = 0;; kill_at++) {
        TempDir dir;
        SimDisk disk(dir.path);
        for (int number : {0, 1, 2}) commit(disk, dir.path, number);
        disk.calls = 0, disk.kill_at = kill_at;
        try {
            commit(disk, dir.path, 3);
            retain_checkpoints(disk, dir.path, 2);
        } catch (const Error&) {  // the dead disk's answer; the process would be gone
        }
        bool killed = disk.calls > kill_at;
        if (!killed) break;
        size_t begin = disk.log.size();
        disk.revive();
        retain_checkpoints(disk, dir.path, 0);
        commit(disk, dir.path, 4);
        retain_checkpoints(disk, dir.path, 2);
        Exploration result = explore(disk.log, effort, begin);
        CHECK_MESSAGE(result.violations == 0, result.first);
        states += result.states, kills++;
    }
    CHECK(kills > 20);
    MESSAGE(kills << " kills, then " << states << " disk states of the start after it");
}

}  // namespace

TEST_SUITE("power loss") {
    TEST_CASE("power loss: at every call, whatever the disk kept, every acknowledged commit is found whole") { check_power_cuts(); }

    TEST_CASE("power loss: also while the start after a kill clears up") { check_recovery(); }

    TEST_CASE("power loss: the simulator sees it when a step of the protocol is missing") {
        const std::vector<DiskOp> log = record();
        const Effort effort;
        for (CrashPoint point :
             {CrashPoint::fsync_r, CrashPoint::fsync_man, CrashPoint::fsync_tmp, CrashPoint::fsync_parent2, CrashPoint::retire_fsync}) {
            Exploration result = explore(without(log, point), effort);
            CHECK_MESSAGE(result.violations > 0, std::string(name_of(point)));
            MESSAGE("without " << std::string(name_of(point)) << ": " << result.first);
        }
        Exploration early = explore(rename_before_manifest(log), effort);
        CHECK(early.violations > 0);
        MESSAGE("rename before the manifest: " << early.first);
        Exploration in_place = explore(without_retire_rename(log), effort);
        CHECK(in_place.violations > 0);
        MESSAGE("removal without rename: " << in_place.first);
        // The first fsync of the run's folder is not needed for safety: the second covers both names. It only finds a sick disk early.
        CHECK(explore(without(log, CrashPoint::fsync_parent1), effort).violations == 0);
    }
}
