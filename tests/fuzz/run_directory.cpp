// Damage to a run: two valid checkpoints, then the edits that an input lists, 6 bytes each: what, which file, where (u16), how (u16).
// A checkpoint is accepted if and only if it is one of those that were written, bit for bit.
#include <unistd.h>

#include <set>

#include "src/checkpoint/formats.h"
#include "tests/fuzz/model.h"

namespace traincu::fuzz {

namespace {

using Files = std::map<std::string, std::string>;  // by their path in the run

const Files& original() {
    static const Files files = make_run("source", {3, 7});
    return files;
}

enum Edit { flip, cut, append, remove, copy, swap, add_foreign, rename_folder, link, edits };

void apply(Files& files, std::set<std::string>& links, Taker& taker) {
    const auto what = taker.take<uint8_t>() % edits;
    const auto which = taker.take<uint8_t>();
    const auto where = taker.take<uint16_t>(), how = taker.take<uint16_t>();
    if (files.empty()) return;
    auto nth = [&](unsigned n) { return std::next(files.begin(), n % files.size()); };
    const auto at = nth(which);
    std::string& content = at->second;
    const std::string name = at->first;
    switch (what) {
        case flip:
            if (!content.empty()) content[where % content.size()] ^= static_cast<char>(1 + how % 255);
            break;
        case cut:
            content.resize(std::min<size_t>(content.size(), where));
            break;
        case append:
            content.append(1 + how % 5000, static_cast<char>(where));
            break;
        case remove:
            files.erase(at);
            break;
        case copy:
            content = nth(how)->second;
            break;
        case swap:
            std::swap(content, nth(how)->second);
            break;
        case add_foreign:
            files[fs::path(name).parent_path() / (how % 2 ? "rank_1_of_2.bin" : "other.safetensors")] = content;
            break;
        case rename_folder: {
            Files renamed;
            const std::string from = fs::path(name).parent_path(), to = checkpoint_name(how);
            for (auto& [path, text] : files) renamed[path.rfind(from + "/", 0) == 0 ? to + path.substr(from.size()) : path] = text;
            files = std::move(renamed);
            links.clear();
            break;
        }
        case link:
            links.insert(name);
            break;
    }
}

Files files_of(const Files& files, const std::string& folder) {
    Files inside;
    for (const auto& [path, text] : files)
        if (path.rfind(folder + "/", 0) == 0) inside[path.substr(folder.size() + 1)] = text;
    return inside;
}

}  // namespace

bool fuzz_run_directory(Bytes input) {
    Files files = original();
    std::set<std::string> links;
    Taker taker(input);
    for (int i = 0; i < 8 && !taker.rest().empty(); i++) apply(files, links, taker);

    const std::string run = scratch_folder() + "/run";
    fs::remove_all(run);
    fs::create_directories(run);
    for (const auto& [path, text] : files) {
        fs::create_directories((run / fs::path(path)).parent_path());
        if (links.count(path))
            ENSURE(::symlink(put_file("linked", text).c_str(), (run + "/" + path).c_str()) == 0);
        else
            put_file("run/" + path, text);
    }

    int64_t newest_whole = -1;
    for (int64_t step : checkpoint_steps(run)) {
        const std::string folder = checkpoint_name(step);
        const Files inside = files_of(files, folder);
        bool linked = false;
        for (const std::string& path : links) linked = linked || (path.rfind(folder + "/", 0) == 0 && files.count(path));
        const bool whole = !linked && inside == files_of(original(), folder);
        ENSURE(accepted([&] { open_checkpoint(run + "/" + folder); }) == whole);
        if (whole) newest_whole = std::max(newest_whole, step);
    }
    const auto found = newest_checkpoint(run, [](const std::string& why) { ENSURE(!why.empty()); });
    ENSURE((found ? found->step : -1) == newest_whole);
    const bool usable = accepted([&] {
        const ModelOnDisk model = find_model(run);
        ENSURE(model.step == newest_whole);
        Arenas arenas(model.config);
        load_model(model, arenas.table, arenas.params);
        ENSURE(arenas.memory[0][0] == static_cast<float>(newest_whole));
    });
    ENSURE(usable == found.has_value());
    RealIo io;
    accepted([&] { retain_checkpoints(io, run, 2); });
    const auto after = newest_checkpoint(run, [](const std::string&) {});
    ENSURE((after ? after->step : -1) == newest_whole);
    return usable;
}

Seeds run_directory_seeds() {
    auto edit = [](Edit what, uint8_t which, uint16_t where, uint16_t how) {
        return packed(static_cast<uint8_t>(what), which, where, how);
    };
    return {
        "",
        edit(flip, 5, 100, 1),
        edit(cut, 6, 100, 0) + edit(append, 7, 0, 9),
        edit(remove, 4, 0, 0) + edit(copy, 5, 0, 1),
        edit(add_foreign, 7, 0, 1) + edit(swap, 6, 0, 5),
        edit(rename_folder, 7, 0, 9),
        edit(link, 4, 0, 0),
    };
}

}  // namespace traincu::fuzz
