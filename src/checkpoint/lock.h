// One run, one folder. The file LOCK is held by an open-file-description lock, which the kernel drops when the process dies, however it
// dies; its text names the owner for whoever comes second. Where the file system knows no locks, the existence of the file is the lock.
#pragma once

#include <memory>
#include <string>

#include "src/checkpoint/io.h"

namespace traincu {

struct LockOwner {
    std::string host, boot_id, nonce;
    int64_t pid = 0;
};

class RunLock {
public:
    // Takes run_dir/LOCK. Error(locked) names the owner if another run has it; a lock whose process is dead is taken over.
    explicit RunLock(const std::string& run_dir, std::unique_ptr<Io> io = std::make_unique<RealIo>());
    ~RunLock();
    RunLock(const RunLock&) = delete;
    RunLock& operator=(const RunLock&) = delete;

    const LockOwner& owner() const { return owner_; }  // this process

private:
    void take_by_existence();
    void write_owner();

    std::unique_ptr<Io> io_;
    std::string path_;
    LockOwner owner_;
    int fd_ = -1;
    bool by_existence_ = false;
};

}  // namespace traincu
