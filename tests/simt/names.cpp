// Names for addresses: of kernels from the symbol table of this executable, of source lines from addr2line.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <vector>

#include "src/base/error.h"
#include "tests/simt/block.h"

namespace traincu::simt {

namespace {

// Where the executable was loaded, less where it was linked for.
uintptr_t load_bias() {
    uintptr_t bias = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* result) {
            *static_cast<uintptr_t*>(result) = info->dlpi_addr;
            return 1;  // the first is the executable itself
        },
        &bias);
    return bias;
}

std::map<uintptr_t, std::string> read_functions() {
    std::map<uintptr_t, std::string> functions;
    std::ifstream file("/proc/self/exe", std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    const auto at = [&](uint64_t offset, auto& to) {
        ENSURE(offset + sizeof to <= bytes.size());
        std::memcpy(&to, bytes.data() + offset, sizeof to);
    };
    Elf64_Ehdr header;
    at(0, header);
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr table, strings;
        at(header.e_shoff + uint64_t{i} * header.e_shentsize, table);
        if (table.sh_type != SHT_SYMTAB) continue;
        at(header.e_shoff + uint64_t{table.sh_link} * header.e_shentsize, strings);
        for (uint64_t offset = 0; offset < table.sh_size; offset += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol;
            at(table.sh_offset + offset, symbol);
            if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value)
                functions[symbol.st_value] = bytes.data() + strings.sh_offset + symbol.st_name;
        }
    }
    return functions;
}

}  // namespace

std::string name_of_kernel(const void* kernel) {
    static const auto& functions = *new std::map<uintptr_t, std::string>(read_functions());  // lives to the end: reports are written there
    const auto found = functions.find(reinterpret_cast<uintptr_t>(kernel) - load_bias());
    if (found == functions.end()) return format("at %p (is the executable stripped?)", kernel);
    int status = 0;
    char* demangled = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status);
    std::string name = status == 0 ? demangled : found->second;
    std::free(demangled);
    // "void traincu::gpu::norm_kernel<float, 4>(float*, ...)" -> "norm_kernel<float, 4>"
    if (const size_t arguments = name.find('('); arguments != std::string::npos) name.resize(arguments);
    const size_t end = name.find('<');
    const size_t colons = name.rfind("::", end);
    const size_t space = name.rfind(' ', end);
    size_t begin = 0;
    if (colons != std::string::npos) begin = colons + 2;
    if (space != std::string::npos && space + 1 > begin) begin = space + 1;
    return name.substr(begin);
}

std::string source_line(const void* pc) {
    const auto address = reinterpret_cast<uintptr_t>(pc) - load_bias() - 1;  // within the instruction that called
    const std::string command = format("addr2line -e /proc/%d/exe 0x%lx 2>/dev/null", static_cast<int>(getpid()), address);
    std::string line;
    if (FILE* output = popen(command.c_str(), "r")) {
        char buffer[512];
        if (std::fgets(buffer, sizeof buffer, output)) line = buffer;
        pclose(output);
    }
    line.resize(std::strcspn(line.c_str(), "\n"));
    if (line.empty() || line[0] == '?') return format("at %p", pc);
    for (const char* root : {"/kernels/", "/tests/"})
        if (const size_t found = line.rfind(root); found != std::string::npos) return line.substr(found + 1);
    return line;
}

}  // namespace traincu::simt
