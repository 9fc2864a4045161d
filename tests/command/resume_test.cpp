// Resuming: the same bits as a run that was never interrupted, whatever interrupted it.
#include "tests/support/cli.h"

namespace traincu::test {

namespace {

// Everything of a checkpoint that must be equal: weights and moments.
bool same_checkpoint(const TempDir& f, const std::string& a, const std::string& b) {
    return read_file(f / (a + "/model.safetensors")) == read_file(f / (b + "/model.safetensors")) &&
           read_file(f / (a + "/rank_0_of_1.bin")) == read_file(f / (b + "/rank_0_of_1.bin"));
}

// step -> loss, as logged; each step must appear once.
std::vector<double> losses(const TempDir& f, const std::string& run_dir) {
    std::vector<double> values;
    std::string line;
    for (std::stringstream lines(read_file(f / (run_dir + "/log.jsonl"))); std::getline(lines, line);)
        if (auto record = nlohmann::json::parse(line); record.contains("loss")) {
            values.push_back(record["loss"]);
            CHECK(record["step"] == values.size());
        }
    return values;
}

}  // namespace

TEST_SUITE("resume") {
    TEST_CASE("resume: from every step of a 20-step run, the same bits at the end") {
        TempDir f;
        make_corpus(f);
        const std::string common = tiny_run + "--max-steps 20 --total-batch-tokens 256 --batch-size 2 --val-every 7 --keep 0 ";
        REQUIRE(run(f, common + "--out whole --checkpoint-every 1").code == 0);
        for (int step = 1; step < 20; step++) {
            CAPTURE(step);
            char from[64];
            std::snprintf(from, sizeof from, "whole/step_%010d", step);
            const std::string out = "from" + std::to_string(step);
            REQUIRE(run(f, common + "--checkpoint-every 0 --out " + out + " --resume " + from).code == 0);
            CHECK(same_checkpoint(f, "whole/step_0000000020", out + "/step_0000000020"));
        }
    }

    TEST_CASE("resume: document packing and several epochs continue where they were") {
        TempDir f;
        make_corpus(f, 60);
        const std::string common = tiny_run + "--packing documents --max-steps 24 --checkpoint-every 5 --keep 0 ";
        REQUIRE(run(f, common + "--out whole").code == 0);
        REQUIRE(run(f, common + "--out part --resume whole/step_0000000015").code == 0);
        CHECK(same_checkpoint(f, "whole/step_0000000024", "part/step_0000000024"));
    }

    TEST_CASE("resume: a signal saves and exits 75; the continued run is the uninterrupted one, its log without gap or repeat") {
        TempDir f;
        make_corpus(f);
        const std::string common = tiny_run + "--max-steps 400 --val-every 100 ";
        REQUIRE(run(f, common + "--out whole").code == 0);
        for (const char* signal : {"TERM", "INT", "USR1"}) {
            CAPTURE(signal);
            const std::string out = std::string("cut_") + signal;
            Result cut = shell(f, "\"$TRAIN\" " + common + "--out " + out + " & pid=$!; while ! grep -q '\"step\":5,' " + out +
                                      "/log.jsonl 2>/dev/null; do sleep 0.02; done; kill -" + signal + " $pid; wait $pid");
            CHECK(cut.code == 75);
            CHECK(cut.says("--resume auto"));
            REQUIRE(run(f, common + "--resume auto --out " + out).code == 0);
            CHECK(same_checkpoint(f, "whole/step_0000000400", out + "/step_0000000400"));
            CHECK(losses(f, out) == losses(f, "whole"));
        }
    }

    TEST_CASE("resume: kill -9 in the middle of training loses nothing that was committed") {
        TempDir f;
        make_corpus(f);
        const std::string common = tiny_run + "--max-steps 300 --checkpoint-every 10 ";
        REQUIRE(run(f, common + "--out whole").code == 0);
        Result killed = shell(f, "\"$TRAIN\" " + common +
                                     "--out cut & pid=$!; while ! grep -q '\"step\":35,' cut/log.jsonl 2>/dev/null; do sleep 0.02; done; "
                                     "kill -9 $pid; wait $pid");
        CHECK(killed.code == 137);
        Result resumed = run(f, common + "--out cut --resume auto");
        REQUIRE(resumed.code == 0);
        CHECK(resumed.says("resumed from cut/step_00000"));
        CHECK(same_checkpoint(f, "whole/step_0000000300", "cut/step_0000000300"));
        CHECK(losses(f, "cut") == losses(f, "whole"));
    }

    TEST_CASE("resume: kill -9 at every crash point of a commit, then resume, gives the uninterrupted run") {
        TempDir f;
        make_corpus(f);
        const std::string common = tiny_run + "--max-steps 6 --checkpoint-every 2 --keep 2 ";
        REQUIRE(run(f, common + "--out whole").code == 0);
        for (const char* point :
             {"mkdir_tmp", "fsync_parent1", "open_r", "fallocate_r", "write_r", "fsync_r", "close_r", "open_man", "write_man", "fsync_man",
              "close_man", "fsync_tmp", "rename", "fsync_parent2", "retire_rename", "retire_fsync", "unlink"})
            for (const char* when : {"before", "after"}) {
                const std::string crash = std::string(point) + ":" + when, out = std::string(point) + "_" + when;
                CAPTURE(crash);
                CHECK(shell(f, "CRASH_AT=" + crash + " \"$TRAIN\" " + common + "--out " + out).code == 137);
                REQUIRE(run(f, common + "--out " + out + " --resume auto").code == 0);
                CHECK(same_checkpoint(f, "whole/step_0000000006", out + "/step_0000000006"));
                for (const auto& entry : fs::directory_iterator(f / out))
                    CHECK(entry.path().filename().string().rfind(".t", 0) != 0);  // no .tmp_, no .trash_
            }
    }

    TEST_CASE("resume: another model, other data, a damaged checkpoint, a second run") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out run --max-steps 4 --checkpoint-every 2").code == 0);
        Result changed = run(f, tiny_run + "--out run --max-steps 8 --n-layer 3 --seed 5 --resume auto");
        CHECK(changed.code == 4);
        CHECK(changed.says("--n-layer: 2 in the checkpoint, 3 now"));
        CHECK(changed.says("--seed"));
        Result again = run(f, tiny_run + "--out run --max-steps 8");
        CHECK(again.code == 2);
        CHECK(again.says("already holds a run, at step 4"));

        fs::copy(f / "text_train_000000.bin", f / "other.bin");
        Result other = run(f, "--preset tiny --data other.bin --out run --max-steps 8 --resume auto");
        CHECK(other.code == 3);
        CHECK(other.says("shards"));
        CHECK(run(f, "--preset tiny --data other.bin --out run --max-steps 5 --resume auto --allow-data-change").code == 0);

        // a flipped byte in the newest: it is passed over with its reason, the one before is used
        std::string model = read_file(f / "run/step_0000000005/model.safetensors");
        model[model.size() / 2] ^= 1;
        write_file(f / "run/step_0000000005/model.safetensors", model);
        Result fallen_back = run(f, tiny_run + "--out run --max-steps 4 --resume auto");
        CHECK(fallen_back.code == 0);
        CHECK(fallen_back.says("passed over"));
        CHECK(fallen_back.says("step_0000000004"));

        Result second =
            shell(f, "\"$TRAIN\" " + tiny_run +
                         "--out busy --max-steps 100000 & pid=$!; while [ ! -e busy/log.jsonl ]; do sleep 0.02; done; \"$TRAIN\" " +
                         tiny_run + "--out busy; code=$?; kill $pid; wait $pid; exit $code");
        CHECK(second.code == 9);
        CHECK(second.says("busy"));
    }

