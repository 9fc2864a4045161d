#include "src/checkpoint/io.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace traincu {

// ----------------------------------------------------------------------------------------------------------------------
// errors

static std::string sentence(const IoCall& call, int error_number) {
    const char* reason = std::strerror(error_number);
    const char* path = call.path.c_str();
    switch (call.kind) {
        case IoCall::open_new:
            return format("cannot create %s: %s", path, reason);
        case IoCall::open_shared:
            return format("cannot open %s: %s", path, reason);
        case IoCall::lock:
            return format("cannot lock %s: %s", path, reason);
        case IoCall::allocate:
            return format("cannot reserve %lld bytes for %s: %s", static_cast<long long>(call.bytes), path, reason);
        case IoCall::write:
            return format("cannot write %s: %s", path, reason);
        case IoCall::truncate:
            return format("cannot truncate %s: %s", path, reason);
        case IoCall::sync:
            return format("the disk did not take what was written to %s: %s", path, reason);
        case IoCall::close:
            return format("cannot close %s: %s", path, reason);
        case IoCall::make_dir:
            return format("cannot create the folder %s: %s", path, reason);
        case IoCall::sync_dir:
            return format("the disk did not take the names in folder %s: %s", path, reason);
        case IoCall::rename_new:
            return format("cannot rename %s to %s: %s", path, call.to.c_str(), reason);
        case IoCall::exchange:
            return format("cannot exchange %s and %s: %s", path, call.to.c_str(), reason);
        case IoCall::remove_file:
            return format("cannot remove %s: %s", path, reason);
        case IoCall::remove_dir:
            return format("cannot remove the folder %s: %s", path, reason);
        case IoCall::free_space:
            return format("cannot ask for the free space of %s: %s", path, reason);
    }
    return reason;
}

static const char* remedy_for(int error_number) {
    switch (error_number) {
        case ENOSPC:
        case EDQUOT:
            return "free some space, keep fewer checkpoints, or write elsewhere with --out";
        case EFBIG:
            return "raise the file size limit (ulimit -f) or write elsewhere with --out";
        case EACCES:
        case EPERM:
        case EROFS:
            return "check the owner and the rights of the folder, or write elsewhere with --out";
        case ENOENT:
        case ENOTDIR:
            return "was the folder moved or deleted while the run was using it?";
        default:
            return "check the disk (dmesg), or write elsewhere with --out";
    }
}

IoError::IoError(const IoCall& call, int error_number)
    : Error(ExitCode::io, sentence(call, error_number), remedy_for(error_number)), error_number_(error_number) {
    file(call.path);
    if (call.kind == IoCall::write) offset(call.offset);
}

bool IoError::disk_full() const { return error_number_ == ENOSPC || error_number_ == EDQUOT || error_number_ == EFBIG; }

// ----------------------------------------------------------------------------------------------------------------------
// crash points

Io::Io() {
    const char* request = std::getenv("CRASH_AT");
    if (!request || !*request) return;
    std::string rest = request;
    auto next_word = [&] {
        size_t colon = rest.find(':');
        std::string word = rest.substr(0, colon);
        rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
        return word;
    };
    auto refuse = [&] {
        std::string names;
        for (const char* name : crash_point_names) names += std::string(names.empty() ? "" : ", ") + name;
        throw Error(ExitCode::usage, format("CRASH_AT=%s names no crash point", request),
                    "CRASH_AT=name[:before|:after][:k], where name is one of " + names);
    };
    auto found = std::find(crash_point_names.begin(), crash_point_names.end(), next_word());
    if (found == crash_point_names.end()) refuse();
    crash_point_ = static_cast<int>(found - crash_point_names.begin());
    while (!rest.empty()) {
        std::string word = next_word();
        if (word == "before" || word == "after") {
            crash_after_ = word == "after";
            continue;
        }
        auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), crash_pass_);
        if (error != std::errc() || end != word.data() + word.size() || crash_pass_ < 1) refuse();
    }
}

void Io::crash_if_asked(CrashPoint point, bool after) const {
    if (static_cast<int>(point) != crash_point_ || after != crash_after_ || passes(point) != crash_pass_) return;
    kill(getpid(), SIGKILL);
    while (true) pause();
}

// ----------------------------------------------------------------------------------------------------------------------
// calls

