#include "src/base/signals.h"

#include <csignal>
#include <initializer_list>
#include <unistd.h>

namespace traincu {

namespace {

volatile std::sig_atomic_t received = 0;

// Only what is safe in a handler: set a flag, or leave.
void on_stop_signal(int signal) {
    if (received) _exit(128 + signal);
    received = signal;
}

}  // namespace

void catch_stop_signals() {
    struct sigaction action = {};
    action.sa_handler = on_stop_signal;
    action.sa_flags = SA_RESTART;
    for (int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error of write(), with a message
}

int stop_signal() { return received; }

}  // namespace traincu
