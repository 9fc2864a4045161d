// ./train verify-determinism: the configured model for a few steps, again and again under changed circumstances, and what stayed equal bit
// by bit. The first trial is what --determinism promises to repeat.
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
#include "src/command/run_setup.h"
#include "src/command/run_state.h"
#include "src/optim/lr_schedule.h"
#include "src/optim/master_copy.h"
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
    int promised_at;  // level()
    Options options;
    int threads = 0;           // 0: as configured
    int ranks = 1;             // that share out the logical workers, one after the other in this process
    int64_t resume_after = 0;  // steps; 0: not interrupted
};

// What there is to compare after a step.
struct Trace {
    double loss = 0;
    uint64_t hash = 0;  // of weights, moments, and the guard's state
    bool operator==(const Trace&) const = default;
};

// A model in training.
class Trial {
public:
    Trial(const Circumstance& c, const RunFiles& files, Stream& stream)
        : options_(c.options),
          ranks_(c.ranks),
          stream_(stream),
          loader_(loader_of(c.options)),
          memory_(c.options, {}),
          lr_{c.options.lr_schedule,  c.options.lr,        c.options.min_lr_fraction,
              c.options.warmup_steps, c.options.max_steps, c.options.decay_fraction} {
        if (ranks_ > 1) {
            trees_ = std::make_unique<Arena>("sums over ranks");
            within_ = std::make_unique<GradientTree>(*trees_, memory_.weights.table.flat_size, Dtype::f32, logical_workers / ranks_);
            across_ = std::make_unique<GradientTree>(*trees_, memory_.weights.table.flat_size, Dtype::f32, ranks_);
        }
        memory_.allocate(stream);
        if (trees_) trees_->allocate(stream.memory());
        MasterCopy master(memory_.weights.door, &memory_.optimizer, stream);
        fill_new_weights(options_, files, memory_.weights.table, master.tensor());
        master.upload();
    }

    Trace step() {
        const StepBatch batch = loader_.next();
        const Tensor gradients = memory_.weights.door.flat_gradients(), loss = memory_.trainer.model.loss_sum();
        zero(gradients, stream_);
        auto run = [&](const StepBatch& share, GradientTree* tree) {
            Executor executor(memory_.trainer.model, memory_.weights.door, tree);
            executor.run(training_schedule(memory_.trainer.model.n_parts(), static_cast<int>(share.micro_batches.size()),
                                           options_.recompute != "none", tree ? tree->workers() : 1),
                         share, stream_);
        };
        if (ranks_ == 1) {
            run(batch, memory_.tree.get());
        } else {
            for (int rank = 0; rank < ranks_; rank++) {
                StepBatch share = batch;  // loss tokens are counted over the whole step
                const auto count = static_cast<std::ptrdiff_t>(batch.micro_batches.size()) / ranks_;
                share.micro_batches.assign(batch.micro_batches.begin() + rank * count, batch.micro_batches.begin() + (rank + 1) * count);
                run(share, within_.get());
                across_->fold(rank, gradients, loss, stream_);
            }
        }
        memory_.optimizer.step(loss, lr_.at(step_++), {loss_scale(batch), options_.skip_zscore, options_.grad_clip}, stream_);
        return {memory_.optimizer.read_guard(stream_).loss, hash()};
    }

    void save(RealIo& io, const std::string& folder) { save_run_state(io, {folder, nullptr, {}}, state(), options_); }
    void restore(const std::string& folder) {
        RunState state = this->state();
        restore_run_state({folder, nullptr, newest_checkpoint(folder, {})}, state);
        step_ = state.step;
    }

private:
    static LoaderConfig loader_of(const Options& o) {
        LoaderConfig config = loader_config(o, o.data);
        config.rows_per_step = o.total_batch_tokens / o.seq_len, config.shuffle = o.shuffle;
        return config;
    }
    RunState state() { return {step_, 0, &loader_, &memory_.weights, &memory_.optimizer, &stream_, nullptr}; }

    uint64_t hash() {
        uint64_t hash = 0;
        for (const Tensor& t : {memory_.weights.door.flat_weights(), memory_.optimizer.kept(), memory_.optimizer.m(), memory_.optimizer.v(),
                                memory_.optimizer.guard_state()}) {
            if (!t) continue;
            HostCopy bytes(Tensor(t.data, Dtype::u8, {t.bytes()}), stream_);
            const uint64_t both[2] = {hash, hash_bytes(bytes.download().tensor().data, t.bytes())};
            hash = hash_bytes(both, sizeof both);
        }
        return hash;
    }

