#include "src/base/process.h"

#include <malloc.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace traincu {

void wait_passively(char** argv) {
    if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;  // the user's choice, or our second start
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);  // returns only if it failed: then go on as we are
}

void keep_freed_memory() {
    mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest that it accepts
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

int allowed_cores() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : omp_get_num_procs();
}

int set_threads(int count) {
    omp_set_dynamic(0);
    omp_set_num_threads(count > 0 ? count : allowed_cores());
    return omp_get_max_threads();
}

static bool notes_silenced = false;

void note(const char* fmt, ...) {
    if (notes_silenced) return;
    va_list arguments;
    va_start(arguments, fmt);
    std::fputs("note: ", stderr), std::vfprintf(stderr, fmt, arguments), std::fputc('\n', stderr);
    va_end(arguments);
}

void silence_notes() { notes_silenced = true; }

}  // namespace traincu
