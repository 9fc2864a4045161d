// SimDisk: what a power cut leaves behind. The calls of a run are executed for real and logged; the log is then replayed, call by call, on
// a model of a disk that keeps no promise it did not make:
//
//   a file     fsync makes its content durable, not its name. Until then every 4 KiB piece may be old, new, zero, or torn (its first half
//              new), and the length old or new. A failed fsync drops what was pending and later ones report success (as Linux does:
//              Rebello et al., "Can applications recover from fsync failures?", ATC'20).
//   a folder   fsync makes its names durable. Until then any number of its first pending changes may have reached the disk, whatever other
//              folders did; a rename or an exchange is one change.
//
// At every point of the log all combinations of these choices are states that the machine may wake up in.
#pragma once

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/base/philox.h"
#include "src/checkpoint/io.h"

namespace traincu::test {

struct DiskOp {
    IoCall::Kind kind;
    CrashPoint point;
    std::string path, to;  // relative to the run's folder, which is ""
    std::string data;      // of a write
    int64_t bytes = 0, offset = 0;
    bool failed = false;    // a sync that reported an error
    int acknowledged = -1;  // not a call: from here on the user was told that commit number so-and-so is kept
};

class SimDisk : public RealIo {
public:
    explicit SimDisk(std::string run_dir) : root_(std::move(run_dir)) {}
    std::vector<DiskOp> log;
    int64_t fail_sync = -1;  // this file sync, counted from 0, reports EIO
    int64_t kill_at = -1;    // from this call on, counted from 0, nothing happens any more
    int64_t calls = 0;

    void acknowledge(int commit) {
        DiskOp op{};
        op.acknowledged = commit;
        log.push_back(op);
    }
    void revive() { kill_at = -1; }

protected:
    int64_t perform(const IoCall& call) override {
        if (kill_at >= 0 && calls++ >= kill_at) {
            if (call.kind == IoCall::close) RealIo::perform(call);
            return -EIO;
        }
        bool failed = call.kind == IoCall::sync && fail_sync >= 0 && fail_sync-- == 0;
        int64_t result = failed ? -EIO : RealIo::perform(call);
        if (result < 0 && !failed) return result;
        DiskOp op{call.kind, call.point, inside(call.path), inside(call.to), {}, call.bytes, call.offset, failed};
        if (call.kind == IoCall::write) op.data.assign(static_cast<const char*>(call.data), static_cast<size_t>(result));
        log.push_back(std::move(op));
        return result;
    }

private:
    std::string inside(const std::string& path) const { return path.size() > root_.size() ? path.substr(root_.size() + 1) : ""; }
    std::string root_;
};

// The visible part of a crash state: the files of every step_ folder, and the names of all else.
struct CrashState {
    std::map<std::string, std::map<std::string, std::string>> checkpoints;
    std::set<std::string> others;
    bool operator<(const CrashState& o) const { return checkpoints != o.checkpoints ? checkpoints < o.checkpoints : others < o.others; }
};

class DiskModel {
public:
    void apply(const DiskOp& op) {
        auto [folder, name] = split(op.path);
        switch (op.kind) {
            case IoCall::open_new:
                change(folder, {name, add_node({}), "", false});
                break;
            case IoCall::make_dir:
                change(folder, {name, add_node({true, {}, {}, {}, {}}), "", false});
                break;
            case IoCall::allocate:
                resize(file(op.path), std::max<size_t>(file(op.path).current.size(), static_cast<size_t>(op.bytes)));
                break;
            case IoCall::write: {
                Node& node = file(op.path);
                resize(node, std::max(node.current.size(), static_cast<size_t>(op.offset) + op.data.size()));
                node.current.replace(static_cast<size_t>(op.offset), op.data.size(), op.data);
                break;
            }
            case IoCall::sync: {
                Node& node = file(op.path);
                if (op.failed)
                    node.dropped = true;
                else if (!node.dropped)
                    node.durable = node.current;
                break;
            }
            case IoCall::sync_dir: {
                Node& node = nodes_[static_cast<size_t>(find(op.path))];
                for (const Change& c : node.pending) apply_change(node.names, c);
                node.pending.clear();
                break;
            }
            case IoCall::rename_new:
                change(folder, {name, -1, split(op.to).second, false});
                break;
            case IoCall::exchange:
                change(folder, {name, -1, split(op.to).second, true});
                break;
            case IoCall::remove_file:
            case IoCall::remove_dir:
                change(folder, {name, -1, "", false});
                break;
            default:
                break;  // close and the lock leave no trace that matters here
        }
    }

