#include "src/report/svg.h"

#include <algorithm>
#include <cmath>

#include "src/base/error.h"

namespace traincu {

namespace {

constexpr double kLargest = 1e30;  // beyond it a value is no value: keeps the arithmetic below finite

bool drawable(double y) { return std::abs(y) < kLargest; }

struct Range {
    double low = 0, high = 1;
};

Range padded(double low, double high, double padding) {
    if (!(low <= high)) return {};
    double size = high - low;
    if (size <= 1e-9 * std::max(std::abs(low), std::abs(high))) size = std::max(0.1 * std::abs(low), 1e-6), padding = 1;
    return {low - padding * size, high + padding * size};
}

Range x_range(const Chart& chart) {
    double low = INFINITY, high = -INFINITY;
    for (const Line& line : chart.lines)
        for (double x : line.curve.x) low = std::min(low, x), high = std::max(high, x);
    if (low > 0 && low < 0.1 * high) low = 0;
    if (low < high) return {low, high};
    return padded(low, high, 1);
}

Range y_range(const Chart& chart) {
    std::vector<double> values;
    auto collect = [&](double from) {
        for (const Line& line : chart.lines)
            for (size_t i = 0; i < line.curve.x.size(); i++)
                if (line.curve.x[i] >= from && drawable(line.curve.y[i])) values.push_back(line.curve.y[i]);
    };
    collect(chart.fit_from);
    if (values.empty()) collect(-kLargest);
    std::sort(values.begin(), values.end());
    double low = INFINITY, high = -INFINITY;
    // one spike in two hundred values may leave the frame rather than flatten all the others
    if (!values.empty()) low = values.front(), high = values[values.size() - 1 - values.size() / 200];
    for (const Level& level : chart.levels)
        if (drawable(level.y)) low = std::min(low, level.y), high = std::max(high, level.y);
    for (double y : chart.keep_in_frame) low = std::min(low, y), high = std::max(high, y);
    if (!chart.from_zero) return padded(low, high, 0.06);
    return high > 0 ? Range{0, 1.12 * high} : Range{0, 1};
}

// Data to pixels.
struct Frame {
    double left = 46, right, top = 10, bottom;
    Range x, y;

