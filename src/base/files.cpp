#include "src/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace traincu {

std::string read_whole_file(const std::string& path, ExitCode fault) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe is refused below, not waited for
    if (file < 0) throw Error(fault, path + " cannot be opened: " + std::strerror(errno), "check its path and permissions").file(path);
    struct stat info {};
    if (::fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        ::close(file);
        throw Error(fault, path + " is not a regular file", "give a file").file(path);
    }
    std::string content(static_cast<size_t>(info.st_size), '\0');
    size_t done = 0;
    ssize_t n = 1;
    while (done < content.size() && n > 0) {
        n = ::read(file, content.data() + done, content.size() - done);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0)
            done += static_cast<size_t>(n);
    }
    const int error = errno;
    ::close(file);
    if (n < 0)
        throw Error(ExitCode::io, path + " cannot be read: " + std::strerror(error), "check the disk and the mount")
            .file(path)
            .offset(static_cast<int64_t>(done));
    content.resize(done);
    return content;
}

bool replace_file(const std::string& path, std::string_view content) {
    const std::string temporary = path + ".tmp";
    const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) return false;
    size_t done = 0;
    while (done < content.size()) {
        ssize_t written = ::write(file, content.data() + done, content.size() - done);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        done += static_cast<size_t>(written);
    }
    bool whole = done == content.size() && ::fsync(file) == 0;
    int error = errno;
    if (::close(file) != 0 && whole) whole = false, error = errno;
    if (whole && ::rename(temporary.c_str(), path.c_str()) == 0) return true;
    if (whole) error = errno;
    ::unlink(temporary.c_str());
    errno = error;
    return false;
}

void write_whole_file(const std::string& path, std::string_view content) {
    if (!replace_file(path, content))
        throw Error(ExitCode::io, path + " cannot be written: " + std::strerror(errno),
                    "check that the folder exists, is writable, and has space")
            .file(path);
}

}  // namespace traincu
