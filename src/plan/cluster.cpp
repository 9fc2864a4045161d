#include "src/plan/cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/error.h"
#include "src/base/integers.h"

namespace traincu {

namespace {

// How numbers are sent.
struct Format {
    int64_t bits, group;  // group 0: no scales
};
constexpr Format f32{32, 0}, bf16{16, 0}, weight4{4, 2048}, weight8{8, 2048}, gradient8{8, 128}, gradient4{4, 128};

int64_t message_bytes(int64_t n, Format f) {
    const int64_t bytes = n * f.bits / 8 + (f.group > 0 ? n / f.group * 4 : 0);
    return round_up(bytes, 16);
}

// Adds to a step what one rank sends and how long all take; the ranks of every group do the same at once.
class Account {
public:
    Account(const Cluster& cluster, const Placement& place, int64_t slices, StepCost& cost)
        : c_(cluster), at_(place), slices_(slices), cost_(cost) {}

    // Each rank hands a shard on to the next, ranks - 1 times: all ranks, or those of a node among themselves.
    void ring(int64_t shard_bytes, int64_t& bytes, double& seconds) { ring(shard_bytes, at_.P(), at_.M, bytes, seconds); }
    void ring_inside(int64_t shard_bytes, int64_t& bytes, double& seconds) { ring(shard_bytes, at_.m, 1, bytes, seconds); }

    // Gradients of n numbers in one or two quantised hops; `first` is the format inside the node.
    void hops(int64_t n, Format first) {
        const int64_t m = at_.m, M = at_.M, P = at_.P();
        if (P == 1) return;
        const int64_t inside = m > 1 ? message_bytes(n / m, first) : 0, between = M > 1 ? message_bytes(n / P, gradient4) : 0;
        const double alphas = static_cast<double>(slices_);
        const double hop1 = static_cast<double>(m - 1) * (alphas * c_.inside.alpha + static_cast<double>(inside) / c_.inside.rate);
        const double hop2 = static_cast<double>(M - 1) * (alphas * c_.between.alpha + static_cast<double>(between) / rate_of_one_gpu());
        cost_.hop1_bytes += (m - 1) * inside, cost_.hop2_bytes += (M - 1) * between;
        cost_.bytes_between += static_cast<double>((M - 1) * between);
        cost_.hop1 += hop1, cost_.hop2 += hop2;
        cost_.hidden += (1 - 1 / alphas) * std::min(hop1, hop2);
        codec(4 * n + (m > 1 ? m * inside : P * between));      // quantise f32 (and rotate)
        if (m > 1 && M > 1) codec(m * inside + M * between);    // decode, sum, quantise again
        codec((M > 1 ? M * between : m * inside) + 4 * n / P);  // decode, sum (and rotate back)
    }

    void codec(int64_t traffic) { cost_.codec += static_cast<double>(traffic) / c_.codec_rate; }

private:
    double rate_of_one_gpu() const { return c_.between.rate / static_cast<double>(c_.gpus_per_node); }

    // A shard passes ranks - 1 of the ring's links one after another; all of them are busy all the time, so the slowest sets the pace.
    void ring(int64_t shard_bytes, int64_t ranks, int64_t nodes, int64_t& bytes, double& seconds) {
        const int64_t crossings = nodes == 1 ? 0 : std::min(nodes, ranks - 1);
        double seconds_per_byte = at_.m > 1 ? 1 / c_.inside.rate : 0;
        if (nodes > 1) {
            seconds_per_byte = std::max(seconds_per_byte, 1 / (rate_of_one_gpu() * static_cast<double>(at_.m)));
            cost_.bytes_between += static_cast<double>((ranks - 1) * shard_bytes) / static_cast<double>(at_.m);
        }
        bytes += (ranks - 1) * shard_bytes;
        seconds += static_cast<double>(crossings) * c_.between.alpha + static_cast<double>(ranks - 1 - crossings) * c_.inside.alpha +
                   static_cast<double>((ranks - 1) * shard_bytes) * seconds_per_byte;
    }

