// Names for addresses, and which kernels there are.
#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace traincu::simt {

std::string name_of_kernel(const void* kernel);                  // "norm_kernel<float, 4>", from this executable's symbol table
std::string source_line(const void* pc);                         // "kernels/norm.cu:12" where addr2line is installed, else the address
std::set<std::string> functions_named(const std::string& name);  // of this executable: all instances of a template

// What nvcc made of a kernel, as tests/cuda/report.txt has it: the greatest figures of all architectures; zeros if it is not there.
struct Compiled {
    int64_t registers = 0, shared_bytes = 0;  // of a thread; static arrays
};
Compiled compiled(const std::string& kernel);

// The names of all __global__ functions in this text of a .cu file, comments apart.
std::set<std::string> kernels_in(const std::string& source);

}  // namespace traincu::simt
