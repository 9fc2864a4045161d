// A cost model of sharded data parallelism: what a step sends over which link, and how long it takes, for clusters that are not here.
// Every message costs alpha + bytes / rate; nothing is measured, everything is told by a file (data/clusters/).
//
// Each copy of the model lies on tp * pp GPUs, with N of its parameters on each. The GPUs that hold the same part of the copies are the
// P = m M ranks of one group: m in a node, M nodes (a copy wider than a node: m = 1). All groups send at once, so each GPU has
// 1 / gpus of what its node can send, a NIC of its own or not; a ring of m ranks a node leaves it at one place only and has m / gpus.
// Bytes that a rank sends, and seconds (a, R: alpha and rate inside, of a GPU; b, B: between nodes, B of a whole node of `gpus`):
//
//   ring, c bytes a number   c N (P-1)/P            M b + (P-1-M) a + c N (P-1)/P max(1/R, gpus/(m B))
//   hop 1, int8, inside      1.03125 N (m-1)/m      (m-1) (K a + 1.03125 N/m / R)
//   hop 2, int4, between     .53125 N/m (M-1)/M     (M-1) (K b + .53125 N/P gpus/B)
//   both, in K slices                               (hop1 + hop2)/K + (K-1)/K max(hop1, hop2)
//   codec kernels                                   bytes that they read and write / rate
//   compute                                         FLOPs / (tp pp flops) (1 + (pp - 1)/accumulation), the latter a pipeline's bubble
//
// A ring is a reduce-scatter or an all-gather. m = 1: one hop, int4, M-1 messages of N/P numbers. M = 1: one hop inside, int8 (ZeRO++:
// int4), and all alphas of a ring are inside ones. P = 1: nothing is sent. c = 4 for f32, 2 for bf16, 0.501953125 for 4-bit differences
// and 1.001953125 for ZeRO++'s 8-bit weights (groups of 2048); the hops' groups have 128 numbers. Scales are f32, a message is padded to
// 16 bytes, and a bucket until it falls into P shards of whole groups. SDP4Bit: arXiv 2410.15526.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace traincu {

struct LinkCost {
    double alpha = 0;  // seconds a message
    double rate = 0;   // bytes/s that arrive; inside a node of one GPU, between nodes of a whole node
};

enum class CommMode {
    baseline,    // fp32 reduce-scatter, bf16 all-gather
    zeropp,      // ZeRO++: int8 weights, int4 gradients in both hops; in ZeRO-3 a node keeps all weights in bf16 for the backward (hpZ)
    difference,  // 4-bit weight differences, fp32 reduce-scatter
    tlq,         // two-level gradients, int8 inside and int4 between; bf16 all-gather. Hadamard or not: the same bytes
    sdp4bit,     // difference + tlq
};
constexpr int n_comm_modes = 5;
const char* name_of(CommMode mode);
// Throughput as somebody measured it, to be held beside the model's.
struct Measurement {
    struct Throughput {
        CommMode mode;
        double tflops;  // FLOP/s of one GPU / 1e12
    };
    std::string model;
    int64_t parameters = 0, tokens = 0, tp = 1, pp = 1, nodes = 0;
    double flops_per_token = 0;  // as the measurer counts them
    bool fitted = false;         // the cluster's figures were chosen so that this row comes out
    std::vector<Throughput> throughputs;
};

struct Cluster {
    std::string name;
    int64_t nodes = 1, gpus_per_node = 1;
    LinkCost inside, between;
    std::string gpu;
    double flops = 0;                // FLOP/s that a GPU achieves in forward and backward, everything but communication included
    double codec_rate = 0;           // bytes/s that the codec's kernels read and write
    std::vector<std::string> notes;  // where each figure comes from
    std::vector<Measurement> measured;
};
// A file of data/clusters. Error(usage) with one sentence where a key is missing, unknown, or of an impossible value.
Cluster read_cluster(const std::string& path);

// The step to cost.
struct ClusterJob {
    std::vector<int64_t> parts;  // parameters on one GPU (of N / (tp pp)), by bucket: each is gathered and reduced by itself
    double flops_per_token = 0;  // of the whole model, forward and backward
    int64_t tokens = 0;          // of a micro-batch of one copy of the model
    int64_t accumulation = 1;    // micro-batches a step
    int64_t tp = 1, pp = 1;
    int64_t slices = 8;    // K
    bool overlap = false;  // communication hides behind computing: gradients behind the backward, weights behind the forward
};

// Where the ranks of one group stand.
struct Placement {
    int64_t m = 1, M = 1;  // ranks in a node, nodes
    int64_t P() const { return m * M; }
};
// Error(usage) where tp * pp fits neither into a node nor into whole nodes.
Placement placement(const Cluster& cluster, int64_t tp, int64_t pp);

// A part's numbers filled up so that it falls into P equal shards of whole groups.
int64_t padded_part(int64_t numbers, int64_t P);

struct StepCost {
    int64_t weight_bytes = 0, ring_bytes = 0, hop1_bytes = 0, hop2_bytes = 0;  // that a rank sends: gathers; fp32 gradients; the hops
    double bytes_between = 0;                                                  // of these to other nodes, the mean over a node's ranks
    double compute = 0, weights = 0, ring = 0, hop1 = 0, hop2 = 0, codec = 0;  // seconds
    double hidden = 0;  // of hops that run side by side, and of communication behind computing
    double seconds() const { return compute + weights + ring + hop1 + hop2 + codec - hidden; }
    int64_t bytes() const { return weight_bytes + ring_bytes + hop1_bytes + hop2_bytes; }
};

// Why a mode and a stage do not go together; empty where they do. Stages: 0 all-reduces f32 gradients; 1 reduces and gathers once a step; 2
// reduces after every micro-batch; 3 also gathers twice for every micro-batch.
std::string refusal(CommMode mode, int zero);
StepCost step_cost(const Cluster& cluster, const ClusterJob& job, CommMode mode, int zero);

// At which speeds between nodes, in bytes/s of a whole node, `mode` is faster than the baseline: intervals, slowest first, from 0 and to
// infinity where they have no end. Mostly one, from 0; two where a pipelined hop catches up once NVLink bounds the baseline's ring.
struct Speeds {
    double from, to;
};
std::vector<Speeds> speeds_that_pay(const Cluster& cluster, const ClusterJob& job, CommMode mode, int zero);

// The job of a measurement, on its cluster with as many nodes as it had.
ClusterJob job_of(const Measurement& measurement);
Cluster cluster_of(const Cluster& cluster, const Measurement& measurement);
// FLOP/s of one GPU / 1e12.
double tflops(const ClusterJob& job, const StepCost& cost);

}  // namespace traincu
