#include "src/checkpoint/commit.h"

#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "src/base/arena.h"

namespace traincu {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int manifest_schema = 1;
constexpr int64_t max_step = 9999999999;                   // ten digits
constexpr int64_t max_manifest_bytes = int64_t{64} << 20;  // room for a checkpoint of ten terabytes

// ----------------------------------------------------------------------------------------------------------------------
// names

std::string checkpoint_name(int64_t step) {
    ENSURE(step >= 0 && step <= max_step);
    return format("step_%010lld", static_cast<long long>(step));
}

static std::optional<int64_t> step_of_name(const std::string& name) {
    if (name.size() != 15 || name.compare(0, 5, "step_") != 0) return std::nullopt;
    int64_t step = 0;
    for (char digit : name.substr(5)) {
        if (digit < '0' || digit > '9') return std::nullopt;
        step = step * 10 + (digit - '0');
    }
    return step;
}

static std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator(); it.increment(error))
        names.push_back(it->path().filename().string());
    if (error && error != std::errc::no_such_file_or_directory)
        throw Error(ExitCode::io, format("cannot list the folder %s: %s", folder.c_str(), error.message().c_str()),
                    "check that it is a folder and that you may read it")
            .file(folder);
    return names;
}

std::vector<int64_t> checkpoint_steps(const std::string& run_dir) {
    std::vector<int64_t> steps;
    for (const std::string& name : names_in(run_dir))
        if (auto step = step_of_name(name)) steps.push_back(*step);
    std::sort(steps.rbegin(), steps.rend());
    return steps;
}

// Two processes, or two attempts of one, never write under the same temporary name.
static std::string nonce() {
    uint64_t bits = 0;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits) throw Error(ExitCode::io, "the system gives no random numbers", "");
    return hash_text(bits);
}

// ----------------------------------------------------------------------------------------------------------------------
// one file

FileWriter::FileWriter(Io& io, std::string path, int64_t bytes)
    : io_(io), path_(std::move(path)), announced_(bytes), fd_(io.open_new(CrashPoint::open_r, path_)) {
    block_.resize(static_cast<size_t>(std::min(bytes, digest_block)));
    try {
        if (bytes > 0) io_.allocate(CrashPoint::fallocate_r, fd_, path_, bytes);  // a full disk shows here, before anything is written
    } catch (...) {
        io_.close(CrashPoint::close_r, fd_, path_);
        throw;
    }
}

FileWriter::~FileWriter() {
    if (fd_ < 0) return;
    try {
        io_.close(CrashPoint::close_r, fd_, path_);
    } catch (const IoError&) {  // the file is given up anyway
    }
}

void FileWriter::append(const void* data, int64_t bytes) {
    ENSURE(bytes >= 0 && written_ + filled_ + bytes <= announced_);
    const std::byte* from = static_cast<const std::byte*>(data);
    while (bytes > 0) {
        int64_t part = std::min(bytes, static_cast<int64_t>(block_.size()) - filled_);
        std::memcpy(block_.data() + filled_, from, static_cast<size_t>(part));
        from += part, bytes -= part, filled_ += part;
        if (filled_ == digest_block) flush();
    }
}

void FileWriter::pad_to(int64_t multiple) {
    const std::vector<std::byte> zeros(static_cast<size_t>(multiple));
    int64_t end = written_ + filled_;
    append(zeros.data(), round_up(end, multiple) - end);
}

void FileWriter::flush() {
    if (filled_ == 0) return;
    digest_.add_block(block_.data(), filled_);
    io_.write(CrashPoint::write_r, fd_, path_, block_.data(), filled_, written_);
    written_ += filled_, filled_ = 0;
}

FileDigest FileWriter::finish() {
    flush();
    ENSURE(written_ == announced_);
    io_.sync(CrashPoint::fsync_r, fd_, path_);
    int fd = fd_;
    fd_ = -1;  // whatever close() says, the descriptor is gone
    io_.close(CrashPoint::close_r, fd, path_);
    return digest_.finish();
}