    explicit Frame(const Chart& chart) : x(x_range(chart)), y(y_range(chart)) {
        bool end_values = std::any_of(chart.lines.begin(), chart.lines.end(), [](const Line& line) { return line.end_value; });
        bool marks = std::any_of(chart.lines.begin(), chart.lines.end(), [](const Line& line) { return !line.mark.empty(); });
        right = chart.width - (end_values ? marks ? 64 : 48 : 12);
        bottom = chart.height - 36;
    }
    double px(double value) const { return left + (value - x.low) / (x.high - x.low) * (right - left); }
    double py(double value) const {
        double pixel = bottom - (value - y.low) / (y.high - y.low) * (bottom - top);
        return std::clamp(pixel, -1e4, 1e4);  // far outside is outside
    }
};

std::string polyline(const Line& line, const Frame& frame) {
    std::string path;
    bool pen_down = false;
    for (size_t i = 0; i < line.curve.x.size(); i++) {
        if (!drawable(line.curve.y[i])) {
            pen_down = false;  // a gap where there is no value
            continue;
        }
        path += format("%s%.1f %.1f", pen_down ? "L" : "M", frame.px(line.curve.x[i]), frame.py(line.curve.y[i]));
        pen_down = true;
    }
    if (path.empty()) return "";
    std::string drawn =
        format("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-opacity=\"%.2f\" stroke-linejoin=\"round\"%s",
               path.c_str(), line.color.c_str(), line.width, line.opacity, line.dashed ? " stroke-dasharray=\"6 4\"" : "");
    return drawn + (line.name.empty() ? "/>\n" : "><title>" + escape_html(line.name) + "</title></path>\n");
}

std::string dots(const Line& line, const Frame& frame, const std::string& x_label) {
    std::string text;
    double radius = line.curve.x.size() > 60 ? 1.6 : 2.4;
    std::string name = line.name.empty() ? "" : escape_html(line.name) + ", ";
    for (size_t i = 0; i < line.curve.x.size(); i++)
        if (drawable(line.curve.y[i]))
            text +=
                format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"><title>%s%s %s: %.4f</title></circle>\n",
                       frame.px(line.curve.x[i]), frame.py(line.curve.y[i]), radius, line.color.c_str(), name.c_str(), x_label.c_str(),
                       format(line.curve.x[i] == std::floor(line.curve.x[i]) ? "%.0f" : "%.2f", line.curve.x[i]).c_str(), line.curve.y[i]);
    return text;
}

std::string area(const Band& band, const Frame& frame) {
    std::string there, back;
    for (size_t i = 0; i < band.center.x.size(); i++) {
        if (!drawable(band.center.y[i])) continue;
        double x = frame.px(band.center.x[i]);
        there += format("%.1f,%.2f ", x, frame.py(band.center.y[i] + band.half_height));
        back = format("%.1f,%.2f ", x, frame.py(band.center.y[i] - band.half_height)) + back;
    }
    return there.empty() ? "" : format("<polygon points=\"%s%s\" fill=\"%s\"/>\n", there.c_str(), back.c_str(), band.color.c_str());
}

// The last values, moved apart where lines end close together: upwards first, and down again from the top of the frame. None where
// there are more than fit.
std::string end_values(const Chart& chart, const Frame& frame) {
    constexpr double kApart = 13, kWidth = 60;
    struct Value {
        double x, y;
        const Line* line;
    };
    std::vector<Value> values;
    for (const Line& line : chart.lines)
        if (line.end_value && !line.curve.empty() && drawable(line.curve.y.back()))
            values.push_back(
                {frame.px(line.curve.x.back()) + 6, std::clamp(frame.py(line.curve.y.back()), frame.top, frame.bottom), &line});
    if (static_cast<double>(values.size()) * kApart > frame.bottom - frame.top) return "";
    std::stable_sort(values.begin(), values.end(), [](const Value& a, const Value& b) { return a.y > b.y; });
    auto width = [&](const Value& v) { return v.line->mark.empty() || v.x > frame.right - kWidth ? kWidth : 16; };
    auto near = [&](const Value& a, const Value& b) { return a.x < b.x ? a.x + width(a) > b.x : b.x + width(b) > a.x; };
    for (size_t i = 0; i < values.size(); i++)
        for (size_t below = 0; below < i; below++)
            if (near(values[i], values[below])) values[i].y = std::min(values[i].y, values[below].y - kApart);
    for (size_t i = values.size(); i-- > 0;) {
        values[i].y = std::max(values[i].y, frame.top);
        for (size_t above = values.size(); --above > i;)
            if (near(values[i], values[above])) values[i].y = std::max(values[i].y, values[above].y + kApart);
    }
    std::string text;
    for (const Value& value : values) {
        // a line that ends among others says only which one it is: figures would cover them
        const Line& line = *value.line;
        const bool at_edge = value.x > frame.right - kWidth, marked = !line.mark.empty();
        std::string figures = at_edge || !marked ? format(std::abs(line.curve.y.back()) < 1e4 ? "%.3f" : "%.2e", line.curve.y.back()) : "";
        std::string mark = !marked   ? ""
                           : at_edge ? "<tspan class=\"mark\">" + escape_html(line.mark) + "</tspan>&#160; "
                                     : escape_html(line.mark);
        text += format("<text x=\"%.1f\" y=\"%.1f\" class=\"end\" fill=\"%s\">%s%s</text>\n", value.x, value.y + 4, line.color.c_str(),
                       mark.c_str(), figures.c_str());
    }
    return text;
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int count) {
    double raw = (high - low) / count;
    if (!(raw > 0) || !std::isfinite(raw)) return {low};
    double power = std::pow(10, std::floor(std::log10(raw))), scaled = raw / power;
    double spacing = power * (scaled <= 1.0001 ? 1 : scaled <= 2.0001 ? 2 : scaled <= 5.0001 ? 5 : 10);
    std::vector<double> ticks;
    double first = std::ceil(low / spacing - 1e-6);
    for (int i = 0; i <= count + 1 && (first + i) * spacing <= high + 1e-6 * spacing; i++) ticks.push_back((first + i) * spacing + 0.0);
    return ticks;
}

std::string tick_text(double value, double spacing) {
    if (std::abs(value) < 1e-9 * spacing) return "0";
    double size = std::max(std::abs(value), spacing);
    struct Unit {
        double scale;
        const char* suffix;
    };
    for (Unit unit : {Unit{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}})
        if (size >= unit.scale && size < 1e15) return format("%.4g%s", value / unit.scale, unit.suffix);
    if (size >= 1e15 || spacing < 1e-5) return format("%.3g", value);
    return format("%.*f", std::max(0, static_cast<int>(std::ceil(-std::log10(spacing) - 1e-6))), value);
}

Curve thin(const Curve& curve, size_t buckets) {
    if (curve.x.size() <= 2 * buckets) return curve;
    Curve thinned;
    for (size_t b = 0; b < buckets; b++) {
        size_t begin = b * curve.x.size() / buckets, end = (b + 1) * curve.x.size() / buckets;
        size_t low = begin, high = begin;
        for (size_t i = begin; i < end; i++) {
            // a NaN is kept as a gap: it must not hide behind the comparisons
            if (!drawable(curve.y[i]) || curve.y[i] < curve.y[low]) low = i;
            if (drawable(curve.y[i]) && !(curve.y[i] <= curve.y[high])) high = i;
        }
        thinned.add(curve.x[std::min(low, high)], curve.y[std::min(low, high)]);
        if (low != high) thinned.add(curve.x[std::max(low, high)], curve.y[std::max(low, high)]);
    }
    return thinned;
}

bool leaves_frame(const Chart& chart) {
    double high = y_range(chart).high;
    for (const Line& line : chart.lines)
        for (double y : line.curve.y)
            if (drawable(y) && y > high) return true;
    return false;
}

std::string svg(const Chart& chart) {
    Frame frame(chart);
    std::string title = escape_html(chart.title);
    std::string text = format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n",
                              chart.width, chart.height, title.c_str());

