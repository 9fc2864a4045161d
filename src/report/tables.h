// The tables of a report: results, speed, memory, checkpoints and settings of its runs. Each is a <div> with its heading, or "" where the
// runs know nothing of it.
#pragma once

#include "src/report/charts.h"

namespace traincu {

std::string result_table(const View& view);  // losses, steps, tokens, time
std::string speed_table(const View& view);   // of several runs: what a step took, and what of the machine it used
std::string arena_table(const View& view);   // by arena, as run.json tells it
std::string sent_table(const View& view);    // of runs on several ranks: bytes a step by cargo and link, and the waiting
std::string spread_table(const View& view);  // what losses owe to circumstances, where runs differ in these alone
std::string checkpoint_table(const View& view);
std::string settings_lists(const Run& run);        // all settings of one run
std::string differing_settings(const View& view);  // of several: what is not the same in all, and their presets

}  // namespace traincu
