#include "src/config/options.h"

#include <cmath>
#include <fstream>
#include <map>

#include <CLI/CLI.hpp>

#include "src/base/error.h"
#include "src/base/parse_number.h"

namespace traincu {

using Json = nlohmann::ordered_json;

namespace {

const OptionRow* find_row(const std::string& name) {
    for (const OptionRow& row : option_table())
        if (name == row.name) return &row;
    return nullptr;
}

[[noreturn]] void refuse(const std::string& origin, const OptionRow& row, const std::string& value, const std::string& wanted) {
    throw Error(ExitCode::usage, format("%s: --%s must be %s, not '%s'", origin.c_str(), row.name, wanted.c_str(), value.c_str()),
                format("%s: %s; see ./train --help", row.name, row.help));
}

// Plain decimal numbers for whole ones: 1000, not 1e+03.
std::string number_text(double value) {
    return value == std::floor(value) && std::fabs(value) < 1e15 ? format("%.0f", value) : format("%g", value);
}

std::string range_text(const OptionRow& row, const char* kind) {
    if (std::isinf(row.high)) return format("%s of at least %s", kind, number_text(row.low).c_str());
    return format("%s from %s to %s", kind, number_text(row.low).c_str(), number_text(row.high).c_str());
}

void set_text(Options& options, const OptionRow& row, const std::string& text, const std::string& origin) {
    if (auto* field = std::get_if<std::string Options::*>(&row.field)) {
        bool known = row.choices.empty() || std::find(row.choices.begin(), row.choices.end(), text) != row.choices.end();
        if (!known) {
            std::string wanted = "one of";
            for (const std::string& choice : row.choices) wanted += " " + choice;
            refuse(origin, row, text, wanted);
        }
        options.*(*field) = text;
    } else if (auto* whole = std::get_if<int64_t Options::*>(&row.field)) {
        int64_t value = 0;
        bool ok = parse_whole(text, value) && static_cast<double>(value) >= row.low && static_cast<double>(value) <= row.high;
        if (!ok) refuse(origin, row, text, range_text(row, "a whole number"));
        options.*(*whole) = value;
    } else if (auto* real = std::get_if<double Options::*>(&row.field)) {
        double value = 0;
        if (!parse_whole(text, value) || !(value >= row.low && value <= row.high) || std::isinf(value))
            refuse(origin, row, text, range_text(row, "a number"));
        options.*(*real) = value;
    } else {
        bool on = text == "1" || text == "true", off = text == "0" || text == "false";
        if (!on && !off) refuse(origin, row, text, "0 or 1 (or stand alone)");
        options.*std::get<bool Options::*>(row.field) = on;
    }
}

Json read_config(const std::string& path) {
    std::ifstream file(path);
    if (!file)
        throw Error(ExitCode::usage, format("--config: %s cannot be read", path.c_str()), "give the run.json of a run directory")
            .file(path);
    Json parsed = Json::parse(file, nullptr, false);
    if (parsed.is_discarded() || !parsed.is_object())
        throw Error(ExitCode::usage, format("--config: %s is not a JSON object", path.c_str()), "give the run.json of a run directory")
            .file(path);
    Json options = parsed.contains("options") ? parsed["options"] : parsed;
    const bool no_preset = options.is_object() && options.contains("preset") && !options["preset"].is_string();
    if (!options.is_object() || no_preset)
        throw Error(
            ExitCode::usage,
            format("--config: %s in %s is not %s", no_preset ? "'preset'" : "'options'", path.c_str(), no_preset ? "a name" : "an object"),
            "give the run.json of a run directory")
            .file(path);
    return options;
}

std::string preset_list() {
    std::string text;
    for (const std::string& name : preset_names()) {
        Options o;
        apply_json(o, preset(name), name);
        text += format("%-16s %3lld layers, width %5lld, %2lld heads, context %5lld, %s, %s, %s\n", name.c_str(),
                       static_cast<long long>(o.n_layer), static_cast<long long>(o.d_model), static_cast<long long>(o.n_head),
                       static_cast<long long>(o.seq_len), o.norm.c_str(), o.position.c_str(), o.mlp.c_str());
    }
    return text;
}

std::string closest_flag(const std::string& word) {
    // Edit distance over one row; the tables are tiny.
    std::string best;
    size_t best_distance = 4;
    for (const OptionRow& row : option_table()) {
        std::string name = std::string("--") + row.name;
        std::vector<size_t> distance(name.size() + 1);
        for (size_t j = 0; j <= name.size(); j++) distance[j] = j;
        for (size_t i = 1; i <= word.size(); i++) {
            size_t diagonal = distance[0];
            distance[0] = i;
            for (size_t j = 1; j <= name.size(); j++) {
                size_t replace = diagonal + (word[i - 1] != name[j - 1]);
                diagonal = distance[j];
                distance[j] = std::min({distance[j] + 1, distance[j - 1] + 1, replace});
            }
        }
        if (distance[name.size()] < best_distance) best_distance = distance[name.size()], best = name;
    }
    return best;
}

}  // namespace

Options parse_options(int argc, char** argv) {
    CLI::App app(
        "train.cu: pretrains language models from token shards to a checkpoint.\n"
        "Other commands: tokenize plan simulate bench generate eval export inspect report; each has its own --help.",
        "./train");
    app.set_help_flag("-h,--help", "this text");
    app.get_formatter()->column_width(34);
    app.allow_extras();
    std::map<std::string, std::vector<std::string>> given;
    const Options defaults;
    const Json default_values = options_to_json(defaults);
    for (const OptionRow& row : option_table()) {
        std::string flags = (*row.alias ? std::string("-") + row.alias + "," : "") + "--" + row.name;
        std::string help = row.help;
        if (!row.choices.empty()) {
            help += " {";
            for (const std::string& choice : row.choices) help += (help.back() == '{' ? "" : "|") + choice;
            help += "}";
        }
        std::string value = flag_text(default_values[row.name]);
        if (!value.empty()) help += " [" + value + "]";
        bool is_switch = std::holds_alternative<bool Options::*>(row.field);
        CLI::Option* option = app.add_option_function<std::vector<std::string>>(
            flags, [&given, name = std::string(row.name)](const std::vector<std::string>& values) { given[name] = values; }, help);
        option->group(row.group)->expected(is_switch ? 0 : 1, 1)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        option->type_name(is_switch ? "0|1" : std::holds_alternative<std::string Options::*>(row.field) ? "TEXT" : "NUM");
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
        throw HelpRequested{app.help()};
    } catch (const CLI::ParseError& error) {
        throw Error(ExitCode::usage, std::string("command line: ") + error.what(), "see ./train --help");
    }
    for (const std::string& extra : app.remaining()) {
        std::string close = closest_flag(extra.substr(0, extra.find('=')));
        throw Error(ExitCode::usage, format("command line: '%s' is no option of ./train", extra.c_str()),
                    close.empty() ? "see ./train --help" : format("did you mean %s? see ./train --help", close.c_str()));
    }

    auto text_of = [&](const std::string& name) {
        return given[name].empty() || given[name].back().empty() ? std::string() : given[name].back();
    };
    Options options;
    Json config = given.count("config") ? read_config(text_of("config")) : Json::object();
    std::string preset_name = given.count("preset") ? text_of("preset") : config.value("preset", "");
    if (preset_name == "list") throw HelpRequested{preset_list()};
    if (!preset_name.empty()) apply_json(options, preset(preset_name), "preset " + preset_name);
    apply_json(options, config, "--config " + text_of("config"));
    for (const auto& [name, values] : given) {
        const OptionRow& row = *find_row(name);
        bool is_switch = std::holds_alternative<bool Options::*>(row.field);
        std::string text = values.empty() ? "" : values.back();
        set_text(options, row, is_switch && text.empty() ? "1" : text, "command line");
    }
    return options;
}

std::string flag_text(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "1" : "0";
    return value.dump();
}

Json options_to_json(const Options& options) {
    Json values = Json::object();
    for (const OptionRow& row : option_table()) std::visit([&](auto field) { values[row.name] = options.*field; }, row.field);
    return values;
}

void apply_json(Options& options, const Json& values, const std::string& origin) {
    for (const auto& [name, value] : values.items()) {
        const OptionRow* row = find_row(name);
        if (!row)
            throw Error(ExitCode::usage, format("%s: '%s' is no option of ./train", origin.c_str(), name.c_str()), "see ./train --help");
        if (value.is_structured() || value.is_null()) refuse(origin, *row, value.dump(), "a plain value");
        set_text(options, *row, flag_text(value), origin);
    }
}

std::vector<OptionText> options_as_text(const Options& options) {
    std::vector<OptionText> rows;
    for (const OptionRow& row : option_table()) {
        auto text = [&](auto field) -> std::string {
            const auto& value = options.*field;
            if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>)
                return value;
            else
                return number_text(static_cast<double>(value));
        };
        rows.push_back({row.group, row.name, std::visit(text, row.field)});
    }
    return rows;
}

std::vector<std::string> resume_conflicts(const Json& saved, const Options& now) {
    std::vector<std::string> conflicts;
    Json values = options_to_json(now);
    for (const OptionRow& row : option_table())
        if (row.resume == OptionRow::Resume::same && saved.contains(row.name) && saved[row.name] != values[row.name])
            conflicts.push_back(format("--%s: %s in the checkpoint, %s now", row.name, flag_text(saved[row.name]).c_str(),
                                       flag_text(values[row.name]).c_str()));
    return conflicts;
}

}  // namespace traincu