// ----------------------------------------------------------------------------------------------------------------------
// the manifest's text

static ordered_json digest_json(const std::string& name, const FileDigest& digest) {
    ordered_json blocks = ordered_json::array();
    for (uint64_t hash : digest.blocks) blocks.push_back(hash_text(hash));
    return {{"name", name}, {"bytes", digest.bytes}, {"xxh3", hash_text(digest.whole)}, {"block_bytes", digest_block}, {"blocks", blocks}};
}

// The last field is the hash of all bytes before the comma that leads it in.
constexpr char hash_lead[] = ",\n  \"hash\": \"", hash_end[] = "\"\n}\n";
constexpr int64_t hash_field_bytes = sizeof hash_lead - 1 + 16 + sizeof hash_end - 1;

static std::string seal(const ordered_json& manifest) {
    std::string text = manifest.dump(2, ' ', false, ordered_json::error_handler_t::replace);  // a path need not be UTF-8
    text.resize(text.size() - 2);                                                             // "\n}"
    return text + hash_lead + hash_text(hash_bytes(text.data(), static_cast<int64_t>(text.size()))) + hash_end;
}

static bool seal_is_whole(const std::string& text) {
    int64_t body = static_cast<int64_t>(text.size()) - hash_field_bytes;
    return body > 0 &&
           text.compare(static_cast<size_t>(body), std::string::npos, hash_lead + hash_text(hash_bytes(text.data(), body)) + hash_end) == 0;
}

// ----------------------------------------------------------------------------------------------------------------------
// commit

static void write_manifest(Io& io, const std::string& path, const std::string& text) {
    int fd = io.open_new(CrashPoint::open_man, path);
    try {
        io.write(CrashPoint::write_man, fd, path, text.data(), static_cast<int64_t>(text.size()), 0);
        io.sync(CrashPoint::fsync_man, fd, path);
    } catch (...) {
        io.close(CrashPoint::close_man, fd, path);
        throw;
    }
    io.close(CrashPoint::close_man, fd, path);
}

// A checkpoint folder has no folders inside, so neither has anything that this removes.
static void remove_folder(Io& io, const std::string& path) {
    if (!fs::is_directory(fs::symlink_status(path))) return io.remove_file(CrashPoint::unlink, path);
    for (const std::string& name : names_in(path)) io.remove_file(CrashPoint::unlink, path + "/" + name);
    io.remove_dir(CrashPoint::unlink, path);
}

CheckpointFile text_file(std::string name, const std::string& text) {
    const int64_t bytes = static_cast<int64_t>(text.size());
    return {std::move(name), bytes, [&text, bytes](FileWriter& file) { file.append(text.data(), bytes); }};
}

static Error already_there(const std::string& path) {
    return Error(ExitCode::io, path + " is there already", "choose another name").file(path);
}

// `last` writes what must come after the files, from their digests.
static void write_folder(Io& io, const std::string& parent, const std::string& name, const std::vector<CheckpointFile>& files, bool replace,
                         const std::function<void(const std::string& folder, ordered_json digests)>& last) {
    const std::string final = parent + "/" + name;
    const std::string temp = parent + "/.tmp_" + name + "_" + nonce();
    bool replaced = false;
    try {
        io.make_dir(CrashPoint::mkdir_tmp, temp);
        io.sync_dir(CrashPoint::fsync_parent1, parent);
        std::vector<std::unique_ptr<FileWriter>> writers;  // all space is reserved before the first byte is written
        for (const CheckpointFile& file : files) writers.push_back(std::make_unique<FileWriter>(io, temp + "/" + file.name, file.bytes));
        ordered_json digests = ordered_json::array();
        for (size_t i = 0; i < files.size(); i++) {
            files[i].write(*writers[i]);
            digests.push_back(digest_json(files[i].name, writers[i]->finish()));
        }
        last(temp, std::move(digests));
        io.sync_dir(CrashPoint::fsync_tmp, temp);
        if (!io.rename_new(CrashPoint::rename, temp, final)) {
            if (!replace) throw already_there(final);
            io.exchange(CrashPoint::rename, temp, final);
            replaced = true;
        }
        io.sync_dir(CrashPoint::fsync_parent2, parent);
    } catch (...) {
        // If the exchange may not last, the temporary name holds the older checkpoint: it stays until the next start.
        if (!replaced) try {
                remove_folder(io, temp);
            } catch (const Error&) {  // the first failure is the one to report
            }
        throw;
    }
    if (replaced) try {
            remove_folder(io, temp);
        } catch (const Error&) {  // the commit stands; the next start clears this
        }
}

