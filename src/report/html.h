// The report: one self-contained HTML page with the curves of one or several runs, beside references where wanted.
#pragma once

#include <string>
#include <vector>

#include "src/report/run.h"

namespace traincu {

// The page. from_step >= 0: curves and comparison begin there.
std::string render_report(const std::vector<Run>& runs, const std::vector<ReferenceCurve>& references, double band, double from_step = -1);

// Loads, renders and writes. The trainer calls it at the end of a run.
void write_report(const std::vector<std::string>& runs, const std::vector<std::string>& references, double band, const std::string& out);

}  // namespace traincu
