// ./train verify-determinism: the configured model for a few steps, again and again under changed circumstances, and what stayed equal bit
// by bit. The first trial is what --determinism promises to repeat. Under mpirun it is one of all ranks, which send what a training run
// sends; rank 0 speaks for all.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <unistd.h>

#include "kernels/copy.h"
#include "src/base/process.h"
#include "src/checkpoint/digest.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/command/run_memory.h"
#include "src/command/run_ranks.h"
#include "src/command/run_setup.h"
#include "src/command/run_state.h"
#include "src/command/training_step.h"
#include "src/optim/lr_schedule.h"
#include "src/optim/master_copy.h"
#include "src/parallel/agree.h"
#include "src/parallel/executor.h"
#include "src/plan/memory.h"

namespace traincu {

namespace {

namespace fs = std::filesystem;

// The levels in their order: each promises what those before it do.
int level(const std::string& determinism) {
    const char* levels[] = {"off", "run", "batch", "ranks"};
    return static_cast<int>(std::find(std::begin(levels), std::end(levels), determinism) - std::begin(levels));
}

struct Circumstance {
    std::string name;
    int promised_at;           // level()
    Options options;           // options.ranks: all of the mesh, or 1: each process by itself
    int threads = 0;           // 0: as configured
    int simulated = 1;         // ranks that share out the logical workers, one after the other in each process
    int64_t resume_after = 0;  // steps; 0: not interrupted
};

// Where trials run.
struct Site {
    const RunFiles& files;
    Mesh& mesh;
    Stream& stream;
    int threads;  // as configured
};

// What there is to compare after a step.
struct Trace {
    double loss = 0;
    uint64_t weights = 0;  // hash of the weights and the guard's state
    uint64_t all = 0;      // of these, the masters and the moments of all ranks. With --zero 1 on rank 0, which can have them; elsewhere 0
    bool operator==(const Trace&) const = default;
};

void mix(uint64_t& hash, const Tensor& host) {
    const uint64_t both[2] = {hash, hash_bytes(host.data, host.bytes())};
    hash = hash_bytes(both, sizeof both);
}

// A model in training.
class Trial {
public:
    Trial(const Circumstance& c, const Site& site)
        : options_(c.options),
          simulated_(c.simulated),
          stream_(site.stream),
          world_(c.options.ranks > 1 ? &site.mesh.world() : nullptr),
          rank_(world_ ? world_->rank() : 0),
          loader_(training_loader_config(c.options, rank_)),
          memory_(c.options, {}, rank_),
          lr_{c.options.lr_schedule,  c.options.lr,        c.options.min_lr_fraction,
              c.options.warmup_steps, c.options.max_steps, c.options.decay_fraction} {
        if (simulated_ > 1) {
            trees_ = std::make_unique<Arena>("sums over ranks");
            within_ = std::make_unique<GradientTree>(*trees_, memory_.weights.table.flat_size, Dtype::f32, logical_workers / simulated_);
            across_ = std::make_unique<GradientTree>(*trees_, memory_.weights.table.flat_size, Dtype::f32, simulated_);
        }
        if (memory_.sharding) memory_.sharding->connect(site.mesh);
        memory_.allocate(stream_);
        if (trees_) trees_->allocate(stream_.memory());
        MasterCopy master(memory_.weights.door, &memory_.optimizer, stream_);
        fill_new_weights(options_, site.files, memory_.weights.table, master.tensor());
        master.upload();
        step_of_run_ = std::make_unique<TrainingStep>(options_, memory_, world_, 1.0, stream_);
    }

    Trace step() {
        const StepBatch batch = loader_.next();
        if (simulated_ > 1) {
            simulate(batch);
        } else {
            step_of_run_->submit(step_, batch);
            step_of_run_->collect();
        }
        step_++;
        if (memory_.sharding) memory_.sharding->settle(stream_);
        return trace();
    }

    // Of all ranks of the trial. Returns the checkpoint's path.
    std::string save(const std::string& folder) {
        RealIo io;
        const std::string path = save_run_state(io, {folder, nullptr, {}}, state(), options_);
        return world_ ? text_of_root(*world_, path) : path;
    }
    void restore(const std::string& path) {
        RunState state = this->state();
        restore_run_state({"", nullptr, open_checkpoint(path)}, state);
        step_ = state.step;
    }

private:
    RunState state() {
        return {step_, 0, &loader_, &memory_.weights, &memory_.optimizer, &stream_, nullptr, memory_.sharding.get(), world_};
    }

    void simulate(const StepBatch& batch) {
        const Tensor gradients = memory_.weights.door.flat_gradients(), loss = memory_.trainer.model.loss_sum();
        zero(gradients, stream_);
        for (int rank = 0; rank < simulated_; rank++) {
            StepBatch share = batch;  // loss tokens are counted over the whole step
            const auto count = static_cast<std::ptrdiff_t>(batch.micro_batches.size()) / simulated_;
            share.micro_batches.assign(batch.micro_batches.begin() + rank * count, batch.micro_batches.begin() + (rank + 1) * count);
            Executor executor(memory_.trainer.model, memory_.weights.door, within_.get());
            executor.run(training_schedule(memory_.trainer.model.n_parts(), static_cast<int>(count), options_.recompute != "none",
                                           within_->workers()),
                         share, stream_);
            across_->fold(rank, gradients, loss, stream_);
        }
        memory_.optimizer.step(loss, lr_.at(step_), {loss_scale(batch), options_.skip_zscore, options_.grad_clip}, stream_);
    }