void commit_folder(Io& io, const std::string& parent, const std::string& name, const std::vector<CheckpointFile>& files, bool replace) {
    write_folder(io, parent, name, files, replace, [](const std::string&, const ordered_json&) {});
}

void commit_file(Io& io, const std::string& parent, const std::string& name, int64_t bytes, bool replace,
                 const std::function<void(FileWriter&)>& write) {
    const std::string final = parent + "/" + name, temp = parent + "/.tmp_" + name + "_" + nonce();
    try {
        {
            FileWriter file(io, temp, bytes);
            write(file);
            file.finish();
        }
        if (!io.rename_new(CrashPoint::rename, temp, final)) {
            if (!replace) throw already_there(final);
            io.exchange(CrashPoint::rename, temp, final);
            io.remove_file(CrashPoint::unlink, temp);
        }
        io.sync_dir(CrashPoint::fsync_parent2, parent);
    } catch (...) {
        try {
            io.remove_file(CrashPoint::unlink, temp);
        } catch (const Error&) {  // not there, or the first failure is the one to report
        }
        throw;
    }
}

static void commit_once(Io& io, const std::string& run_dir, int64_t step, const std::vector<CheckpointFile>& files, ordered_json manifest) {
    write_folder(io, run_dir, checkpoint_name(step), files, true, [&](const std::string& folder, ordered_json digests) {
        manifest["files"] = std::move(digests);
        write_manifest(io, folder + "/manifest.json", seal(manifest));
    });
}

std::string commit_checkpoint(Io& io, const std::string& run_dir, int64_t step, const std::vector<CheckpointFile>& files,
                              ordered_json manifest) {
    const std::string name = checkpoint_name(step);
    int64_t planned = 0;
    for (const CheckpointFile& file : files) planned += file.bytes;
    const int64_t needed = planned + planned / 20 + (int64_t{1} << 20);  // 5 % and 1 MiB over: manifest, folders, logs
    auto no_room = [&](const std::string& what, int64_t free) {
        return Error(ExitCode::io,
                     format("no room for checkpoint %s: %s (%lld bytes) needed, %s (%lld bytes) free in %s%s", name.c_str(),
                            human_bytes(needed).c_str(), static_cast<long long>(needed), human_bytes(free).c_str(),
                            static_cast<long long>(free), run_dir.c_str(), what.c_str()),
                     "free some space, lift the quota or file size limit, keep fewer checkpoints, or write elsewhere with --out; "
                     "existing checkpoints are untouched")
            .file(run_dir)
            .step(step);
    };
    if (int64_t free = io.free_space(run_dir); free < needed) throw no_room("", free);
    try {
        commit_once(io, run_dir, step, files, manifest);
    } catch (const IoError&) {
        // Never sync the same descriptor again: the kernel may have dropped the pages and would report success. New files, once.
        try {
            commit_once(io, run_dir, step, files, manifest);
        } catch (IoError& error) {
            if (error.disk_full()) throw no_room(std::string(" (") + error.what() + ")", io.free_space(run_dir));
            error.step(step);
            throw;
        }
    }
    return run_dir + "/" + name;
}