int64_t Io::attempt(const IoCall& call) {
    passes_[static_cast<size_t>(call.point)]++;
    crash_if_asked(call.point, false);
    int64_t result = perform(call);
    // On Linux an interrupted close() has closed the descriptor: repeating it could close someone else's.
    while (result == -EINTR && call.kind != IoCall::close) result = perform(call);
    if (result == -EINTR) result = 0;
    crash_if_asked(call.point, true);
    return result;
}

int64_t Io::require(const IoCall& call) {
    int64_t result = attempt(call);
    if (result < 0) throw IoError(call, static_cast<int>(-result));
    return result;
}

int Io::open_new(CrashPoint point, const std::string& path) { return static_cast<int>(require({IoCall::open_new, point, path})); }
int Io::open_shared(CrashPoint point, const std::string& path) { return static_cast<int>(require({IoCall::open_shared, point, path})); }

bool Io::lock(CrashPoint point, int fd, const std::string& path) {
    IoCall call{IoCall::lock, point, path, {}, fd};
    int64_t result = attempt(call);
    if (result == -EAGAIN || result == -EACCES) return false;
    if (result < 0) throw IoError(call, static_cast<int>(-result));
    return true;
}

void Io::allocate(CrashPoint point, int fd, const std::string& path, int64_t bytes) {
    if (bytes > 0) require({IoCall::allocate, point, path, {}, fd, nullptr, bytes});
}

void Io::write(CrashPoint point, int fd, const std::string& path, const void* data, int64_t bytes, int64_t offset) {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
        IoCall call{IoCall::write, point, path, {}, fd, from, bytes, offset};
        int64_t written = require(call);
        if (written == 0) throw IoError(call, EIO);  // a disk that takes nothing and gives no reason: never loop on it
        from += written, offset += written, bytes -= written;
    }
}

void Io::truncate(CrashPoint point, int fd, const std::string& path, int64_t bytes) {
    require({IoCall::truncate, point, path, {}, fd, nullptr, bytes});
}
void Io::sync(CrashPoint point, int fd, const std::string& path) { require({IoCall::sync, point, path, {}, fd}); }
void Io::close(CrashPoint point, int fd, const std::string& path) { require({IoCall::close, point, path, {}, fd}); }
void Io::make_dir(CrashPoint point, const std::string& path) { require({IoCall::make_dir, point, path}); }
void Io::sync_dir(CrashPoint point, const std::string& path) { require({IoCall::sync_dir, point, path}); }
void Io::exchange(CrashPoint point, const std::string& a, const std::string& b) { require({IoCall::exchange, point, a, b}); }
void Io::remove_file(CrashPoint point, const std::string& path) { require({IoCall::remove_file, point, path}); }
void Io::remove_dir(CrashPoint point, const std::string& path) { require({IoCall::remove_dir, point, path}); }

bool Io::rename_new(CrashPoint point, const std::string& from, const std::string& to) {
    IoCall call{IoCall::rename_new, point, from, to};
    int64_t result = attempt(call);
    if (result == -EEXIST || result == -ENOTEMPTY) return false;
    if (result < 0) throw IoError(call, static_cast<int>(-result));
    return true;
}

int64_t Io::free_space(const std::string& folder) {
    IoCall call{IoCall::free_space, CrashPoint::mkdir_tmp, folder};
    int64_t result;
    do result = perform(call);  // changes nothing: no crash point
    while (result == -EINTR);
    if (result < 0) throw IoError(call, static_cast<int>(-result));
    return result;
}

// ----------------------------------------------------------------------------------------------------------------------
// the real disk

RealIo::RealIo() {
    // Past a file size limit (ulimit -f) the kernel sends this signal, which ends the process. Ignored, write() returns EFBIG: an error to
    // report.
    signal(SIGXFSZ, SIG_IGN);
}

// Some network file systems know no renameat2 flags. Under the run's lock, looking first is as good.
static int rename_new_by_looking(const char* from, const char* to) {
    struct stat info;
    if (lstat(to, &info) == 0) return errno = EEXIST, -1;
    return ::rename(from, to);
}
static int exchange_by_three_renames(const std::string& a, const std::string& b) {
    std::string aside = a + "_aside";  // `a` is a temporary name, so this one is, too
    if (::rename(b.c_str(), aside.c_str()) != 0) return -1;
    if (::rename(a.c_str(), b.c_str()) != 0) return -1;
    return ::rename(aside.c_str(), a.c_str());
}

static int sync_folder(const char* path) {
    int fd = ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = fsync(fd), error_number = errno;
    ::close(fd);
    errno = error_number;
    return result != 0 && error_number == EINVAL ? 0 : result;  // EINVAL: a file system whose names need no fsync
}

