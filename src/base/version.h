// What this executable is: revision, compiler, libraries, features. Printed by --version and kept in run.json.
#pragma once

#include <string>

namespace traincu {

std::string revision();       // git revision, "-dirty" where the tree had changes
std::string build_summary();  // one line each: revision, compiler, libraries, processor features

}  // namespace traincu
