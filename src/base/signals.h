// SIGINT, SIGTERM and SIGUSR1: the first asks the run to finish its step, save and stop; a second one ends the process at once.
#pragma once

namespace traincu {

void catch_stop_signals();  // also: a closed pipe or a file-size limit is an error, not a signal
int stop_signal();          // the signal that came, or 0

}  // namespace traincu
