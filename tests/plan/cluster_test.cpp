// The cost model of clusters: bytes as the SDP4Bit paper's table has them, times by hand, the paper's throughputs, and every mistake of a
// file.
#include "src/plan/cluster.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "tests/support/cli.h"

namespace traincu::test {

TEST_SUITE("cluster") {
    using Json = nlohmann::ordered_json;

    // The repository's examples; the tests run in its root.
    std::string example(const std::string& name) { return fs::absolute("data/clusters/" + name + ".json").string(); }

    // m GPUs in each of M nodes, all of one group, with round figures: 2^30 bytes/s inside, 2^26 a GPU between, no alphas.
    Cluster round_cluster(int64_t M, int64_t m) {
        Cluster c;
        c.nodes = M, c.gpus_per_node = m;
        c.inside = {0, std::ldexp(1, 30)}, c.between = {0, std::ldexp(1, 26) * static_cast<double>(m)};
        c.flops = 1e12, c.codec_rate = 1e30;
        return c;
    }
    ClusterJob job_with(std::vector<int64_t> parts) {
        ClusterJob job;
        job.parts = std::move(parts);
        job.flops_per_token = 3e9, job.tokens = 100;  // 0.3 s on one GPU of 1e12
        return job;
    }

    TEST_CASE("cluster: bytes are those of the paper's table") {
        struct Check {
            int64_t n, M, m, difference, hop1, hop2, bf16, f32;
        };
        for (const Check& x : {Check{393216, 2, 2, 148032, 202752, 52224, 589824, 1179648},
                               Check{10485760, 2, 4, 4605440, 8110080, 696320, 18350080, 36700160}}) {
            const Cluster c = round_cluster(x.M, x.m);
            const ClusterJob job = job_with({x.n});
            const StepCost baseline = step_cost(c, job, CommMode::baseline, 1), sdp4bit = step_cost(c, job, CommMode::sdp4bit, 1);
            CHECK(baseline.weight_bytes == x.bf16);
            CHECK(baseline.ring_bytes == x.f32);
            CHECK(baseline.hop1_bytes + baseline.hop2_bytes == 0);
            CHECK(sdp4bit.weight_bytes == x.difference);
            CHECK(sdp4bit.ring_bytes == 0);
            CHECK(sdp4bit.hop1_bytes == x.hop1);
            CHECK(sdp4bit.hop2_bytes == x.hop2);
            // a ring leaves a node at one of its m ranks; of the hops the second is between nodes
            CHECK(baseline.bytes_between * static_cast<double>(x.m) == static_cast<double>(x.bf16 + x.f32));
            CHECK(sdp4bit.bytes_between == static_cast<double>(x.difference) / static_cast<double>(x.m) + static_cast<double>(x.hop2));
            const StepCost tlq = step_cost(c, job, CommMode::tlq, 1), difference = step_cost(c, job, CommMode::difference, 1);
            CHECK((tlq.weight_bytes == x.bf16 && tlq.hop1_bytes == x.hop1 && tlq.hop2_bytes == x.hop2));
            CHECK((difference.weight_bytes == x.difference && difference.ring_bytes == x.f32));
            // ZeRO++: 4 bits in the first hop too: 17/33 of 8.25 are 4.25; weights of 8 bits and a scale for 2048
            const StepCost zeropp = step_cost(c, job, CommMode::zeropp, 1);
            CHECK(zeropp.hop1_bytes * 33 == x.hop1 * 17);
            CHECK(zeropp.hop2_bytes == x.hop2);
            const int64_t shard = x.n / (x.M * x.m);
            CHECK(zeropp.weight_bytes == (x.M * x.m - 1) * (shard + 4 * shard / 2048));
        }
    }

    TEST_CASE("cluster: one rank a node is one hop of 4 bits, one node one of 8, and one rank sends nothing") {
        constexpr int64_t n = 1 << 20;  // 4.25 bits of it: 557056 bytes; 8.25: 1081344
        const ClusterJob job = job_with({n});
        const StepCost apart = step_cost(round_cluster(8, 1), job, CommMode::sdp4bit, 1);
        CHECK(apart.hop1_bytes == 0);
        CHECK(apart.hop1 == 0);
        CHECK(apart.hop2_bytes == 557056 / 8 * 7);
        CHECK(apart.bytes_between == static_cast<double>(apart.bytes()));
        CHECK(apart.hidden == 0);
        const StepCost together = step_cost(round_cluster(1, 8), job, CommMode::sdp4bit, 1);
        CHECK(together.hop1_bytes == 1081344 / 8 * 7);
        CHECK(together.hop2_bytes == 0);
        CHECK(together.bytes_between == 0);
        CHECK(together.hop2 + together.hidden == 0);
        CHECK(step_cost(round_cluster(1, 8), job, CommMode::zeropp, 1).hop1_bytes == 557056 / 8 * 7);
        for (CommMode mode : {CommMode::baseline, CommMode::zeropp, CommMode::difference, CommMode::tlq, CommMode::sdp4bit}) {
            const StepCost alone = step_cost(round_cluster(1, 1), job, mode, 1);
            CHECK(alone.bytes() == 0);
            CHECK(alone.seconds() == doctest::Approx(0.3));
        }
    }

    TEST_CASE("cluster: seconds by hand") {
        constexpr int64_t n = 1 << 24;  // 64 MiB of f32
        Cluster c = round_cluster(4, 2);
        c.inside.alpha = 1e-3, c.between.alpha = 1e-2, c.codec_rate = std::ldexp(1, 30);
        ClusterJob job = job_with({n});
        const double MiB = std::ldexp(1, 20);
        // P = 8: seven steps of a shard of 8 MiB; the ring leaves the node with both GPUs' 64 MiB/s. A shard passes all four crossings and
        // three links inside.
        const double alphas = 4 * 1e-2 + 3 * 1e-3;
        const StepCost baseline = step_cost(c, job, CommMode::baseline, 1);
        CHECK(baseline.ring == doctest::Approx(alphas + 7 * 8.0 / 128));
        CHECK(baseline.weights == doctest::Approx(alphas + 7 * 4.0 / 128));
        CHECK(baseline.seconds() == doctest::Approx(0.3 + baseline.ring + baseline.weights));
        job.slices = 4;
        const double inside = 8.25 / 8 * 16 / 2, between = 4.25 / 8 * 16 / 8;  // MiB of a message
        const StepCost sdp4bit = step_cost(c, job, CommMode::sdp4bit, 1);
        const double hop1 = 1 * (4 * 1e-3 + inside / 1024), hop2 = 3 * (4 * 1e-2 + between / 64);
        CHECK(sdp4bit.hop1 == doctest::Approx(hop1));
        CHECK(sdp4bit.hop2 == doctest::Approx(hop2));
        CHECK(hop1 + hop2 - sdp4bit.hidden == doctest::Approx((hop1 + hop2) / 4 + 3.0 / 4 * std::max(hop1, hop2)));
        const double difference = 0.501953125 * 16;  // MiB of all shards
        CHECK(sdp4bit.weights == doctest::Approx(alphas + 7 * difference / 8 / 128));
        // read f32, write 8 bits; read those, write 4; read those, write an f32 shard; the weights' difference and its addition, in bf16
        const double traffic =
            (64 + 2 * inside) + (2 * inside + 4 * between) + (4 * between + 8) + (12 + difference / 8) + (difference + 64);
        CHECK(sdp4bit.codec == doctest::Approx(traffic * MiB / c.codec_rate));
        job.slices = 1;
        CHECK(step_cost(c, job, CommMode::sdp4bit, 1).hidden == 0);

        // inside the node the ring is the slower one where NVLink is
        c.inside.rate = 64 * MiB;
        CHECK(step_cost(c, job, CommMode::baseline, 1).ring == doctest::Approx(alphas + 7 * 8.0 / 64));
        // with tensor parallelism of 2 each GPU has its own ring, and half the node's link
        job.tp = 2, job.parts = {n / 2};
        CHECK(placement(c, 2, 1).m == 1);
        CHECK(step_cost(c, job, CommMode::baseline, 1).ring == doctest::Approx(3 * (1e-2 + 8.0 / 64)));
        CHECK(step_cost(c, job, CommMode::baseline, 1).compute == doctest::Approx(0.15));
        // a pipeline of two stages and one micro-batch: half of it always stands still
        job.tp = 1, job.pp = 2;
        CHECK(step_cost(c, job, CommMode::baseline, 1).compute == doctest::Approx(0.3));
        job.accumulation = 3;
        CHECK(step_cost(c, job, CommMode::baseline, 1).compute == doctest::Approx(0.15 * (3 + 1)));
    }

    TEST_CASE("cluster: stages reduce and gather as often as they say") {
        const Cluster c = round_cluster(4, 2);
        ClusterJob job = job_with({1 << 20, 1 << 18});
        job.accumulation = 3;
        auto cost = [&](CommMode mode, int zero) { return step_cost(c, job, mode, zero); };
        const StepCost one = cost(CommMode::baseline, 1);
        CHECK(cost(CommMode::baseline, 0).ring_bytes == 2 * one.ring_bytes);
        CHECK(cost(CommMode::baseline, 0).weight_bytes == 0);
        CHECK(cost(CommMode::baseline, 2).ring_bytes == 3 * one.ring_bytes);
        CHECK(cost(CommMode::baseline, 2).weight_bytes == one.weight_bytes);
        CHECK(cost(CommMode::baseline, 3).ring_bytes == 3 * one.ring_bytes);
        CHECK(cost(CommMode::baseline, 3).weight_bytes == 6 * one.weight_bytes);
        CHECK(cost(CommMode::baseline, 3).weights == doctest::Approx(6 * one.weights));
        CHECK(cost(CommMode::tlq, 2).hop2_bytes == 3 * cost(CommMode::tlq, 1).hop2_bytes);
        // ZeRO++ in stage 3: the backward's weights come in bf16 from the own node, half of them from the one neighbour
        const StepCost zeropp = cost(CommMode::zeropp, 1), hpz = cost(CommMode::zeropp, 3);
        CHECK(hpz.weight_bytes == 3 * (zeropp.weight_bytes + ((1 << 20) + (1 << 18))));
        CHECK(hpz.bytes_between == doctest::Approx(3 * zeropp.bytes_between));
        CHECK(refusal(CommMode::sdp4bit, 3).find("replica") != std::string::npos);
        for (CommMode mode : {CommMode::zeropp, CommMode::difference, CommMode::tlq, CommMode::sdp4bit}) {
            CHECK_FALSE(refusal(mode, 0).empty());
            CHECK(refusal(mode, 1).empty());
            CHECK(refusal(mode, 2).empty());
        }
        CHECK(refusal(CommMode::tlq, 3).empty());
        CHECK_FALSE(refusal(CommMode::difference, 3).empty());
    }

    // A step with equal buckets, event by event: gradients leave when their bucket's backward is done, weights of a bucket are there before
    // its forward begins, and the link does one thing at a time.
    double step_by_events(double forward, double backward, double gather, double reduce, int buckets) {
        const double n = buckets;
        double link = 0, gpu = 0;
        for (int i = 0; i < buckets; i++) link += gather / n, gpu = std::max(gpu, link) + forward / n;
        link = gpu;
        for (int i = 0; i < buckets; i++) gpu += backward / n, link = std::max(link, gpu) + reduce / n;
        return std::max(link, gpu);
    }

    TEST_CASE("cluster: overlap hides what the buckets allow, and no more") {
        for (int buckets : {1, 3, 24})
            for (double slower : {0.01, 0.5, 1.0, 3.0, 40.0}) {
                Cluster c = round_cluster(4, 2);
                c.between.rate /= slower;
                ClusterJob job = job_with(std::vector<int64_t>(static_cast<size_t>(buckets), (1 << 24) / buckets));
                const StepCost plain = step_cost(c, job, CommMode::baseline, 1);
                job.overlap = true;
                const StepCost hiding = step_cost(c, job, CommMode::baseline, 1);
                CAPTURE(buckets);
                CAPTURE(slower);
                CHECK(hiding.seconds() == doctest::Approx(step_by_events(0.1, 0.2, plain.weights, plain.ring, buckets)));
                if (buckets == 1) CHECK(hiding.hidden == doctest::Approx(0));
                for (int i = 0; i < n_comm_modes; i++)
                    for (int zero : {0, 1, 2, 3}) {
                        const CommMode mode = static_cast<CommMode>(i);
                        if (!refusal(mode, zero).empty()) continue;
                        job.overlap = true;
                        const StepCost with = step_cost(c, job, mode, zero);
                        job.overlap = false;
                        const StepCost without = step_cost(c, job, mode, zero);
                        CHECK(with.seconds() <= without.seconds() * (1 + 1e-12));
                        CHECK(with.seconds() >= with.compute + with.codec);
                    }
            }
    }

    TEST_CASE("cluster: where links are fast, 4 bits cost time") {
        Cluster c = read_cluster(example("h100"));
        ClusterJob job = job_with({1 << 28});
        auto gain = [&](double rate, CommMode mode) {
            Cluster other = c;
            other.between.rate = rate;
            return step_cost(other, job, CommMode::baseline, 1).seconds() - step_cost(other, job, mode, 1).seconds();
        };
        auto pays = [&](CommMode mode) { return speeds_that_pay(c, job, mode, 1); };
        // eight ranks a node: NVLink bounds the rings, and is slower than the codec, however fast the links between nodes are
        REQUIRE(pays(CommMode::sdp4bit).size() == 1);
        CHECK((pays(CommMode::sdp4bit)[0].from == 0 && std::isinf(pays(CommMode::sdp4bit)[0].to)));
        job.tp = 8;
        for (CommMode mode : {CommMode::zeropp, CommMode::difference, CommMode::tlq, CommMode::sdp4bit}) {
            const std::vector<Speeds> speeds = pays(mode);
            REQUIRE(speeds.size() == 1);
            CHECK(speeds[0].from == 0);
            REQUIRE((speeds[0].to > 1e9 && speeds[0].to < 1e14));
            CHECK(std::fabs(gain(speeds[0].to, mode)) < 1e-9);
            CHECK(gain(speeds[0].to / 2, mode) > 0);
            CHECK(gain(speeds[0].to * 2, mode) < 0);
        }
        // a faster codec pays on faster links, and one that costs nothing on all
        const double to = pays(CommMode::sdp4bit)[0].to;
        c.codec_rate *= 1.25;
        CHECK(pays(CommMode::sdp4bit)[0].to > to);
        c.codec_rate = 1e30, job.slices = 1;  // eight slices are eight times the alphas
        CHECK(std::isinf(pays(CommMode::sdp4bit)[0].to));
        // on one node the speed between nodes changes nothing: an expensive codec never pays
        c.nodes = 1, c.codec_rate = 1e9;
        CHECK(pays(CommMode::sdp4bit).empty());
    }

    // NVLink at a fifth of the codec's rate bounds the baseline's ring from some speed on, while the second hop still gets faster.
    TEST_CASE("cluster: where 4 bits pay, then do not, then pay again, both intervals are told") {
        Cluster c = round_cluster(30, 8);
        c.inside.rate = 200e9;
        const ClusterJob job = job_with({1 << 28});
        bool found = false;
        for (double codec = 300e9; codec < 2000e9; codec *= 1.02) {
            c.codec_rate = codec;
            const std::vector<Speeds> speeds = speeds_that_pay(c, job, CommMode::sdp4bit, 1);
            if (speeds.size() < 2) continue;
            found = true;
            CHECK(speeds[0].from == 0);
            CHECK(speeds[0].to < speeds[1].from);
            for (const auto& [rate, sign] :
                 {std::pair{speeds[0].to * 0.999, 1}, {(speeds[0].to + speeds[1].from) / 2, -1}, {speeds[1].from * 1.001, 1}}) {
                c.between.rate = rate;
                CHECK(sign * (step_cost(c, job, CommMode::baseline, 1).seconds() - step_cost(c, job, CommMode::sdp4bit, 1).seconds()) > 0);
            }
        }
        CHECK(found);
    }

    // ---- the paper

    struct Shape {
        int64_t layers, width;
    };
    const std::map<std::string, Shape> paper_models = {
        {"1.3B", {24, 2048}}, {"2.7B", {32, 2560}}, {"6.7B", {32, 4096}}, {"13B", {40, 5120}}, {"18B", {40, 6144}}};

    TEST_CASE("cluster: the examples' parameters and FLOPs are those of the paper's models") {
        for (const char* file : {"a100_slingshot", "h800_infiniband"})
            for (const Measurement& x : read_cluster(example(file)).measured) {
                CAPTURE(x.model);
                const auto [L, h] = paper_models.at(x.model);
                const int64_t multiple = 128 * x.tp, V = (50257 + multiple - 1) / multiple * multiple, T = 2048;
                // GPT-2's layers, weights and biases; embeddings and positions; the last norm
                CHECK(x.parameters == L * (12 * h * h + 13 * h) + (V + T) * h + 2 * h);
                const double l = static_cast<double>(L), w = static_cast<double>(h), t = static_cast<double>(T), v = static_cast<double>(V);
                CHECK(x.flops_per_token == doctest::Approx(72 * l * w * w * (1 + t / (6 * w) + v / (12 * w * l))).epsilon(1e-9));
                CHECK(x.tokens == T);
            }
    }

    // Of the two fitted figures of a cluster nothing was chosen for any row but the one that says so.
    TEST_CASE("cluster: the paper's speed-ups come out within a quarter, in their order") {
        for (const char* file : {"a100_slingshot", "h800_infiniband"}) {
            const Cluster whole = read_cluster(example(file));
            std::vector<std::pair<double, double>> gains;  // measured, predicted: of the five models on all nodes
            int fitted = 0;
            for (const Measurement& x : whole.measured) {
                const Cluster c = cluster_of(whole, x);
                const ClusterJob job = job_of(x);
                std::map<CommMode, double> measured, predicted;
                for (const auto& [mode, value] : x.throughputs)
                    measured[mode] = value, predicted[mode] = tflops(job, step_cost(c, job, mode, 1));
                for (const auto& [mode, value] : measured) {
                    CAPTURE(std::string(file) + " " + x.model + " " + name_of(mode));
                    const double gain = value / measured[CommMode::baseline],
                                 predicted_gain = predicted[mode] / predicted[CommMode::baseline];
                    CHECK(std::fabs(std::log(predicted_gain / gain)) < std::log(x.fitted ? 1.01 : 1.25));
                    CHECK(std::fabs(std::log(predicted[mode] / value)) < std::log(x.fitted ? 1.01 : 1.5));
                    if (mode == CommMode::sdp4bit && x.nodes == whole.nodes) gains.push_back({gain, predicted_gain});
                }
                fitted += x.fitted;
            }
            CHECK(fitted == 1);
            REQUIRE(gains.size() == 5);
            for (const auto& [gain, predicted] : gains)
                for (const auto& [other, other_predicted] : gains) CHECK((gain < other) == (predicted < other_predicted));
        }
    }

    double gain_of(const Cluster& whole, const std::string& model, int64_t nodes, CommMode mode) {
        const auto row =
            std::find_if(whole.measured.begin(), whole.measured.end(), [&](auto& x) { return x.model == model && x.nodes == whole.nodes; });
        REQUIRE(row != whole.measured.end());
        Cluster c = whole;
        c.nodes = nodes;
        const ClusterJob job = job_of(*row);
        return step_cost(c, job, CommMode::baseline, 1).seconds() / step_cost(c, job, mode, 1).seconds();
    }

    // The paper's ranges over both clusters for 2.7B, and its means over the numbers of nodes (4, 6, 8, 12, 16 as its scripts have them).
    TEST_CASE("cluster: the halves of SDP4Bit by themselves, and fewer nodes, as in the paper") {
        struct Mean {
            std::string file, model;
            double gain;
        };
        struct Range {
            CommMode mode;
            double low, high;
        };
        for (const char* file : {"a100_slingshot", "h800_infiniband"}) {
            const Cluster c = read_cluster(example(file));
            for (const Range& x :
                 {Range{CommMode::difference, 1.1, 1.2}, Range{CommMode::tlq, 1.4, 1.8}, Range{CommMode::sdp4bit, 1.6, 2.4}})
                for (int64_t nodes : {4, 8, 16}) {
                    const double gain = gain_of(c, "2.7B", nodes, x.mode);
                    CAPTURE(std::string(file) + " " + name_of(x.mode));
                    CHECK(gain > 0.95 * x.low);
                    CHECK(gain < 1.05 * x.high);
                }
        }
        for (const Mean& x : {Mean{"a100_slingshot", "6.7B", 3.40}, Mean{"a100_slingshot", "13B", 2.49},
                              Mean{"h800_infiniband", "6.7B", 3.08}, Mean{"h800_infiniband", "13B", 3.73}}) {
            const Cluster c = read_cluster(example(x.file));
            double sum = 0;
            for (int64_t nodes : {4, 6, 8, 12, 16}) sum += gain_of(c, x.model, nodes, CommMode::sdp4bit);
            CAPTURE(x.file + " " + x.model);
            CHECK(std::fabs(std::log(sum / 5 / x.gain)) < std::log(1.25));
        }
    }

    TEST_CASE("cluster: the paper's time of the gradients on 32 A100, which nothing was fitted to") {
        Cluster c = read_cluster(example("a100_slingshot"));
        c.nodes = 8;
        const ClusterJob job = job_of(c.measured.front());
        CHECK(step_cost(c, job, CommMode::baseline, 1).ring == doctest::Approx(0.3793).epsilon(0.05));
        const StepCost tlq = step_cost(c, job, CommMode::tlq, 1);
        // the paper hides its codec beside the links, this model does not
        CHECK(tlq.hop1 + tlq.hop2 - tlq.hidden == doctest::Approx(0.0459).epsilon(0.05));
        CHECK(tlq.hop1 + tlq.hop2 - tlq.hidden + tlq.codec < 1.35 * 0.0459);
    }

    // ---- files

    Json good_file() {
        return {{"name", "two nodes"},
                {"nodes", 2},
                {"gpus_per_node", 4},
                {"links",
                 {{"inside", {{"alpha_us", 5}, {"gb_per_s", 200}}}, {"between", {{"alpha_us", 10}, {"gb_per_s", 12}, {"per", "node"}}}}},
                {"gpu", {{"name", "A100"}, {"tflops", 100}, {"codec_gb_per_s", 600}}},
                {"notes", {"made up"}},
                {"measured",
                 {{{"model", "1.3B"}, {"parameters", 1000}, {"flops_per_token", 6000}, {"tokens", 10}, {"tflops", {{"baseline", 1}}}}}}};
    }

    TEST_CASE("cluster: a file is read, and a NIC for each GPU is a node's link of all of them") {
        TempDir f;
        Json json = good_file();
        write_file(f / "c.json", json.dump());
        const Cluster shared = read_cluster(f / "c.json");
        CHECK((shared.nodes == 2 && shared.gpus_per_node == 4));
        CHECK(shared.inside.alpha == doctest::Approx(5e-6));
        CHECK(shared.inside.rate == 200e9);
        CHECK(shared.between.rate == 12e9);
        CHECK(shared.flops == 100e12);
        CHECK(shared.codec_rate == 600e9);
        CHECK(shared.measured.at(0).nodes == 2);
        json["links"]["between"]["per"] = "gpu";
        write_file(f / "c.json", json.dump());
        CHECK(read_cluster(f / "c.json").between.rate == 48e9);
        for (const char* file : {"a100_slingshot", "h800_infiniband", "h100"}) CHECK_FALSE(read_cluster(example(file)).notes.empty());
    }

    TEST_CASE("cluster: a bad file is refused with a sentence that names the place") {
        TempDir f;
        struct Fault {
            std::string pointer;
            Json value;  // null: the key is taken away
            std::string says;
        };
        const std::vector<Fault> faults = {
            {"/name", nullptr, "name is missing"},
            {"/name", 3, "name must be a text"},
            {"/nodes", -1, "nodes must be a whole number from 1"},
            {"/nodes", 0, "nodes must be a whole number from 1"},
            {"/nodes", 2.5, "nodes must be a whole number from 1"},
            {"/nodes", uint64_t{1} << 63, "nodes must be a whole number from 1"},
            {"/gpus_per_node", "8", "gpus_per_node must be a whole number"},
            {"/links", nullptr, "links is missing"},
            {"/links", 3, "links must be an object"},
            {"/links/inside/gb_per_s", 0, "links.inside.gb_per_s must be a number above 0"},
            {"/links/inside/alpha_us", -5, "links.inside.alpha_us must be a number, 0 or more"},
            {"/links/between/gb_per_s", nullptr, "links.between.gb_per_s is missing"},
            {"/links/between/per", "rack", "links.between.per must be \"node\""},
            {"/links/across", 1, "links.across is no key"},
            {"/gpu/tflops", -100, "gpu.tflops must be a number above 0"},
            {"/gpu/speed", 1, "gpu.speed is no key"},
            {"/notes", "text", "notes must be a list"},
            {"/notes/0", 1, "notes must be a list of texts"},
            {"/comment", "x", "comment is no key of a cluster's file"},
            {"/measured/0/tokens", nullptr, "measured[0].tokens is missing"},
            {"/measured/0/tflops/baseline", nullptr, "measured[0].tflops.baseline is missing"},
            {"/measured/0/tflops/zero4", 1, "measured[0].tflops.zero4 is no key"},
            {"/measured/0/fitted", 1, "measured[0].fitted must be true or false"},
            {"/measured/0/tp", 3, "does not divide nodes of 4"},
            {"/measured/0/tp", 16, "needs more than the cluster's 8"},
        };
        for (const Fault& fault : faults) {
            Json json = good_file();
            const Json::json_pointer at(fault.pointer);
            if (fault.value.is_null())
                json[at.parent_pointer()].erase(at.back());
            else
                json[at] = fault.value;
            write_file(f / "c.json", json.dump());
            CAPTURE(fault.pointer);
            CHECK_THROWS_WITH_AS(read_cluster(f / "c.json"), doctest::Contains(fault.says.c_str()), Error);
        }
        write_file(f / "c.json", "[1]");
        CHECK_THROWS_WITH_AS(read_cluster(f / "c.json"), doctest::Contains("no JSON object"), Error);
        write_file(f / "c.json", "nodes: 2");
        CHECK_THROWS_WITH_AS(read_cluster(f / "c.json"), doctest::Contains("not JSON"), Error);
        CHECK_THROWS_AS(read_cluster(f / "nowhere.json"), Error);
        // one copy over several nodes must fill them
        Cluster c;
        c.nodes = 6, c.gpus_per_node = 4;
        CHECK(placement(c, 4, 2).M == 3);
        CHECK_THROWS_WITH_AS(placement(c, 2, 3), doctest::Contains("does not fill nodes of 4"), Error);
        CHECK_THROWS_WITH_AS(placement(c, 4, 4), doctest::Contains("does not divide 6 nodes"), Error);
    }

    TEST_CASE("cluster: the command as a person runs it") {
        TempDir f;
        const std::string h100 = "simulate --cluster " + example("h100"), a100 = "simulate --cluster " + example("a100_slingshot");
        CHECK(run(f, "simulate --help").says("when do 4 bits pay?"));
        const Result paper = run(f, a100);
        CHECK(paper.code == 0);
        CHECK(paper.says("fitted"));
        CHECK(paper.says("3.44x"));
        const Result model = run(f, h100 + " --preset gpt2-124m --overlap --accumulation 2 --nodes 4");
        REQUIRE(model.code == 0);
        for (const char* part : {"4 nodes of 8 H100", "124,439,808 parameters", "P = 32", "ZeRO-3", "at other speeds between nodes"})
            CHECK(model.says(part));
        CHECK(run(f, a100 + " --params 6.7B --tp 4 --zero 1").says("sdp4bit     pays below"));
        const Result as_json = run(f, a100 + " --params 1.3B --zero 1 --paper --json -");
        REQUIRE(as_json.code == 0);
        const Json json = Json::parse(as_json.out);
        CHECK(json["steps"].size() == n_comm_modes);
        CHECK(json["run"]["parameters"] == 1300000000);
        CHECK(json["measured"].size() == 13);
        for (const Json& row : json["steps"]) {
            const double sum = row["compute"].get<double>() + row["weights"].get<double>() + row["gradient_ring"].get<double>() +
                               row["hop1"].get<double>() + row["hop2"].get<double>() + row["codec"].get<double>() -
                               row["hidden"].get<double>();
            CHECK(row["seconds"].get<double>() == doctest::Approx(sum));
        }
        for (const auto& [arguments, says] :
             std::vector<std::pair<std::string, std::string>>{{"simulate", "--cluster"},
                                                              {"simulate --cluster nowhere.json", "nowhere.json"},
                                                              {h100, "which model?"},
                                                              {h100 + " --params 1B --paper", "no measured rows"},
                                                              {h100 + " --params 1B --preset gpt2-124m", "two models"},
                                                              {a100 + " --tp 4", "--tp is for a model"},
                                                              {h100 + " --preset gpt2-124m --buckets 3", "--buckets is for --params"},
                                                              {h100 + " --params -3", "--params"},
                                                              {h100 + " --params 1.3Q", "--params 1.3Q is no number of parameters"},
                                                              {h100 + " --params 1B --tp 3", "does not divide nodes of 8"},
                                                              {h100 + " --params 1B --zero 4", "--zero"},
                                                              {h100 + " --preset gpt5", "gpt5"}}) {
            const Result bad = run(f, arguments);
            CAPTURE(arguments);
            CHECK(bad.code == 2);
            CHECK(bad.says(says));
        }
    }

}  // TEST_SUITE
}  // namespace traincu::test
