// The directory of a run: who owns it, what it resumes from, and run.json, which can repeat it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "src/checkpoint/commit.h"
#include "src/checkpoint/lock.h"
#include "src/config/options.h"

namespace traincu {

struct RunDirectory {
    std::string path;
    std::unique_ptr<RunLock> lock;
    std::optional<FoundCheckpoint> checkpoint;  // the one to resume from, by --resume

    bool resumes() const { return checkpoint.has_value(); }
    // What the checkpoint keeps beside weights and moments: counters, data cursor, guard, options, tokenizer.
    const nlohmann::ordered_json& meta() const { return checkpoint->manifest.at("meta"); }
};

// Makes --out (by default runs/DATE-TIME, which it then becomes), locks it, clears what an interrupted run left, and finds the checkpoint
// that
// --resume asks for. Error(io), Error(locked), Error(checkpoint); Error(usage) where a new run would fall into the directory of an old one.
RunDirectory open_run_directory(Io& io, Options& options);

// The Error(checkpoint) for a checkpoint that is whole, but whose meta this program did not write.
Error unknown_meta(const RunDirectory& directory, const nlohmann::json::exception& exception);

// Error(checkpoint) naming the options that may not change on resume and did; Error(data) for other shards, unless that is allowed.
void check_resume(const RunDirectory& directory, const Options& options, const nlohmann::ordered_json& data_fingerprint);

// run.json: every option, the command line and the build, and `facts` (parameters, engine, threads).
void write_run_json(const RunDirectory& directory, const Options& options, const std::string& command, const nlohmann::ordered_json& facts);

}  // namespace traincu
