#include "src/base/json.h"

#include <unordered_set>
#include <vector>

namespace traincu {

using nlohmann::json;

nlohmann::json parse_untrusted(const std::string& text, int max_depth, const std::string& path, ExitCode fault) {
    auto refuse = [&](const std::string& what, int64_t offset) {
        throw Error(fault, path + ": " + what, "the file is damaged or of another kind: copy it again").file(path).offset(offset);
    };
    if (const size_t nul = text.find('\0'); nul != std::string::npos)  // the parser would take it for the end
        refuse("it has a NUL byte", static_cast<int64_t>(nul));
    std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
    auto watch = [&](int depth, json::parse_event_t event, json& value) {
        const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
        if (opens && depth >= max_depth) refuse(format("it is nested deeper than %d", max_depth), 0);
        if (event == json::parse_event_t::object_start) keys.emplace_back();
        if (event == json::parse_event_t::object_end) keys.pop_back();
        if (event == json::parse_event_t::key && !keys.back().insert(value.get_ref<const std::string&>()).second)
            refuse("the key \"" + value.get<std::string>() + "\" is there twice in one object", 0);
        return true;
    };
    try {
        return json::parse(text, watch);
    } catch (const json::parse_error& error) {
        refuse(format("it is not JSON in UTF-8 (byte %zu)", error.byte), static_cast<int64_t>(error.byte));
    } catch (const json::exception& error) {  // a number beyond all ranges
        refuse(std::string("it is not sound JSON: ") + error.what(), 0);
    }
    return {};
}

}  // namespace traincu
