#include "src/command/run_directory.h"

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "src/base/version.h"

namespace traincu {

using Json = nlohmann::ordered_json;

RunDirectory open_run_directory(Io& io, Options& options) {
    std::string& out = options.out;
    if (out.empty()) {
        char stamp[32];
        const std::time_t now = std::time(nullptr);
        std::strftime(stamp, sizeof stamp, "runs/%Y%m%d-%H%M%S", std::localtime(&now));
        out = stamp;
    }
    std::error_code error;
    std::filesystem::create_directories(out, error);
    if (error)
        throw Error(ExitCode::io, format("the run directory %s cannot be made: %s", out.c_str(), error.message().c_str()),
                    "choose another --out")
            .file(out);
    RunDirectory directory;
    directory.path = out;
    directory.lock = std::make_unique<RunLock>(out);
    retain_checkpoints(io, out, 0);  // removes nothing but what an interrupted commit left

    const std::vector<int64_t> steps = checkpoint_steps(out);
    if (options.resume == "auto") {
        directory.checkpoint =
            newest_checkpoint(out, [](const std::string& why) { std::fprintf(stderr, "passed over: %s\n", why.c_str()); });
        if (!directory.checkpoint && !steps.empty())
            throw Error(ExitCode::checkpoint, format("%s holds checkpoints, but none that is whole", out.c_str()),
                        "look at them with ./train inspect, or start anew in another --out")
                .file(out);
    } else if (options.resume != "never") {
        directory.checkpoint = open_checkpoint(options.resume);
    } else if (!steps.empty()) {
        throw Error(ExitCode::usage, format("%s already holds a run, at step %lld", out.c_str(), static_cast<long long>(steps[0])),
                    "continue it with --resume auto, or choose another --out")
            .file(out);
    }
    return directory;
}

Error unknown_meta(const RunDirectory& directory, const nlohmann::json::exception& exception) {
    return Error(ExitCode::checkpoint,
                 format("the manifest of %s keeps a run's state in another form: %s", directory.checkpoint->path.c_str(), exception.what()),
                 "resume with the version of the program that wrote it, or from another checkpoint")
        .file(directory.checkpoint->path + "/manifest.json");
}

void check_resume(const RunDirectory& directory, const Options& options, const Json& data_fingerprint) try {
    const std::string& path = directory.checkpoint->path;
    const Json& saved = directory.meta().at("options");
    (void)saved.get_ref<const Json::object_t&>();  // throws where it is no object
    std::string all;
    for (const std::string& conflict : resume_conflicts(saved, options)) all += (all.empty() ? "" : "; ") + conflict;
    if (!all.empty())
        throw Error(ExitCode::checkpoint, format("the checkpoint %s was made with other options (%s)", path.c_str(), all.c_str()),
                    "resume with the same options (--config RUN/run.json takes them all), or start anew in another --out")
            .file(path);
    if (directory.meta().at("data") != data_fingerprint && !options.allow_data_change)
        throw Error(ExitCode::data, format("the training shards are not those of the checkpoint %s", path.c_str()),
                    "give the same --data in the same order, or --allow-data-change to go on with these")
            .file(path);
} catch (const nlohmann::json::exception& exception) {
    throw unknown_meta(directory, exception);
}

void write_run_json(const RunDirectory& directory, const Options& options, const std::string& command, const Json& facts) {
    Json json = {{"options", options_to_json(options)}, {"command", command}, {"git_revision", revision()}, {"build", build_summary()}};
    json.update(facts);
    if (!options.baselines.empty()) {
        std::ifstream file(options.baselines);
        json["baselines"] = Json::parse(file, nullptr, false);
        if (!json["baselines"].is_object())
            throw Error(ExitCode::usage,
                        format("--baselines: %s is not a JSON object of names and nats per byte", options.baselines.c_str()),
                        "write it as {\"gzip -9\": 1.65}")
                .file(options.baselines);
    }
    const std::string path = directory.path + "/run.json", part = path + ".part";
    std::ofstream file(part);
    file << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    file.close();
    if (!file || std::rename(part.c_str(), path.c_str()) != 0)
        throw Error(ExitCode::io, format("%s cannot be written", path.c_str()), "check space and permissions, or choose another --out")
            .file(path);
}

}  // namespace traincu