    // How many answers each open question of this moment has: how many pending names of a folder, which length, what of each piece.
    std::vector<int> questions() const {
        std::vector<int> options;
        walk([&](int count) { return options.push_back(count), 0; });
        return options;
    }
    CrashState state(const std::vector<int>& answers) const {
        size_t next = 0;
        return walk([&](int) { return answers[next++]; });
    }

private:
    // A change of a folder's names: `name` now means `node`; or is renamed to (or exchanged with) `to`; or, without either, is gone.
    struct Change {
        std::string name;
        int node;
        std::string to;
        bool exchange;
    };
    struct Node {
        bool is_dir = false;
        std::string durable, current;      // of a file
        std::map<std::string, int> names;  // of a folder, durable
        std::vector<Change> pending;
        bool dropped = false;
    };
    static constexpr size_t piece = 4096;
    enum Answer { is_new, is_old, is_zero, is_torn };

    static void apply_change(std::map<std::string, int>& names, const Change& c) {
        if (c.node >= 0)
            names[c.name] = c.node;
        else if (c.exchange)
            std::swap(names[c.name], names[c.to]);
        else if (!c.to.empty())
            names[c.to] = names[c.name], names.erase(c.name);
        else
            names.erase(c.name);
    }
    static std::pair<std::string, std::string> split(const std::string& path) {
        size_t slash = path.find('/');
        return slash == std::string::npos ? std::pair<std::string, std::string>{"", path}
                                          : std::pair{path.substr(0, slash), path.substr(slash + 1)};
    }
    static std::map<std::string, int> names_now(const Node& node) {
        std::map<std::string, int> names = node.names;
        for (const Change& c : node.pending) apply_change(names, c);
        return names;
    }
    int find(const std::string& path) const {
        int node = 0;
        auto [folder, name] = split(path);
        if (!folder.empty()) node = names_now(nodes_[0]).at(folder);
        return name.empty() ? node : names_now(nodes_[static_cast<size_t>(node)]).at(name);
    }
    Node& file(const std::string& path) { return nodes_[static_cast<size_t>(find(path))]; }
    int add_node(Node node) { return nodes_.push_back(std::move(node)), static_cast<int>(nodes_.size()) - 1; }
    void change(const std::string& folder, Change c) { nodes_[static_cast<size_t>(find(folder))].pending.push_back(std::move(c)); }
    static void resize(Node& node, size_t size) { node.current.resize(size, '\0'), node.dropped = false; }

