// Whole files in one call: read into memory, or replaced in one motion.
#pragma once

#include <string>
#include <string_view>

#include "src/base/error.h"

namespace traincu {

// The bytes of a regular file. Error(fault) if it cannot be opened or is something else, Error(io) if it cannot be read.
std::string read_whole_file(const std::string& path, ExitCode fault);

// Writes `path`.tmp, flushes it to disk and renames it: a crash leaves the old file or the new one, never half of one.
// False, with errno set, where that fails; the temporary file is then gone.
bool replace_file(const std::string& path, std::string_view content);
void write_whole_file(const std::string& path, std::string_view content);  // the same, or Error(io)

}  // namespace traincu
