// Files of clusters: data/clusters/README.md says what stands in one.
#include <set>

#include <nlohmann/json.hpp>

#include "src/base/files.h"
#include "src/base/json.h"
#include "src/plan/cluster.h"

namespace traincu {

using nlohmann::json;

namespace {

// One object of the file. Whatever is not as it should be ends in one sentence that names the place; so does a key that nobody asked for.
class Fields {
public:
    Fields(const json& object, std::string place, const std::string& path) : object_(object), place_(std::move(place)), path_(path) {
        if (!object.is_object()) throw refuse(place_.empty() ? "it is no JSON object" : place_ + " must be an object");
    }

    Error refuse(const std::string& why) const {
        return Error(ExitCode::usage, path_ + ": " + why,
                     "compare it with data/clusters/h100.json; data/clusters/README.md explains every key")
            .file(path_);
    }
    std::string name(const std::string& key) const { return place_.empty() ? key : place_ + "." + key; }
    bool has(const std::string& key) const { return object_.contains(key); }

    const json& value(const std::string& key) {
        asked_.insert(key);
        if (!has(key)) throw refuse(name(key) + " is missing");
        return object_.at(key);
    }
    std::string text(const std::string& key) {
        const json& v = value(key);
        if (!v.is_string()) throw refuse(name(key) + " must be a text");
        return v.get<std::string>();
    }
    // Above `above`, or, where 0 is allowed, not below it.
    double number(const std::string& key, bool may_be_zero = false) {
        const json& v = value(key);
        const double x = v.is_number() ? v.get<double>() : -1;
        if (!v.is_number() || !(x <= 1e30) || !(may_be_zero ? x >= 0 : x > 0))
            throw refuse(name(key) + (may_be_zero ? " must be a number, 0 or more" : " must be a number above 0"));
        return x;
    }
    int64_t integer(const std::string& key, int64_t most) {
        const json& v = value(key);
        // an unsigned number beyond int64 would come back negative
        if (!v.is_number_integer() || v.get<int64_t>() < 1 || v.get<int64_t>() > most)
            throw refuse(name(key) + format(" must be a whole number from 1 to %lld", static_cast<long long>(most)));
        return v.get<int64_t>();
    }
    const json& list(const std::string& key) {
        const json& v = value(key);
        if (!v.is_array()) throw refuse(name(key) + " must be a list");
        return v;
    }
    Fields object(const std::string& key) { return Fields(value(key), name(key), path_); }
    // The objects of a list.
    Fields element(const std::string& key, size_t i) { return Fields(list(key).at(i), name(key) + format("[%zu]", i), path_); }

    void no_more() const {
        for (const auto& [key, unused] : object_.items())
            if (!asked_.contains(key)) throw refuse(name(key) + " is no key of a cluster's file");
    }

private:
    const json& object_;
    const std::string place_;
    const std::string& path_;
    std::set<std::string> asked_;
};

// Beyond all clusters, and so that no count of bytes leaves int64.
constexpr int64_t most_nodes = 10000, most_gpus = 1024, most_parameters = 10000000000000, most_tokens = 10000000;

LinkCost read_link(Fields link) {
    LinkCost cost{link.number("alpha_us", true) * 1e-6, link.number("gb_per_s") * 1e9};
    link.no_more();
    return cost;
}

// The rate of a whole node, whichever way the file tells it.
LinkCost read_between(Fields link, int64_t gpus_per_node) {
    LinkCost cost{link.number("alpha_us", true) * 1e-6, link.number("gb_per_s") * 1e9};
    const std::string per = link.text("per");
    if (per != "node" && per != "gpu")
        throw link.refuse(link.name("per") + " must be \"node\" (the GPUs of a node share so much) or \"gpu\" (each has a NIC of its own)");
    if (per == "gpu") cost.rate *= static_cast<double>(gpus_per_node);
    link.no_more();
    return cost;
}

Measurement read_measurement(Fields row, const Cluster& cluster) {
    Measurement x;
    x.model = row.text("model");
    x.parameters = row.integer("parameters", most_parameters);
    x.flops_per_token = row.number("flops_per_token");
    x.tokens = row.integer("tokens", most_tokens);
    x.tp = row.has("tp") ? row.integer("tp", most_gpus) : 1;
    x.pp = row.has("pp") ? row.integer("pp", most_gpus) : 1;
    x.nodes = row.has("nodes") ? row.integer("nodes", most_nodes) : cluster.nodes;
    if (row.has("fitted")) {
        const json& fitted = row.value("fitted");
        if (!fitted.is_boolean()) throw row.refuse(row.name("fitted") + " must be true or false");
        x.fitted = fitted.get<bool>();
    }
    Fields tflops = row.object("tflops");
    tflops.number("baseline");
    for (int i = 0; i < n_comm_modes; i++) {
        const CommMode mode = static_cast<CommMode>(i);
        if (tflops.has(name_of(mode))) x.throughputs.push_back({mode, tflops.number(name_of(mode))});
    }
    tflops.no_more(), row.no_more();
    placement(cluster_of(cluster, x), x.tp, x.pp);
    return x;
}

}  // namespace

Cluster read_cluster(const std::string& path) {
    const json whole = parse_untrusted(read_whole_file(path, ExitCode::usage), 8, path, ExitCode::usage);
    Fields file(whole, "", path);
    Cluster c;
    c.name = file.text("name");
    c.nodes = file.integer("nodes", most_nodes), c.gpus_per_node = file.integer("gpus_per_node", most_gpus);
    Fields links = file.object("links");
    c.inside = read_link(links.object("inside")), c.between = read_between(links.object("between"), c.gpus_per_node);
    links.no_more();
    Fields gpu = file.object("gpu");
    c.gpu = gpu.text("name"), c.flops = gpu.number("tflops") * 1e12, c.codec_rate = gpu.number("codec_gb_per_s") * 1e9;
    gpu.no_more();
    for (const json& note : file.list("notes")) {
        if (!note.is_string()) throw file.refuse("notes must be a list of texts");
        c.notes.push_back(note.get<std::string>());
    }
    if (file.has("measured"))
        for (size_t i = 0; i < file.list("measured").size(); i++) c.measured.push_back(read_measurement(file.element("measured", i), c));
    file.no_more();
    return c;
}

}  // namespace traincu
