#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "src/base/process.h"

int main(int argc, char** argv) {
    traincu::wait_passively(argv);  // as ./train does: the tests must not starve a busy machine, nor be starved
    return doctest::Context(argc, argv).run();
}
