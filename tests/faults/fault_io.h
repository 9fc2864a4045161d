// A disk that fails on demand: call number n, or every call from n on.
#pragma once

#include <cerrno>

#include "src/checkpoint/io.h"

namespace traincu::test {

class FaultIo : public RealIo {
public:
    enum Mode { once, from_then_on };
    static constexpr int short_write = -1;  // not an error number: half of the bytes are written

    FaultIo(int64_t nth, int fault, Mode mode = once) : nth_(nth), fault_(fault), mode_(mode) {}
    bool fired() const { return fired_; }
    int64_t calls() const { return calls_; }

protected:
    int64_t perform(const IoCall& call) override {
        calls_++;
        bool now = mode_ == once ? calls_ == nth_ : calls_ >= nth_;
        if (!now || (fault_ == short_write && call.kind != IoCall::write)) return RealIo::perform(call);
        fired_ = true;
        if (fault_ == short_write) {
            IoCall half = call;
            half.bytes = (call.bytes + 1) / 2;
            return RealIo::perform(half);
        }
        if (call.kind == IoCall::close) RealIo::perform(call);  // a close that fails has closed
        return -fault_;
    }

private:
    int64_t nth_, calls_ = 0;
    int fault_;
    Mode mode_;
    bool fired_ = false;
};

}  // namespace traincu::test
