// Ranks without a launcher: each is a process that this one forks.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace traincu::nccl_standin {

struct Ended {
    int status = -1;     // its exit code
    std::string said;    // what the body returned, or the error that it threw
    std::string errors;  // on stderr
};
// By rank.
std::vector<Ended> on_processes(int ranks, const std::function<std::string(int rank)>& body);

}  // namespace traincu::nccl_standin