    const Cluster& c_;
    const Placement at_;
    const int64_t slices_;
    StepCost& cost_;
};

bool differences(CommMode mode) { return mode == CommMode::difference || mode == CommMode::sdp4bit; }
bool whole_gradients(CommMode mode) { return mode == CommMode::baseline || mode == CommMode::difference; }

// The weights of n numbers to all ranks.
void gather(Account& account, StepCost& cost, int64_t n, int64_t P, CommMode mode) {
    const Format format = differences(mode) ? weight4 : mode == CommMode::zeropp ? weight8 : bf16;
    const int64_t shard = message_bytes(n / P, format);
    account.ring(shard, cost.weight_bytes, cost.weights);
    if (format.group == 0 || P == 1) return;
    account.codec((differences(mode) ? 6 : 4) * n / P + shard);  // quantise f32, or its difference to the replica in bf16
    account.codec(P * shard + (differences(mode) ? 4 : 2) * n);  // decode into bf16, or add to it
}

// Of `communication` that comes in `n` equal pieces beside `n` pieces of work, what does not end with the work: piece i goes out when work
// i is done (or comes in before it begins), and each waits for the one before it.
double exposed(double communication, double work, double n) { return std::max(communication / n, communication + work / n - work); }

}  // namespace

const char* name_of(CommMode mode) {
    constexpr const char* names[n_comm_modes] = {"baseline", "zeropp", "difference", "tlq", "sdp4bit"};
    return names[static_cast<int>(mode)];
}

Placement placement(const Cluster& c, int64_t tp, int64_t pp) {
    const int64_t width = tp * pp, gpus = c.nodes * c.gpus_per_node;
    auto refuse = [&](const std::string& why) {
        return Error(ExitCode::usage,
                     format("a copy of the model on %lld GPUs (--tp %lld, --pp %lld) %s", static_cast<long long>(width),
                            static_cast<long long>(tp), static_cast<long long>(pp), why.c_str()),
                     "choose --tp and --pp so that a node is full of whole copies, or a copy fills whole nodes");
    };
    if (width > gpus) throw refuse(format("needs more than the cluster's %lld", static_cast<long long>(gpus)));
    if (width <= c.gpus_per_node) {
        if (c.gpus_per_node % width != 0) throw refuse(format("does not divide nodes of %lld", static_cast<long long>(c.gpus_per_node)));
        return {c.gpus_per_node / width, c.nodes};
    }
    if (width % c.gpus_per_node != 0) throw refuse(format("does not fill nodes of %lld", static_cast<long long>(c.gpus_per_node)));
    if (gpus % width != 0) throw refuse(format("does not divide %lld nodes", static_cast<long long>(c.nodes)));
    return {1, gpus / width};
}

int64_t padded_part(int64_t numbers, int64_t P) { return round_up(numbers, P * weight4.group); }

std::string refusal(CommMode mode, int zero) {
    if (mode == CommMode::baseline) return "";
    if (zero == 0) return "nothing is sharded, and gradients are all-reduced";
    if (zero == 3 && differences(mode)) return "differences need the full replica that ZeRO-3 gives up";
    return "";
}

StepCost step_cost(const Cluster& cluster, const ClusterJob& job, CommMode mode, int zero) {
    ENSURE(refusal(mode, zero).empty() && job.accumulation > 0 && job.slices > 0 && !job.parts.empty());
    const Placement at = placement(cluster, job.tp, job.pp);
    const int64_t P = at.P();
    const double micro_batches = static_cast<double>(job.accumulation), width = static_cast<double>(job.tp * job.pp);
    StepCost cost;
    const double work = job.flops_per_token * static_cast<double>(job.tokens) / (width * cluster.flops);  // of a micro-batch
    cost.compute = work * (micro_batches + static_cast<double>(job.pp - 1));

    // One reduction, and one gather for the forward and one for the backward, each by itself.
    StepCost reduce, forward_gather, backward_gather;
    for (int64_t part : job.parts) {
        const int64_t n = padded_part(part, P);
        Account reducing(cluster, at, job.slices, reduce);
        if (whole_gradients(mode)) {
            for (int i = 0; i < (zero == 0 ? 2 : 1); i++)  // an all-reduce is a reduce-scatter and an all-gather
                reducing.ring(message_bytes(n / P, f32), reduce.ring_bytes, reduce.ring);
        } else {
            reducing.hops(n, mode == CommMode::zeropp ? gradient4 : gradient8);
        }
        Account before_forward(cluster, at, job.slices, forward_gather), before_backward(cluster, at, job.slices, backward_gather);
        gather(before_forward, forward_gather, n, P, mode);
        if (mode == CommMode::zeropp)
            before_backward.ring_inside(message_bytes(n / at.m, bf16), backward_gather.weight_bytes, backward_gather.weights);
        else
            gather(before_backward, backward_gather, n, P, mode);
    }

    const double reductions = zero >= 2 ? micro_batches : 1;
    const double forward_gathers = zero == 0 ? 0 : zero == 3 ? micro_batches : 1, backward_gathers = zero == 3 ? micro_batches : 0;
    auto add = [&](const StepCost& piece, double times) {
        const int64_t count = static_cast<int64_t>(times);
        cost.weight_bytes += count * piece.weight_bytes, cost.ring_bytes += count * piece.ring_bytes;
        cost.hop1_bytes += count * piece.hop1_bytes, cost.hop2_bytes += count * piece.hop2_bytes;
        cost.bytes_between += times * piece.bytes_between;
        cost.weights += times * piece.weights, cost.ring += times * piece.ring;
        cost.hop1 += times * piece.hop1, cost.hop2 += times * piece.hop2;
        cost.codec += times * piece.codec, cost.hidden += times * piece.hidden;
    };
    add(reduce, reductions), add(forward_gather, forward_gathers), add(backward_gather, backward_gathers);
    if (!job.overlap) return cost;

    // The codec's kernels compete with the model's for the GPU: only links run beside it. A third of the work is the forward.
    const double n = static_cast<double>(job.parts.size()), forward = work / 3, backward = 2 * work / 3;
    const double reducing = reduce.ring + reduce.hop1 + reduce.hop2 - reduce.hidden;
    auto hide = [&](double communication, double behind, double times) {
        cost.hidden += times * (communication - std::min(communication, exposed(communication, behind, n)));
    };
    hide(forward_gather.weights, forward, forward_gathers);
    if (zero == 3)
        hide(reducing + backward_gather.weights, backward, micro_batches);
    else
        hide(reducing, backward, reductions);
    return cost;
}

std::vector<Speeds> speeds_that_pay(const Cluster& cluster, const ClusterJob& job, CommMode mode, int zero) {
    auto pays = [&](double log_rate) {
        Cluster c = cluster;
        c.between.rate = std::exp(log_rate);
        return step_cost(c, job, mode, zero).seconds() < step_cost(c, job, CommMode::baseline, zero).seconds();
    };
    // From a modem to beyond every network, 20 looks a decade; between two that differ the change is found by halving.
    const double slowest = std::log(1e3), fastest = std::log(1e18), look = std::log(10) / 20;
    std::vector<Speeds> speeds;
    bool paid = false;
    double before = slowest;
    for (double now = slowest; now < fastest; before = now, now += look) {
        if (pays(now) == paid) continue;
        double low = before, high = now;
        for (int i = 0; i < 50 && low < high; i++) {
            const double middle = (low + high) / 2;
            (pays(middle) == paid ? low : high) = middle;
        }
        paid = !paid;
        if (paid)
            speeds.push_back({now == slowest ? 0 : std::exp(high), std::numeric_limits<double>::infinity()});
        else
            speeds.back().to = std::exp(high);
    }
    return speeds;
}

ClusterJob job_of(const Measurement& x) {
    ClusterJob job;
    job.parts = {div_ceil(x.parameters, x.tp * x.pp)};  // one bucket
    job.flops_per_token = x.flops_per_token, job.tokens = x.tokens, job.tp = x.tp, job.pp = x.pp;
    return job;
}

Cluster cluster_of(const Cluster& cluster, const Measurement& x) {
    Cluster c = cluster;
    c.nodes = x.nodes;
    return c;
}

double tflops(const ClusterJob& job, const StepCost& cost) {
    const double flops = job.flops_per_token * static_cast<double>(job.tokens * job.accumulation) / static_cast<double>(job.tp * job.pp);
    return flops / cost.seconds() / 1e12;
}

}  // namespace traincu