    TEST_CASE("resume: a checkpoint that cannot be written is a warning, three in a row are exit 8; the older one stays whole") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out run --max-steps 4").code == 0);
        const std::string before = read_file(f / "run/step_0000000004/rank_0_of_1.bin");
        // no file may grow beyond 64 KiB: the log can, a checkpoint cannot
        Result full = shell(f, "ulimit -f 128; \"$TRAIN\" " + tiny_run + "--out run --max-steps 40 --checkpoint-every 5 --resume auto");
        CHECK(full.code == 8);
        CHECK(full.says("warning: no checkpoint of step 5"));
        CHECK(full.says("warning: no checkpoint of step 10"));
        CHECK(full.verdict()["code"] == 8);
        CHECK(read_file(f / "run/step_0000000004/rank_0_of_1.bin") == before);
        Result resumed = run(f, tiny_run + "--out run --max-steps 20 --resume auto");
        CHECK(resumed.code == 0);
        CHECK(resumed.says("resumed from run/step_0000000004"));
    }

    TEST_CASE(
        "resume: what was due at the step of a stop is made up for: the log has the records of an uninterrupted run, in their order") {
        TempDir f;
        make_corpus(f, 40);
        const std::string common = tiny_run + "--max-steps 6 --val-every 2 --sample-every 3 ";
        // every record but checkpoints, without what depends on the clock
        auto records = [&](const std::string& run_dir) {
            std::vector<nlohmann::json> all;
            std::string line;
            for (std::stringstream lines(read_file(f / (run_dir + "/log.jsonl"))); std::getline(lines, line);) {
                auto record = nlohmann::json::parse(line);
                for (const char* key : {"time", "ms", "tok_per_s", "mfu", "gemm_fraction"}) record.erase(key);
                if (!record.contains("checkpoint")) all.push_back(record);
            }
            return all;
        };
        REQUIRE(run(f, common + "--out whole --checkpoint-every 2").code == 0);
        CHECK(records("whole").size() == 6 + 4 + 2);
        // no time at all: each start makes one step, and stops at it
        for (int step = 1; step < 6; step++) CHECK(run(f, common + "--out cut --resume auto --max-minutes 1e-9").code == 75);
        REQUIRE(run(f, common + "--out cut --resume auto").code == 0);
        CHECK(records("cut") == records("whole"));

        // a checkpoint that was saved in passing: what was due at its step is in the log already
        fs::remove_all(f / "whole/step_0000000006");
        REQUIRE(run(f, common + "--out whole --resume auto").code == 0);
        CHECK(records("whole") == records("cut"));
    }

    TEST_CASE("resume: --max-minutes saves and exits 75") {
        TempDir f;
        make_corpus(f);
        CHECK(run(f, tiny_run + "--out run --max-steps 1000000 --max-minutes 0.02").code == 75);
        CHECK(run(f, tiny_run + "--out run --max-steps 1000000 --max-minutes 0.02 --resume auto").code == 75);
    }

}  // TEST_SUITE
}  // namespace traincu::test
