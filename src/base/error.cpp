#include "src/base/error.h"

#include <cstdarg>
#include <cstdio>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace traincu {

Error::Error(ExitCode code, std::string what, std::string remedy) : code_(code), what_(std::move(what)), remedy_(std::move(remedy)) {}

Error& Error::file(std::string path) {
    file_ = std::move(path);
    return *this;
}

Error& Error::offset(int64_t bytes) {
    offset_ = bytes;
    return *this;
}

Error& Error::step(int64_t optimizer_step) {
    step_ = optimizer_step;
    return *this;
}

std::string Error::json() const {
    nlohmann::ordered_json line;
    line["code"] = static_cast<int>(code_);
    line["step"] = step_ >= 0 ? nlohmann::ordered_json(step_) : nlohmann::ordered_json();
    line["file"] = file_.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(file_);
    line["offset"] = offset_ >= 0 ? nlohmann::ordered_json(offset_) : nlohmann::ordered_json();
    line["message"] = what_;
    line["hint"] = remedy_;
    // invalid UTF-8 (a foreign file name, say) is replaced, never a second error
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string format(const char* fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int size = std::vsnprintf(nullptr, 0, fmt, args);
    va_end(args);
    std::string text(size > 0 ? static_cast<size_t>(size) : 0, '\0');
    std::vsnprintf(text.data(), text.size() + 1, fmt, again);
    va_end(again);
    return text;
}

void contract_failed(const char* expression, const char* file, int line) {
    throw std::logic_error(format("%s:%d: contract broken: %s", file, line, expression));
}

}  // namespace traincu