// ----------------------------------------------------------------------------------------------------------------------
// discovery

static Error damaged(const std::string& file, const std::string& what) {
    return Error(ExitCode::checkpoint, what, "this checkpoint cannot be used: resume from an older one, or restore the file from a copy")
        .file(file);
}

int64_t integer_field(const ordered_json& object, const char* name) {
    const ordered_json& value = object.at(name);
    if (!value.is_number_integer())
        throw Error(ExitCode::checkpoint, format("the manifest's %s is no whole number", name), "use another checkpoint");
    return value.get<int64_t>();
}

// The manifest, verified against its own hash. It lists what the other files must be.
static FoundCheckpoint open_manifest(const std::string& path) {
    const std::string file = path + "/manifest.json";
    InputFile input(file, ExitCode::checkpoint, false);
    if (input.size() > max_manifest_bytes) throw damaged(file, file + " is too large for a manifest");
    std::string text(static_cast<size_t>(input.size()), '\0');
    input.read(text.data(), input.size(), 0);
    if (!seal_is_whole(text))
        throw damaged(file, format("%s is damaged or cut short: its %lld bytes do not give the hash in its last line", file.c_str(),
                                   static_cast<long long>(input.size())));
    FoundCheckpoint found{path, 0, ordered_json::parse(text)};
    int64_t schema = integer_field(found.manifest, "schema");
    if (schema != manifest_schema)
        throw Error(
            ExitCode::checkpoint,
            format("%s has schema %lld, this program reads schema %d", file.c_str(), static_cast<long long>(schema), manifest_schema),
            "use the version of the program that wrote it: " + found.manifest.value("build", std::string("unknown")))
            .file(file);
    found.step = integer_field(found.manifest, "step");
    auto named = step_of_name(fs::path(path).filename().string());
    if (named && *named != found.step)
        throw damaged(file,
                      format("%s is of step %lld, not of the step in its folder's name", file.c_str(), static_cast<long long>(found.step)));
    return found;
}

// Sizes and names: what can be seen without reading the files.
static void verify_presence(const FoundCheckpoint& found) {
    std::vector<std::string> listed;
    for (const ordered_json& entry : found.manifest.at("files")) {
        listed.push_back(entry.at("name").get<std::string>());
        const std::string& name = listed.back();
        if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos || name.find('\0') != std::string::npos)
            throw damaged(found.path, "the manifest lists a file outside its folder");
        InputFile file(found.path + "/" + name, ExitCode::checkpoint, false);
        int64_t bytes = integer_field(entry, "bytes");
        if (file.size() != bytes)
            throw damaged(file.path(), format("%s has %lld bytes, the manifest says %lld", file.path().c_str(),
                                              static_cast<long long>(file.size()), static_cast<long long>(bytes)))
                .offset(std::min(file.size(), bytes));
    }
    // A rank file or weights that the manifest does not know come from another run; notes and tokenizers may lie beside.
    for (const std::string& name : names_in(found.path)) {
        bool ours = name.rfind("rank_", 0) == 0 || fs::path(name).extension() == ".safetensors";
        if (ours && std::find(listed.begin(), listed.end(), name) == listed.end())
            throw damaged(found.path + "/" + name, format("%s/%s does not belong to this checkpoint", found.path.c_str(), name.c_str()));
    }
}

