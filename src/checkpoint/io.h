// Io: the door to the disk. Every call that changes a file or a folder goes through it, names the point of the commit protocol
// at which it stands, and is described by a plain IoCall. So a test can fail the n-th call, cut a write short, kill the process
// before or after any point, or log all calls and replay what a power cut would have left of them.
//
// A call returns normally or throws IoError. Interrupted calls (EINTR) and short writes are continued here and nowhere else.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "src/base/error.h"

namespace traincu {

// The points of the commit protocol, in its order; each is passed before and after its call (see README.md).
enum class CrashPoint {
    lock_take,  // LOCK: open, lock, write the owner
    // the temporary folder
    mkdir_tmp,
    fsync_parent1,
    // each file of the checkpoint
    open_r,
    fallocate_r,
    write_r,  // once a block
    fsync_r,
    close_r,
    // manifest.json
    open_man,
    write_man,
    fsync_man,
    close_man,
    // the commit
    fsync_tmp,
    rename,
    fsync_parent2,  // from here on the checkpoint is committed
    // an old checkpoint goes
    retire_rename,
    retire_fsync,
    unlink,     // once a file, and for the folder
    lock_drop,  // LOCK: forget the owner
};
constexpr std::array crash_point_names = {"lock_take",     "mkdir_tmp",    "fsync_parent1", "open_r",   "fallocate_r",
                                          "write_r",       "fsync_r",      "close_r",       "open_man", "write_man",
                                          "fsync_man",     "close_man",    "fsync_tmp",     "rename",   "fsync_parent2",
                                          "retire_rename", "retire_fsync", "unlink",        "lock_drop"};
static_assert(crash_point_names.size() == static_cast<size_t>(CrashPoint::lock_drop) + 1);
constexpr const char* name_of(CrashPoint point) { return crash_point_names[static_cast<size_t>(point)]; }

struct IoCall {
    enum Kind {
        open_new,     // create `path`, which must not exist; returns a descriptor
        open_shared,  // open `path` to read and write, created if need be; returns a descriptor
        lock,         // take the write lock of `fd` without waiting; 0, or -EAGAIN where another holds it
        allocate,     // reserve `bytes` of disk for `fd`
        write,        // `bytes` of `data` at `offset` of `fd`; returns how many were written
        truncate,     // cut `fd` to `bytes`
        sync,         // fsync of `fd`
        close,
        make_dir,
        sync_dir,    // fsync of the folder `path`
        rename_new,  // `path` becomes `to`, which must not exist
        exchange,    // `path` and `to` swap names in one step
        remove_file,
        remove_dir,
        free_space,  // bytes free to this user on the disk of `path`
    } kind;
    CrashPoint point;
    std::string path, to = {};
    int fd = -1;
    const void* data = nullptr;
    int64_t bytes = 0, offset = 0;
};

class IoError : public Error {
public:
    IoError(const IoCall& call, int error_number);
    int error_number() const { return error_number_; }
    bool disk_full() const;  // no space, quota used up, or a file size limit

private:
    int error_number_;
};

class Io {
public:
    // Reads the environment variable CRASH_AT = name[:before|:after][:k]: at the k-th pass (first by default) of that point the
    // process kills itself with SIGKILL, before (default) or after the call. Error(usage) if it names no point.
    Io();
    virtual ~Io() = default;
    Io(const Io&) = delete;
    Io& operator=(const Io&) = delete;

    int open_new(CrashPoint point, const std::string& path);
    int open_shared(CrashPoint point, const std::string& path);
    // True if taken, false if someone else holds it; IoError where the file system knows no locks.
    bool lock(CrashPoint point, int fd, const std::string& path);
    void allocate(CrashPoint point, int fd, const std::string& path, int64_t bytes);
    void write(CrashPoint point, int fd, const std::string& path, const void* data, int64_t bytes, int64_t offset);
    void truncate(CrashPoint point, int fd, const std::string& path, int64_t bytes);
    void sync(CrashPoint point, int fd, const std::string& path);
    void close(CrashPoint point, int fd, const std::string& path);
    void make_dir(CrashPoint point, const std::string& path);
    void sync_dir(CrashPoint point, const std::string& path);
    bool rename_new(CrashPoint point, const std::string& from, const std::string& to);  // false if `to` exists
    void exchange(CrashPoint point, const std::string& a, const std::string& b);
    void remove_file(CrashPoint point, const std::string& path);
    void remove_dir(CrashPoint point, const std::string& path);
    int64_t free_space(const std::string& folder);

    int64_t passes(CrashPoint point) const { return passes_[static_cast<size_t>(point)]; }

protected:
    // One attempt: the result, or minus an error number.
    virtual int64_t perform(const IoCall& call) = 0;

private:
    int64_t attempt(const IoCall& call);  // continues after EINTR, passes the crash point
    int64_t require(const IoCall& call);  // throws IoError if the attempt fails
    void crash_if_asked(CrashPoint point, bool after) const;

    std::array<int64_t, crash_point_names.size()> passes_{};
    int crash_point_ = -1;
    bool crash_after_ = false;
    int64_t crash_pass_ = 1;
};

class RealIo : public Io {
public:
    RealIo();

protected:
    int64_t perform(const IoCall& call) override;
};

// A file read by position. Anything but a regular file is refused; symbolic links are followed unless told otherwise.
class InputFile {
public:
    // `fault` is the exit code of a file that is missing, no file, or shorter than its reader was told.
    explicit InputFile(std::string path, ExitCode fault = ExitCode::checkpoint, bool follow_links = true);
    ~InputFile();
    InputFile(InputFile&& other) noexcept;
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    const std::string& path() const { return path_; }
    int64_t size() const { return size_; }
    ExitCode fault() const { return fault_; }
    void read(void* out, int64_t bytes, int64_t offset) const;

private:
    std::string path_;
    ExitCode fault_;
    int fd_ = -1;
    int64_t size_ = 0;
};

// The bytes of a file that has at most so many; Error(checkpoint) if it has more.
std::string read_small_file(const std::string& path, int64_t most);

}  // namespace traincu