    Trace trace() {
        Trace trace;
        trace.loss = memory_.optimizer.read_guard(stream_).loss;
        for (const Tensor& t : {memory_.weights.door.flat_weights(), memory_.optimizer.guard_state()}) {
            HostCopy bytes(Tensor(t.data, Dtype::u8, {t.bytes()}), stream_);
            mix(trace.weights, bytes.download().tensor());
        }
        const ParamTable& table = memory_.weights.table;
        MasterCopy masters(memory_.weights.door, &memory_.optimizer, stream_);
        MomentCopy m(memory_.optimizer, table, memory_.optimizer.m(), stream_), v(memory_.optimizer, table, memory_.optimizer.v(), stream_);
        masters.download(world_), m.download(world_), v.download(world_);
        if (rank_ > 0 && memory_.optimizer.share().ranks > 1) return trace;
        trace.all = trace.weights;
        for (const Tensor& t : {masters.tensor(), m.tensor(), v.tensor()}) mix(trace.all, t);
        return trace;
    }

    Options options_;
    int simulated_;
    Stream& stream_;
    Communicator* world_;  // null: this process alone
    int rank_;
    Loader loader_;
    RunMemory memory_;
    LrSchedule lr_;
    std::unique_ptr<Arena> trees_;
    std::unique_ptr<GradientTree> within_, across_;  // a simulated rank's workers; the simulated ranks
    std::unique_ptr<TrainingStep> step_of_run_;
    int64_t step_ = 0;
};

// A folder that goes when this does.
struct ScratchFolder {
    ScratchFolder() : path((fs::temp_directory_path() / ("verify-determinism-" + std::to_string(::getpid()))).string()) {
        fs::create_directories(path);
    }
    ~ScratchFolder() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    std::string path;
};

std::vector<Trace> traces(const Circumstance& c, const Site& site, int64_t steps) {
    set_threads(c.threads > 0 ? c.threads : site.threads);
    std::vector<Trace> traces;
    auto trial = std::make_unique<Trial>(c, site);
    for (int64_t step = 0; step < steps; step++) {
        if (step > 0 && step == c.resume_after) {
            const ScratchFolder folder;
            const std::string checkpoint = trial->save(folder.path);
            trial.reset();
            trial = std::make_unique<Trial>(c, site);
            trial->restore(checkpoint);
            site.mesh.world().barrier(site.stream);  // all have read it
        }
        traces.push_back(trial->step());
    }
    return traces;
}

// The first step after which something differs on any rank, from 1 on; 0: none.
int64_t first_difference(const std::vector<Trace>& found, const std::vector<Trace>& expected, Communicator& world) {
    const auto differs = std::mismatch(found.begin(), found.end(), expected.begin(), [](const Trace& a, const Trace& b) {
                             return a.loss == b.loss && a.weights == b.weights && (a.all == b.all || a.all == 0 || b.all == 0);
                         }).first;
    int64_t first = 0;
    for (const int64_t step : numbers_of_all(world, differs == found.end() ? 0 : differs - found.begin() + 1))
        if (step > 0 && (first == 0 || step < first)) first = step;
    return first;
}

// The same, of the weights of this trial's ranks beside each other.
int64_t first_parting(const std::vector<Trace>& found, Communicator& world) {
    for (size_t step = 0; step < found.size(); step++)
        for (const std::vector<int64_t> all = numbers_of_all(world, static_cast<int64_t>(found[step].weights)); const int64_t hash : all)
            if (hash != all[0]) return static_cast<int64_t>(step) + 1;
    return 0;
}

std::vector<Circumstance> circumstances(const Options& o, int64_t steps, const Stream& stream) {
    std::vector<Circumstance> list;
    list.push_back({"repeated", 1, o});
    if (!stream.on_gpu())
        for (int threads : {1, 3}) list.push_back({format("%d thread%s", threads, threads > 1 ? "s" : ""), 1, o, threads});
    for (const char* mode : {"none", "block"})
        if (o.recompute != mode) {
            list.push_back({format("--recompute %s", mode), 1, o});
            list.back().options.recompute = mode;
        }
    if (steps > 1) list.push_back({format("saved and resumed after step %lld", static_cast<long long>(steps / 2)), 1, o, 0, 1, steps / 2});
    const int64_t rows = o.total_batch_tokens / o.seq_len / o.ranks;  // of each rank
    for (int64_t batch_size = 1; batch_size <= rows; batch_size++) {
        if (rows % batch_size != 0 || batch_size == o.batch_size) continue;
        Options other = o;
        other.batch_size = batch_size;
        try {
            resolve_batch(other);
        } catch (const Error&) {
            continue;  // no whole units, or no equal shares
        }
        list.push_back(
            {format("%lld micro-batches of %lld rows", static_cast<long long>(rows / batch_size), static_cast<long long>(batch_size)), 2,
             other});
    }
    if (o.determinism != "ranks") return list;
    Options alone = o;
    alone.ranks = 1, alone.ranks_per_node = 0;
    if (o.ranks > 1) list.push_back({"1 rank alone, in each process", 3, alone});
    for (int ranks : {2, 4, 8}) list.push_back({format("%d ranks, simulated in one process", ranks), 3, alone, 0, ranks});
    return list;
}

}  // namespace

int verify_determinism_command(int argc, char** argv, Mesh& mesh) {
    CLI::App app(
        "Trains the configured model for a few steps, again and again under changed circumstances, and tells what stayed equal bit by "
        "bit:\n"
        "losses, weights, moments. Fails (exit code 5) where --determinism promises more. All options of training are taken: ./train "
        "--help.\n"
        "Under mpirun the trials are runs of all its ranks, whose weights are compared too; at --determinism ranks they are held against "
        "one\n"
        "rank alone. Ranks on several hosts: TMPDIR must name a folder that all see.\n\n"
        "  examples:  ./train verify-determinism --preset demo --data 'book_train_*.bin'\n"
        "             ./train verify-determinism --config runs/book/run.json --determinism ranks --total-batch-tokens 32768 --batch-size "
        "1\n"
        "             mpirun -np 4 ./train verify-determinism --preset tiny --data 'book_train_*.bin' --determinism ranks --zero 1 \\\n"
        "               --batch-size 1 --seq-len 256 --total-batch-tokens 2048\n",
        "./train verify-determinism");
    int64_t steps = 4;
    app.add_option("--steps", steps, "steps of each trial (default 4)")->check(CLI::Range(int64_t{1}, int64_t{1000}));
    app.allow_extras();
    if (!parse_command_line(app, argc, argv)) return 0;
    std::vector<std::string> arguments = app.remaining();
    std::vector<char*> pointers = {argv[0]};
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    Options o = start_ranks(static_cast<int>(pointers.size()), pointers.data(), mesh);
    if (o.data.empty())
        throw Error(ExitCode::usage, "verify-determinism trains, and there is no --data",
                    "make shards with ./train tokenize FILE --out PREFIX, then give --data 'PREFIX_train_*.bin'");
    const int threads = use_processor(o, mesh.threads_per_rank());
    Stream stream = open_stream(o.device, o.precision);
    mesh.use_device(stream);
    choose_determinism(o, stream);
    choose_products(o, stream);
    const RunFiles files = resolve_options(o);
    resolve_recompute(o, {}, available_memory(stream));
    Communicator& world = mesh.world();
    o.recompute = text_of_root(world, o.recompute);  // one list of circumstances on all ranks

    const std::string who = mesh.size() == 1 ? ""
                                             : format(", %d ranks on %d node%s, --zero %lld", mesh.size(), mesh.nodes(),
                                                      mesh.nodes() > 1 ? "s" : "", static_cast<long long>(o.zero));
    std::printf("%lld steps of %lld tokens on %s, --precision %s --determinism %s%s\n\n", static_cast<long long>(steps),
                static_cast<long long>(o.total_batch_tokens), stream.on_gpu() ? "a GPU" : "the CPU", o.precision.c_str(),
                o.determinism.c_str(), who.c_str());
    const Site site{files, mesh, stream, threads};
    const std::vector<Trace> expected = traces({"first", 0, o}, site, steps);
    std::printf("%-36s %-9s %-22s %s\n", "circumstance", "promised", "equal bit by bit", "weights and moments");
    std::printf("%-36s %-9s %-22s %s\n", "(the first trial)", "", "", hash_text(expected.back().all).c_str());
    std::string broken;
    const auto judge = [&](const std::string& name, int promised_at, int64_t differs, uint64_t hash) {
        const bool promised = level(o.determinism) >= promised_at;
        const std::string what = differs == 0 ? "yes" : format("no, from step %lld on", static_cast<long long>(differs));
        std::printf("%-36s %-9s %-22s %s\n", name.c_str(), promised ? "yes" : "no", what.c_str(), hash_text(hash).c_str());
        std::fflush(stdout);
        if (promised && differs > 0) broken += (broken.empty() ? "" : "; ") + name;
    };
    if (mesh.size() > 1) judge("weights of all ranks", 0, first_parting(expected, world), expected.back().weights);
    for (const Circumstance& c : circumstances(o, steps, stream)) {
        const std::vector<Trace> found = traces(c, site, steps);
        judge(c.name, c.promised_at, first_difference(found, expected, world), found.back().all);
    }
    if (!broken.empty())
        return end_together({ExitCode::numerical, "--determinism " + o.determinism + " is broken: other bits where " + broken,
                             "if a plain repetition differs, suspect the hardware; else please report the command line, it is a bug"},
                            mesh);
    std::printf("\nall that --determinism %s promises was kept\n", o.determinism.c_str());
    return 0;
}

}  // namespace traincu