static void verify_blocks(const FoundCheckpoint& found) {
    std::vector<std::byte> buffer;
    for (const ordered_json& entry : found.manifest.at("files")) {
        InputFile file(found.path + "/" + entry.at("name").get<std::string>(), ExitCode::checkpoint, false);
        buffer.resize(std::max(buffer.size(), static_cast<size_t>(std::min(digest_block, file.size()))));
        const ordered_json& blocks = entry.at("blocks");
        if (integer_field(entry, "block_bytes") != digest_block ||
            static_cast<int64_t>(blocks.size()) != div_ceil(file.size(), digest_block))
            throw damaged(found.path, format("the manifest of %s has the wrong number of block hashes", file.path().c_str()));
        DigestBuilder digest;
        for (int64_t block = 0; block < static_cast<int64_t>(blocks.size()); block++) {
            int64_t offset = block * digest_block, bytes = std::min(digest_block, file.size() - offset);
            file.read(buffer.data(), bytes, offset);
            if (blocks[static_cast<size_t>(block)] != hash_text(hash_bytes(buffer.data(), bytes)))
                throw damaged(file.path(),
                              format("%s is damaged in block %lld (bytes %lld to %lld)", file.path().c_str(), static_cast<long long>(block),
                                     static_cast<long long>(offset), static_cast<long long>(offset + bytes - 1)))
                    .offset(offset);
            digest.add_block(buffer.data(), bytes);
        }
        if (entry.at("xxh3") != hash_text(digest.finish().whole))
            throw damaged(file.path(), format("%s: the blocks are good, the hash of the whole file is not", file.path().c_str()));
    }
}

static FoundCheckpoint verified(const std::string& path, bool read_blocks) {
    std::error_code error;
    if (!fs::is_directory(path, error))
        throw Error(ExitCode::checkpoint, path + " is not a checkpoint folder", "give a folder named step_<10 digits>, or a run's folder")
            .file(path);
    try {
        FoundCheckpoint found = open_manifest(path);
        verify_presence(found);
        if (read_blocks) verify_blocks(found);
        return found;
    } catch (const nlohmann::json::exception& exception) {
        throw damaged(path + "/manifest.json", format("%s/manifest.json is not of the expected form: %s", path.c_str(), exception.what()));
    }
}

FoundCheckpoint open_checkpoint(const std::string& path) { return verified(path, true); }

std::optional<FoundCheckpoint> newest_checkpoint(const std::string& run_dir, const std::function<void(const std::string&)>& rejected) {
    for (int64_t step : checkpoint_steps(run_dir)) {
        try {
            return open_checkpoint(run_dir + "/" + checkpoint_name(step));
        } catch (const Error& error) {
            rejected(error.what());
        }
    }
    return std::nullopt;
}

// ----------------------------------------------------------------------------------------------------------------------
// retention

static void clear_leftovers(Io& io, const std::string& run_dir) {
    std::vector<std::string> leftovers;
    for (const std::string& name : names_in(run_dir))
        if (name.rfind(".tmp_step_", 0) == 0 || name.rfind(".trash_step_", 0) == 0) leftovers.push_back(run_dir + "/" + name);
    if (leftovers.empty()) return;
    // What is about to be emptied may still be the durable bearer of a step_ name: make its new name durable first.
    io.sync_dir(CrashPoint::retire_fsync, run_dir);
    for (const std::string& path : leftovers) remove_folder(io, path);
}

void retain_checkpoints(Io& io, const std::string& run_dir, int keep) {
    clear_leftovers(io, run_dir);
    if (keep == 0) return;
    std::vector<std::string> retired;
    int good = 0;
    for (int64_t step : checkpoint_steps(run_dir)) {
        const std::string name = checkpoint_name(step), path = run_dir + "/" + name;
        if (good >= std::max(keep, 2)) {
            retired.push_back(name);
            continue;
        }
        try {
            verified(path, good == 0);  // the newest good one is read back in full, the others looked at
            good++;
        } catch (const Error&) {  // damaged: it does not count, and stays until enough good ones are newer
        }
    }
    for (const std::string& name : retired) {
        const std::string trash = run_dir + "/.trash_" + name + "_" + nonce();
        if (!io.rename_new(CrashPoint::retire_rename, run_dir + "/" + name, trash)) continue;
        io.sync_dir(CrashPoint::retire_fsync, run_dir);
        remove_folder(io, trash);
    }
}

}  // namespace traincu