    Options options_;
    int ranks_;
    Stream& stream_;
    Loader loader_;
    RunMemory memory_;
    LrSchedule lr_;
    std::unique_ptr<Arena> trees_;
    std::unique_ptr<GradientTree> within_, across_;  // a rank's workers; the ranks
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

std::vector<Trace> traces(const Circumstance& c, const RunFiles& files, int64_t steps, Stream& stream) {
    set_threads(c.threads > 0 ? c.threads : static_cast<int>(c.options.threads));
    std::vector<Trace> traces;
    auto trial = std::make_unique<Trial>(c, files, stream);
    for (int64_t step = 0; step < steps; step++) {
        if (step > 0 && step == c.resume_after) {
            RealIo io;
            const ScratchFolder folder;
            trial->save(io, folder.path);
            trial = std::make_unique<Trial>(c, files, stream);
            trial->restore(folder.path);
        }
        traces.push_back(trial->step());
    }
    return traces;
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
    const int64_t rows = o.total_batch_tokens / o.seq_len;
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
    if (o.determinism == "ranks")
        for (int ranks : {2, 4, 8}) list.push_back({format("%d ranks, simulated in one process", ranks), 3, o, 0, ranks});
    return list;
}

}  // namespace

int verify_determinism_command(int argc, char** argv) {
    CLI::App app(
        "Trains the configured model for a few steps, again and again under changed circumstances, and tells what stayed equal bit by "
        "bit:\n"
        "losses, weights, moments. Fails (exit code 5) where --determinism promises more. All options of training are taken: ./train "
        "--help.\n\n"
        "  examples:  ./train verify-determinism --preset demo --data 'book_train_*.bin'\n"
        "             ./train verify-determinism --config runs/book/run.json --determinism ranks --total-batch-tokens 32768 --batch-size "
        "1\n",
        "./train verify-determinism");
    int64_t steps = 4;
    app.add_option("--steps", steps, "steps of each trial (default 4)")->check(CLI::Range(int64_t{1}, int64_t{1000}));
    app.allow_extras();
    if (!parse_command_line(app, argc, argv)) return 0;
    std::vector<std::string> arguments = app.remaining();
    std::vector<char*> pointers = {argv[0]};
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    Options o = parse_options(static_cast<int>(pointers.size()), pointers.data());
    if (o.data.empty())
        throw Error(ExitCode::usage, "verify-determinism trains, and there is no --data",
                    "make shards with ./train tokenize FILE --out PREFIX, then give --data 'PREFIX_train_*.bin'");
    use_processor(o);
    Stream stream = open_stream(o.device, o.precision);
    choose_determinism(o, stream);
    choose_products(o, stream);
    const RunFiles files = resolve_options(o);
    resolve_recompute(o, {}, available_memory(stream));

    std::printf("%lld steps of %lld tokens on %s, --precision %s --determinism %s\n\n", static_cast<long long>(steps),
                static_cast<long long>(o.total_batch_tokens), stream.on_gpu() ? "a GPU" : "the CPU", o.precision.c_str(),
                o.determinism.c_str());
    const std::vector<Trace> expected = traces({"first", 0, o}, files, steps, stream);
    const std::string hash = hash_text(expected.back().hash);
    std::printf("%-36s %-9s %-22s %s\n", "circumstance", "promised", "equal bit by bit", "weights and moments");
    std::printf("%-36s %-9s %-22s %s\n", "(the first trial)", "", "", hash.c_str());
    std::string broken;
    for (const Circumstance& c : circumstances(o, steps, stream)) {
        const std::vector<Trace> found = traces(c, files, steps, stream);
        const auto differs = std::mismatch(found.begin(), found.end(), expected.begin()).first;
        const bool promised = level(o.determinism) >= c.promised_at, equal = differs == found.end();
        const std::string what = equal ? "yes" : format("no, from step %lld on", static_cast<long long>(differs - found.begin() + 1));
        std::printf("%-36s %-9s %-22s %s\n", c.name.c_str(), promised ? "yes" : "no", what.c_str(), hash_text(found.back().hash).c_str());
        std::fflush(stdout);
        if (promised && !equal) broken += (broken.empty() ? "" : "; ") + c.name;
    }
    if (!broken.empty())
        throw Error(ExitCode::numerical, "--determinism " + o.determinism + " is broken: other bits where " + broken,
                    "if a plain repetition differs, suspect the hardware; else please report the command line, it is a bug");
    std::printf("\nall that --determinism %s promises was kept\n", o.determinism.c_str());
    return 0;
}

}  // namespace traincu