int64_t RealIo::perform(const IoCall& call) {
    const char* path = call.path.c_str();
    const char* to = call.to.c_str();
    auto flags_unknown = [](int result) { return result != 0 && (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP); };
    int64_t result = -1;
    switch (call.kind) {
        case IoCall::open_new:
            result = ::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
            break;
        case IoCall::open_shared:
            result = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
            break;
        case IoCall::lock: {
            struct flock whole_file {};
            whole_file.l_type = F_WRLCK, whole_file.l_whence = SEEK_SET;
            result = fcntl(call.fd, F_OFD_SETLK, &whole_file);
            break;
        }
        case IoCall::allocate:
            return -posix_fallocate(call.fd, 0, call.bytes);  // returns its error number
        case IoCall::write:
            result = ::pwrite(call.fd, call.data, static_cast<size_t>(call.bytes), call.offset);
            break;
        case IoCall::truncate:
            result = ::ftruncate(call.fd, call.bytes);
            break;
        case IoCall::sync:
            result = ::fsync(call.fd);
            break;
        case IoCall::close:
            result = ::close(call.fd);
            break;
        case IoCall::make_dir:
            result = ::mkdir(path, 0755);
            break;
        case IoCall::sync_dir:
            result = sync_folder(path);
            break;
        case IoCall::rename_new:
            result = renameat2(AT_FDCWD, path, AT_FDCWD, to, RENAME_NOREPLACE);
            if (flags_unknown(static_cast<int>(result))) result = rename_new_by_looking(path, to);
            break;
        case IoCall::exchange:
            result = renameat2(AT_FDCWD, path, AT_FDCWD, to, RENAME_EXCHANGE);
            if (flags_unknown(static_cast<int>(result))) result = exchange_by_three_renames(call.path, call.to);
            break;
        case IoCall::remove_file:
            result = ::unlink(path);
            break;
        case IoCall::remove_dir:
            result = ::rmdir(path);
            break;
        case IoCall::free_space: {
            struct statvfs info;
            result = statvfs(path, &info);
            if (result == 0) return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
            break;
        }
    }
    return result < 0 ? -errno : result;
}

// ----------------------------------------------------------------------------------------------------------------------
// reading

InputFile::InputFile(std::string path, ExitCode fault, bool follow_links) : path_(std::move(path)), fault_(fault) {
    // O_NONBLOCK: a named pipe must not hang us; it is refused below.
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (follow_links ? 0 : O_NOFOLLOW));
    if (fd_ < 0) {
        int error_number = errno;
        throw Error(error_number == EIO ? ExitCode::io : fault_, format("cannot open %s: %s", path_.c_str(), std::strerror(error_number)),
                    error_number == ELOOP ? "a symbolic link is not accepted here: put the file itself in its place" : "check the path")
            .file(path_);
    }
    struct stat info {};
    if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
        ::close(fd_);
        throw Error(fault_, format("%s is not a regular file", path_.c_str()), "give the path of a file").file(path_);
    }
    size_ = info.st_size;
}

InputFile::~InputFile() {
    if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept : path_(std::move(other.path_)), fault_(other.fault_), fd_(other.fd_), size_(other.size_) {
    other.fd_ = -1;
}

void InputFile::read(void* out, int64_t bytes, int64_t offset) const {
    char* to = static_cast<char*>(out);
    while (bytes > 0) {
        ssize_t got = ::pread(fd_, to, static_cast<size_t>(bytes), offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            throw Error(ExitCode::io, format("cannot read %s: %s", path_.c_str(), std::strerror(errno)), "check the disk (dmesg)")
                .file(path_)
                .offset(offset);
        if (got == 0)
            throw Error(fault_, format("%s ends at byte %lld, more was expected", path_.c_str(), static_cast<long long>(offset)),
                        "the file is cut short: copy it again")
                .file(path_)
                .offset(offset);
        to += got, offset += got, bytes -= got;
    }
}

std::string read_small_file(const std::string& path, int64_t most) {
    InputFile file(path);
    if (file.size() > most)
        throw Error(ExitCode::checkpoint,
                    format("%s is too large for what it should be: %lld bytes", path.c_str(), static_cast<long long>(file.size())),
                    "the file is of another kind: copy the model again")
            .file(path);
    std::string text(static_cast<size_t>(file.size()), '\0');
    file.read(text.data(), file.size(), 0);
    return text;
}

}  // namespace traincu
