// Stream: where an operation runs, and in which order. Every operation takes one as its last argument and
// dispatches on it. A CPU stream runs each operation to its end, on OpenMP threads, before it returns.
#pragma once

namespace traincu {

enum class Device { cpu };

struct Stream {
    Device device = Device::cpu;
};

}  // namespace traincu
