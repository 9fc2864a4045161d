// Work of the host in the line of a runner's stream: a library's kernel, written as plain loops. No header of CUDA stands behind this one.
#pragma once

#include <functional>
#include <string>

#include "src/device/gpu.h"

namespace traincu::simt {

// run() sees device memory through host_copy() (access.h). What it returns, unless empty, is a failure. ready() is asked until it says yes,
// while other streams go on: work that waits for another process. It must come to an end by itself.
void enqueue_host(gpu::StreamHandle stream, const std::string& name, std::function<std::string()> run,
                  std::function<bool()> ready = nullptr);

// The clock by which events are marked goes on by so much at once: work that takes longer than its loops do.
void let_time_pass(double milliseconds);

}  // namespace traincu::simt
