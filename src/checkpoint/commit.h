// The commit protocol: how a folder of files becomes a checkpoint that is either all there or not there at all, how the newest
// good one is found again, and how old ones go. What the files mean is the business of state.h. README.md lists the steps.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/checkpoint/digest.h"
#include "src/checkpoint/io.h"

namespace traincu {

// One file of a checkpoint being written: space reserved first, then appended block by block, hashed on the way.
class FileWriter {
public:
    FileWriter(Io& io, std::string path, int64_t bytes);
    ~FileWriter();  // abandons an unfinished file: it is closed, never synced
    FileWriter(const FileWriter&) = delete;
    FileWriter& operator=(const FileWriter&) = delete;

    void append(const void* data, int64_t bytes);
    void pad_to(int64_t multiple);  // zeros up to the next multiple
    FileDigest finish();            // flush, fsync, close; all announced bytes must have been appended

private:
    void flush();

    Io& io_;
    std::string path_;
    int64_t announced_;
    int fd_;
    std::vector<std::byte> block_;
    int64_t filled_ = 0, written_ = 0;
    DigestBuilder digest_;
};

struct CheckpointFile {
    std::string name;
    int64_t bytes;
    std::function<void(FileWriter&)> write;  // may be called twice: a failed attempt is repeated into new files
};

CheckpointFile text_file(std::string name, const std::string& text);  // refers to the text

// Writes `files` as the folder parent/name: under a temporary name, synced, and then renamed, so that it is there whole or not at all.
// An older folder of that name is exchanged for it and removed if `replace`; else Error(io).
void commit_folder(Io& io, const std::string& parent, const std::string& name, const std::vector<CheckpointFile>& files, bool replace);

// The same for one file.
void commit_file(Io& io, const std::string& parent, const std::string& name, int64_t bytes, bool replace,
                 const std::function<void(FileWriter&)>& write);

// Writes `files` and manifest.json (`manifest` plus the files' digests and its own hash) as run_dir/step_<step>, and returns that
// path once it is on disk under this name. A failure is retried once; then Error(io), nothing left behind, and no other
// checkpoint touched. An older checkpoint of the same step (the run came by again) is replaced in one rename.
std::string commit_checkpoint(Io& io, const std::string& run_dir, int64_t step, const std::vector<CheckpointFile>& files,
                              nlohmann::ordered_json manifest);

// Keeps the `keep` newest checkpoints (1 counts as 2; 0 keeps all) and removes older ones, but only after the newest good one was read
// back in full. Also clears what interrupted commits and removals left behind, so a run calls it once at its start. Needs the run's lock.
void retain_checkpoints(Io& io, const std::string& run_dir, int keep);

struct FoundCheckpoint {
    std::string path;
    int64_t step = 0;
    nlohmann::ordered_json manifest;
};

// Verifies one checkpoint: the manifest's hash, every file's size and every block's hash.
// Error(checkpoint) says which file and which block, or that the folder is no checkpoint.
FoundCheckpoint open_checkpoint(const std::string& path);

// The newest checkpoint of a run that verifies, or none. `rejected` hears why each newer one was passed over.
std::optional<FoundCheckpoint> newest_checkpoint(const std::string& run_dir, const std::function<void(const std::string&)>& rejected);

// A whole number of a manifest; Error(checkpoint) if it is not there, or is another kind of value.
int64_t integer_field(const nlohmann::ordered_json& object, const char* name);

std::string checkpoint_name(int64_t step);                          // "step_0000000100"
std::vector<int64_t> checkpoint_steps(const std::string& run_dir);  // of the folders with such names, newest first; nothing verified

}  // namespace traincu
