// A line chart as inline SVG: axes with round ticks, lines, shaded bands, levels, the last value beside each line.
#pragma once

#include <string>
#include <vector>

#include "src/report/curves.h"

namespace traincu {

struct Line {
    Curve curve;
    std::string color;
    std::string label = "";  // a line without a label is in no legend
    double width = 1.8;
    double opacity = 1;
    bool dashed = false;
    bool dots = false;       // a mark at every point, with its value as tooltip
    bool end_value = false;  // the last value is written at the right edge
    std::string mark = "";   // stands before that value and in the legend: tells lines apart where colours do not
    std::string name = "";   // shown where the pointer rests on the line
};

// The area within `half_height` above and below a curve.
struct Band {
    Curve center;
    double half_height;
    std::string color;
};

// A horizontal line across the chart.
struct Level {
    double y;
    std::string label, color;
};

struct Chart {
    std::string title, unit, x_label = "step";
    std::vector<Line> lines = {};
    std::vector<Band> bands = {};
    std::vector<Level> levels = {};
    std::vector<double> keep_in_frame = {};  // heights to show whatever the lines are
    bool from_zero = false;
    // The height shows everything right of this x. What lies left of it (a loss that falls from ln V, say) may leave the frame.
    double fit_from = 0;
    int width = 516, height = 240;
};

std::string svg(const Chart& chart);
bool leaves_frame(const Chart& chart);  // whether some of a line is above the frame

// At most about `count` + 1 round numbers (1, 2 or 5 times a power of ten) that cover [low, high].
std::vector<double> nice_ticks(double low, double high, int count);
// 0.25, 3, 15k, 2.5M, 1e-05: as many digits as ticks `spacing` apart need.
std::string tick_text(double value, double spacing);

// A curve of at most about 2 * buckets points that looks the same: the lowest and highest of each bucket.
Curve thin(const Curve& curve, size_t buckets);

// Text whose bytes that are not UTF-8, and control characters but newline and tab, are replaced by U+FFFD: valid in JSON, XML, protobuf.
std::string only_utf8(const std::string& text);

// Text safe inside HTML and XML: only_utf8, with markup escaped.
std::string escape_html(const std::string& text);

}  // namespace traincu
