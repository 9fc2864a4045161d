#include "src/checkpoint/lock.h"

#include <signal.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>

#include "src/checkpoint/digest.h"

namespace traincu {

static LockOwner this_process() {
    char host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    std::string boot_id;  // tells a process of this boot from one with the same number before it
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
    uint64_t bits = 0;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits) bits = static_cast<uint64_t>(getpid());
    return {host, boot_id, hash_text(bits), getpid()};
}

// What LOCK says; all empty if it says nothing that we understand.
static LockOwner read_owner(const std::string& path) {
    std::ifstream file(path);
    std::string text(4096, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(file.gcount()));
    nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    LockOwner owner;
    auto text_of = [&](const char* name) { return json.contains(name) && json[name].is_string() ? json[name].get<std::string>() : ""; };
    if (!json.is_object()) return owner;
    owner.host = text_of("host"), owner.boot_id = text_of("boot_id"), owner.nonce = text_of("nonce");
    if (json.contains("pid") && json["pid"].is_number_integer()) owner.pid = json["pid"].get<int64_t>();
    return owner;
}

[[noreturn]] static void refuse(const std::string& path, const LockOwner& owner, const char* remedy) {
    std::string who =
        owner.pid > 0 ? format("process %lld on %s", static_cast<long long>(owner.pid), owner.host.c_str()) : "another process";
    throw Error(ExitCode::locked, "another run is using this folder: " + path + " is held by " + who, remedy).file(path);
}

// Dead for certain: it ran on this machine, before the last boot or under a number that no process has now.
static bool is_dead(const LockOwner& owner, const LockOwner& self) {
    if (owner.host != self.host || owner.pid <= 0) return false;
    if (owner.boot_id != self.boot_id) return true;
    return kill(static_cast<pid_t>(owner.pid), 0) != 0 && errno == ESRCH;
}

RunLock::RunLock(const std::string& run_dir, std::unique_ptr<Io> io)
    : io_(std::move(io)), path_(run_dir + "/LOCK"), owner_(this_process()) {
    fd_ = io_->open_shared(CrashPoint::lock_take, path_);
    try {
        bool taken = false;
        try {
            taken = io_->lock(CrashPoint::lock_take, fd_, path_);
        } catch (const IoError&) {  // no locks here
            by_existence_ = true;
        }
        if (by_existence_)
            take_by_existence();
        else if (!taken)
            refuse(path_, read_owner(path_), "wait until it has ended, or give another --out");
        write_owner();
    } catch (...) {
        ::close(fd_);
        throw;
    }
}

// The file LOCK.owner, created only if it does not exist yet, is then the lock.
void RunLock::take_by_existence() {
    const std::string marker = path_ + ".owner";
    for (bool second_try : {false, true}) {
        try {
            int fd = io_->open_new(CrashPoint::lock_take, marker);
            ::close(fd_);
            fd_ = fd;
            path_ = marker;
            return;
        } catch (const IoError& error) {
            if (error.error_number() != EEXIST) throw;
        }
        LockOwner other = read_owner(marker);
        if (second_try || !is_dead(other, owner_))
            refuse(marker, other, "if that process is gone, remove the file; else give another --out");
        io_->remove_file(CrashPoint::lock_take, marker);
    }
}

void RunLock::write_owner() {
    nlohmann::ordered_json json = {{"host", owner_.host}, {"pid", owner_.pid}, {"boot_id", owner_.boot_id}, {"nonce", owner_.nonce}};
    std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    io_->truncate(CrashPoint::lock_take, fd_, path_, 0);
    io_->write(CrashPoint::lock_take, fd_, path_, text.data(), static_cast<int64_t>(text.size()), 0);
}

RunLock::~RunLock() {
    try {
        // The file LOCK stays: unlinking it would let two later runs lock two different files of that name.
        if (by_existence_)
            io_->remove_file(CrashPoint::lock_drop, path_);
        else
            io_->truncate(CrashPoint::lock_drop, fd_, path_, 0);
    } catch (const IoError&) {  // an owner that is gone is recognised by the next run
    }
    ::close(fd_);
}

}  // namespace traincu