    std::vector<double> y_ticks = nice_ticks(frame.y.low, frame.y.high, chart.height > 280 ? 7 : 5);
    for (double y : y_ticks) {
        double spacing = y_ticks.size() > 1 ? y_ticks[1] - y_ticks[0] : 1;
        text += format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", frame.left, frame.right, frame.py(y),
                       frame.py(y));
        text += format("<text x=\"%.1f\" y=\"%.1f\" class=\"tick\" text-anchor=\"end\">%s</text>\n", frame.left - 7, frame.py(y) + 4,
                       tick_text(y, spacing).c_str());
    }
    std::vector<double> x_ticks = nice_ticks(frame.x.low, frame.x.high, chart.width / 75);
    for (double x : x_ticks) {
        double spacing = x_ticks.size() > 1 ? x_ticks[1] - x_ticks[0] : 1;
        text += format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" class=\"axis\"/>\n", frame.px(x), frame.px(x), frame.bottom,
                       frame.bottom + 4);
        text += format("<text x=\"%.1f\" y=\"%.1f\" class=\"tick\" text-anchor=\"middle\">%s</text>\n", frame.px(x), frame.bottom + 16,
                       tick_text(x, spacing).c_str());
    }
    text += format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" class=\"axis\"/>\n", frame.left, frame.right, frame.bottom,
                   frame.bottom);
    text += format("<text x=\"%.1f\" y=\"%d\" class=\"tick\" text-anchor=\"middle\">%s</text>\n", (frame.left + frame.right) / 2,
                   chart.height - 5, escape_html(chart.x_label).c_str());

    // an inner <svg> clips what leaves the frame
    double w = frame.right - frame.left + 3, h = frame.bottom - frame.top + 3;
    text += format("<svg x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" viewBox=\"%.1f %.1f %.1f %.1f\">\n", frame.left,
                   frame.top - 3, w, h, frame.left, frame.top - 3, w, h);
    for (const Band& band : chart.bands) text += area(band, frame);
    for (const Level& level : chart.levels)
        text += format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-dasharray=\"2 3\"/>\n", frame.left,
                       frame.right, frame.py(level.y), frame.py(level.y), level.color.c_str());
    for (const Line& line : chart.lines) text += polyline(line, frame);
    for (const Line& line : chart.lines)
        if (line.dots) text += dots(line, frame, escape_html(chart.x_label));
    text += "</svg>\n";

    for (const Level& level : chart.levels)
        text += format("<text x=\"%.1f\" y=\"%.1f\" class=\"level\" text-anchor=\"end\" fill=\"%s\">%s</text>\n", frame.right - 4,
                       frame.py(level.y) - 4, level.color.c_str(), escape_html(level.label).c_str());
    return text + end_values(chart, frame) + "</svg>\n";
}

std::string only_utf8(const std::string& text) {
    const char* replacement = "\xEF\xBF\xBD";
    std::string out;
    for (size_t i = 0; i < text.size();) {
        auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
        unsigned c = byte(i);
        if (c < 0x80) {
            i++;
            if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
                out += replacement;
            else
                out += static_cast<char>(c);
            continue;
        }
        // the code point of a sequence of 2 to 4 bytes; not overlong, no surrogate, not above U+10FFFF
        size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        unsigned point = c & (0xFFu >> (length + 1));
        bool valid = c >= 0xC2 && c <= 0xF4;
        for (size_t k = 1; k < length && valid; k++) {
            valid = (byte(i + k) & 0xC0) == 0x80;
            point = point << 6 | (byte(i + k) & 0x3F);
        }
        const unsigned smallest[] = {0, 0, 0x80, 0x800, 0x10000};
        // the code points that no XML document may hold are U+FFFE and U+FFFF
        valid = valid && point >= smallest[length] && point <= 0x10FFFF && (point < 0xD800 || point > 0xDFFF) && point != 0xFFFE &&
                point != 0xFFFF;
        out += valid ? text.substr(i, length) : replacement;
        i += valid ? length : 1;
    }
    return out;
}

std::string escape_html(const std::string& text) {
    std::string out;
    for (char c : only_utf8(text)) {
        if (c == '&')
            out += "&amp;";
        else if (c == '<')
            out += "&lt;";
        else if (c == '>')
            out += "&gt;";
        else if (c == '"')
            out += "&quot;";
        else if (c == '\'')
            out += "&#39;";
        else
            out += c;
    }
    return out;
}

}  // namespace traincu
