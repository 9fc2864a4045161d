// The mesh of the ranks that this executable was started with: one for all tests, since MPI starts once in a process.
#pragma once

#include "src/parallel/mesh.h"

namespace traincu::test {

Mesh& test_mesh();  // tests/device/comm_test.cpp

}  // namespace traincu::test