    template <class Ask>
    std::map<std::string, int> names_after(const Node& node, Ask& ask) const {
        std::map<std::string, int> names = node.names;
        size_t done = node.pending.empty() ? 0 : node.pending.size() - static_cast<size_t>(ask(static_cast<int>(node.pending.size()) + 1));
        for (size_t i = 0; i < done; i++) apply_change(names, node.pending[i]);
        return names;
    }
    template <class Ask>
    std::string content_after(const Node& node, Ask& ask) const {
        if (node.dropped || node.durable == node.current) return node.durable;
        size_t longest = std::max(node.durable.size(), node.current.size()), length = node.current.size();
        if (node.durable.size() != node.current.size() && ask(2)) length = node.durable.size();
        std::string old_content = node.durable, content = node.current;
        old_content.resize(longest, '\0'), content.resize(longest, '\0');
        for (size_t at = 0; at < longest; at += piece) {
            size_t size = std::min(piece, longest - at);
            if (old_content.compare(at, size, content, at, size) == 0) continue;
            int answer = ask(4);
            if (answer == is_old) content.replace(at, size, old_content, at, size);
            if (answer == is_zero) content.replace(at, size, size, '\0');
            if (answer == is_torn) content.replace(at + size / 2, size - size / 2, old_content, at + size / 2, size - size / 2);
        }
        content.resize(length);
        return content;
    }
    // Goes through the disk and asks one question per open choice, always in the same order for the same answers so far. Answer 0 =
    // persisted. What lies in a folder that is no checkpoint by name is deleted unread, so nothing is asked about it: the answers would not
    // be seen.
    template <class Ask>
    CrashState walk(Ask ask) const {
        CrashState result;
        // All folders that may be called step_* are asked about, whatever their name turns out to be: the questions do not depend on
        // answers.
        std::map<std::string, int> names = names_after(nodes_[0], ask);
        for (size_t i = 1; i < nodes_.size(); i++) {
            if (!nodes_[i].is_dir || !may_be_checkpoint(static_cast<int>(i))) continue;
            std::map<std::string, std::string> files;
            std::map<std::string, int> inside = names_after(nodes_[i], ask);
            for (auto& [name, node] : names_now_or_durable(nodes_[i])) {
                std::string content = content_after(nodes_[static_cast<size_t>(node)], ask);
                auto found = inside.find(name);
                if (found != inside.end() && found->second == node) files[name] = std::move(content);
            }
            for (auto& [name, node] : names)
                if (node == static_cast<int>(i) && name.rfind("step_", 0) == 0) result.checkpoints[name] = files;
        }
        for (auto& [name, node] : names)
            if (name.rfind("step_", 0) != 0) result.others.insert(name.substr(0, name.rfind('_')));  // without its random part
        return result;
    }
    std::vector<std::pair<std::string, int>> names_now_or_durable(const Node& node) const {
        std::set<std::pair<std::string, int>> all(node.names.begin(), node.names.end());
        for (const Change& c : node.pending)
            if (c.node >= 0) all.insert({c.name, c.node});
        return {all.begin(), all.end()};
    }
    bool may_be_checkpoint(int node) const {
        std::map<std::string, int> names = nodes_[0].names;
        auto named = [&] {
            return std::any_of(names.begin(), names.end(),
                               [&](auto& entry) { return entry.second == node && entry.first.rfind("step_", 0) == 0; });
        };
        if (named()) return true;
        for (const Change& c : nodes_[0].pending) {
            apply_change(names, c);
            if (named()) return true;
        }
        return false;
    }

    std::vector<Node> nodes_ = {Node{true, {}, {}, {}, {}}};  // node 0 is the run's folder
};

// Calls visit(answers) for the combinations of answers: all of them if there are at most `exhaustive`, else those that differ in at most
// `deviations` places from "all persisted" and from "nothing persisted", and `samples` random ones. Returns how many there were.
inline int64_t for_each_answer(const std::vector<int>& options, int64_t exhaustive, int deviations, int64_t samples, uint64_t seed,
                               const std::function<void(const std::vector<int>&)>& visit) {
    int64_t product = 1, visited = 0;
    for (int count : options) product = std::min<int64_t>(product * count, int64_t{1} << 40);
    std::vector<int> answers(options.size(), 0);
    auto show = [&] { visited++, visit(answers); };
    if (product <= exhaustive) {
        for (int64_t number = 0; number < product; number++) {
            int64_t rest = number;
            for (size_t i = 0; i < options.size(); i++) answers[i] = static_cast<int>(rest % options[i]), rest /= options[i];
            show();
        }
        return visited;
    }
    std::function<void(size_t, int)> deviate = [&](size_t from, int left) {
        show();
        if (left == 0) return;
        for (size_t i = from; i < options.size(); i++) {
            int usual = answers[i];
            for (int other = 0; other < options[i]; other++)
                if (other != usual) answers[i] = other, deviate(i + 1, left - 1);
            answers[i] = usual;
        }
    };
    deviate(0, deviations);
    // Nothing persisted: pieces and lengths old (answer 1), folders without any pending name (the last answer).
    for (size_t i = 0; i < options.size(); i++) answers[i] = options[i] == 4 ? 1 : options[i] - 1;
    deviate(0, deviations);
    Random random{seed, RandomStream::sampling};
    for (int64_t n = 0; n < samples; n++) {
        for (size_t i = 0; i < options.size(); i++)
            answers[i] = static_cast<int>(random.below(static_cast<uint64_t>(options[i]), static_cast<uint32_t>(n), i));
        show();
    }
    return visited;
}

}  // namespace traincu::test
