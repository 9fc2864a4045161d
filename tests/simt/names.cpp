#include "tests/simt/names.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <sstream>
#include <vector>

#include "src/base/error.h"

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

namespace {

const std::map<uintptr_t, std::string>& functions() {
    static const auto& all = *new std::map<uintptr_t, std::string>(read_functions());  // lives to the end: reports are written there
    return all;
}

// "void traincu::gpu::norm_kernel<float, 4>(float*, ...)" -> "norm_kernel<float, 4>"
std::string short_name(const std::string& mangled) {
    int status = 0;
    char* demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
    std::string name = status == 0 ? demangled : mangled;
    std::free(demangled);
    // up to the parameters, from the last of "::" and " " on, neither within <>
    size_t begin = 0;
    int depth = 0;
    for (size_t i = 0; i < name.size(); i++) {
        if (name[i] == '<') depth++;
        if (name[i] == '>') depth--;
        if (depth > 0) continue;
        if (name[i] == '(') return name.substr(begin, i - begin);
        if (name[i] == ':' || name[i] == ' ') begin = i + 1;
    }
    return name.substr(begin);
}

}  // namespace

std::string name_of_kernel(const void* kernel) {
    const auto found = functions().find(reinterpret_cast<uintptr_t>(kernel) - load_bias());
    return found == functions().end() ? format("at %p (is the executable stripped?)", kernel) : short_name(found->second);
}

std::set<std::string> functions_named(const std::string& name) {
    std::set<std::string> found;
    for (const auto& [address, mangled] : functions()) {
        if (mangled.find(name) == std::string::npos) continue;  // saves most of the demangling
        const std::string instance = short_name(mangled);
        if (instance == name || instance.starts_with(name + "<")) found.insert(instance);
    }
    return found;
}

Compiled compiled(const std::string& kernel) {
    static const auto& table = *new std::map<std::string, Compiled>([] {
        std::map<std::string, Compiled> read;
        std::ifstream file("tests/cuda/report.txt");
        for (std::string line; std::getline(file, line);) {
            // arch registers shared stack spill_stores spill_loads kernel
            std::istringstream words(line);
            std::string arch, name;
            int64_t registers = 0, shared = 0, other = 0;
            if (!(words >> arch >> registers >> shared >> other >> other >> other) || !std::getline(words >> std::ws, name)) continue;
            Compiled& entry = read[name];
            entry.registers = std::max(entry.registers, registers), entry.shared_bytes = std::max(entry.shared_bytes, shared);
        }
        return read;
    }());
    static const std::regex scopes(R"((traincu|gpu)::)");  // of template arguments: the table does without
    const auto found = table.find(std::regex_replace(kernel, scopes, ""));
    return found == table.end() ? Compiled{} : found->second;
}

std::set<std::string> kernels_in(const std::string& source) {
    static const std::regex comments(R"(//[^\n]*|/\*[^]*?\*/)");
    static const std::regex kernel(R"(__global__\s+void\s+(?:__launch_bounds__\s*\([^;{]*?\)\s*)?(\w+)\s*\()");
    const std::string text = std::regex_replace(source, comments, " ");
    std::set<std::string> names;
    for (std::sregex_iterator match(text.begin(), text.end(), kernel), end; match != end; ++match) names.insert((*match)[1]);
    return names;
}

std::string source_line(const void* pc) {
    static auto& known = *new std::map<const void*, std::string>;  // a process for each question: slow
    std::string& line = known[pc];
    if (!line.empty()) return line;
    const auto address = reinterpret_cast<uintptr_t>(pc) - load_bias() - 1;  // within the instruction that called
    const std::string command = format("addr2line -i -e /proc/%d/exe 0x%lx 2>/dev/null", static_cast<int>(getpid()), address);
    if (FILE* output = popen(command.c_str(), "r")) {
        // From the innermost inlined function outwards: the first place that is not a wrapper's.
        const auto wrapper = [&] {
            return line.starts_with("/usr/") || line.find("_simt.h") != std::string::npos ||
                   line.find("cuda_runtime.h") != std::string::npos;
        };
        char buffer[512];
        while ((line.empty() || wrapper()) && std::fgets(buffer, sizeof buffer, output))
            line.assign(buffer, std::strcspn(buffer, " \n"));  // "file:line", perhaps " (discriminator 3)"
        pclose(output);
    }
    if (line.empty() || line[0] == '?') line = format("at %p", pc);
    for (const char* root : {"/kernels/", "/tests/"})
        if (const size_t found = line.rfind(root); found != std::string::npos) line.erase(0, found + 1);
    return line;
}

}  // namespace traincu::simt
