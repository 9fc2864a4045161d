// ./train: pretrains a language model, from token shards on disk to a finished checkpoint.
//
// main() picks the command. A training run is the five functions below it, in this order:
//   read_options     command line -> options
//   open_data        token shards -> loaders of whole optimizer steps
//   build_model      the run directory, its lock, the checkpoint to resume from; model, optimizer, and all memory
//   restore          weights from a checkpoint, a file, or the seed
//   train            the loop: step, log, validate, sample, save
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "src/base/process.h"           // wait_passively, keep_freed_memory
#include "src/base/signals.h"           // stop_signal
#include "src/base/version.h"           // build_summary
#include "src/command/choice_scorer.h"  // ChoiceScorer
#include "src/command/commands.h"       // the other commands
#include "src/command/evaluation.h"     // Evaluator
#include "src/command/pace.h"           // Pace
#include "src/command/progress.h"       // ProgressLine
#include "src/command/run_directory.h"  // check_resume, write_run_json
#include "src/command/run_memory.h"     // RunMemory
#include "src/command/run_ranks.h"      // start_ranks, open_run_directory
#include "src/command/run_setup.h"      // resolve_options, use_processor, fill_new_weights
#include "src/command/run_output.h"     // run_tables, write_run_report
#include "src/command/run_state.h"      // save_run_state, restore_run_state
#include "src/command/training_step.h"  // TrainingStep
#include "src/config/options.h"         // Options
#include "src/optim/master_copy.h"      // MasterCopy
#include "src/parallel/agree.h"         // any_rank, numbers_of_all
#include "src/plan/memory.h"            // available_memory
#include "src/plan/peak.h"              // measure_ceiling
#include "src/report/console.h"         // StepPrinter, lines

namespace traincu {
namespace {

struct Run {
    explicit Run(Mesh& ranks) : mesh(ranks) {}
    Mesh& mesh;  // the ranks: each has a Run, and rank 0 writes and speaks
    Options options;
    std::string command;
    RealIo io;
    RunDirectory directory;
    RunFiles files;  // --model, the tokenizer
    std::unique_ptr<Loader> data, val_data;
    std::unique_ptr<RunMemory> memory;     // weights, gradients, optimizer, and the models that train, validate and sample
    std::unique_ptr<Evaluator> evaluator;  // null without --val-data
    std::vector<ChoiceExample> hellaswag;  // --hellaswag
    std::unique_ptr<ChoiceScorer> choice_scorer;
    std::unique_ptr<RunLog> log;
    Stream stream;           // where it computes
    GpuTelemetry telemetry;  // empty on a CPU
    int threads = 1, failed_saves = 0;
    std::string machine;           // what computes, in words
    int64_t step = 0, tokens = 0;  // optimizer steps done, tokens seen
    double peak_flops = 0;
};

// ---- 1. options

void read_options(Run& run, int argc, char** argv) {
    Options& o = run.options = start_ranks(argc, argv, run.mesh);
    for (int i = 0; i < argc; i++) run.command += (i ? " " : "") + std::string(argv[i]);
    if (o.data.empty())
        throw Error(ExitCode::usage, "no training data: --data is missing",
                    "make shards with ./train tokenize FILE --out PREFIX, then give --data 'PREFIX_train_*.bin'");
    if (!o.hellaswag.empty() && o.val_data.empty())
        throw Error(ExitCode::usage, "--hellaswag is scored with every validation, and there is none without --val-data",
                    "give --val-data too");
    run.threads = use_processor(o, run.mesh.threads_per_rank());
    run.stream = open_stream(o.device, o.precision);
    run.mesh.use_device(run.stream);
    choose_products(o, run.stream);
    choose_determinism(o, run.stream);
    if (run.stream.on_gpu()) run.telemetry = open_telemetry();
}

// ---- 2. data

void open_data(Run& run) {
    Options& o = run.options;
    run.files = resolve_options(o);
    run.data = std::make_unique<Loader>(training_loader_config(o, run.mesh.rank()));
    if (!o.val_data.empty()) run.val_data = std::make_unique<Loader>(loader_config(o, o.val_data));
    if (!o.hellaswag.empty()) run.hellaswag = read_choices(o.hellaswag, o.vocab_size);
}

// ---- 3. model and memory, in a run directory of its own

void build_model(Run& run) {
    Options& o = run.options;
    run.directory = open_run_directory(run.io, o, run.mesh);  // only now: a mistake so far leaves nothing behind
    if (run.directory.resumes()) check_resume(run.directory, o, run.data->fingerprint());
    const RunUses uses{run.val_data != nullptr, run.files.tokenizer != nullptr};
    resolve_recompute(o, uses, available_memory(run.stream));
    run.memory = std::make_unique<RunMemory>(o, uses, run.mesh.rank());
    if (run.memory->sharding) run.memory->sharding->connect(run.mesh);
    // before the memory is taken: it needs some of its own
    const Ceiling ceiling = measure_ceiling(run.stream, run.memory->weights.dtype, run.threads);
    run.peak_flops = ceiling.flops * run.mesh.size(), run.machine = ceiling.text;
    run.memory->allocate(run.stream);
    if (run.val_data)
        run.evaluator = std::make_unique<Evaluator>(*run.memory->validation, *run.val_data, o.batch_size, o.seq_len, o.val_tokens,
                                                    run.files.tokenizer.get());
    if (!run.hellaswag.empty())
        run.choice_scorer =
            std::make_unique<ChoiceScorer>(*run.memory->validation, run.hellaswag, o.hellaswag, o.seq_len, o.hellaswag_examples);
}

// ---- 4. weights

RunState state_of(Run& run) {
    RunMemory& memory = *run.memory;
    return {run.step,
            run.tokens,
            run.data.get(),
            &memory.weights,
            &memory.optimizer,
            &run.stream,
            run.files.tokenizer.get(),
            memory.sharding.get(),
            &run.mesh.world()};
}

void restore(Run& run) {
    std::printf("%s\n%s\nrun directory %s\n\n", run_tables(run.options, *run.memory, *run.data).c_str(), run.machine.c_str(),
                run.directory.path.c_str());
    const bool writes = run.mesh.rank() == 0;
    if (writes)
        write_run_json(run.directory, options_to_keep(run.options, run.mesh), run.command,
                       run_facts(*run.memory, run.mesh, run.stream, run.threads, run.machine));
    run.log = std::make_unique<RunLog>(writes ? run.directory.path + "/log.jsonl" : "",
                                       run.directory.resumes() ? run.directory.checkpoint->step : -1, writes && run.options.tensorboard);
    if (run.directory.resumes()) {
        RunState state = state_of(run);
        if (!restore_run_state(run.directory, state)) std::printf("the data changed: its order begins anew\n");
        run.step = state.step, run.tokens = state.tokens;
        std::printf("resumed from %s\n", run.directory.checkpoint->path.c_str());
        return;
    }
    MasterCopy master(run.memory->weights.door, &run.memory->optimizer, run.stream);
    const std::string source = fill_new_weights(run.options, run.files, run.memory->weights.table, master.tensor());
    if (!source.empty()) std::printf("%s\n", source.c_str());
    master.upload();
}

// ---- 5. the loop

// A checkpoint that cannot be written is worth a warning; three in a row end the run, and so does `required` (the last one).
void save(Run& run, bool required) try {
    const std::string path = save_run_state(run.io, run.directory, state_of(run), options_to_keep(run.options, run.mesh));
    if (path.empty()) return;  // rank 0's matter
    std::printf("saved %s\n", path.c_str());
    run.log->checkpoint(run.step, path);
    if (run.options.keep > 0) retain_checkpoints(run.io, run.directory.path, static_cast<int>(run.options.keep));
    run.failed_saves = 0;
} catch (const Error& error) {
    if (required || error.code() == ExitCode::peer || ++run.failed_saves >= 3) throw;
    std::fprintf(stderr, "warning: no checkpoint of step %lld: %s (%s)\n", static_cast<long long>(run.step), error.what(),
                 error.remedy().c_str());
    run.log->note(run.step, std::string("checkpoint failed: ") + error.what());
}

void validate(Run& run) {
    if (!run.evaluator) return;
    const Evaluation result = run.evaluator->run(run.stream, nullptr, &run.mesh.world());
    ValidationRecord record{run.step, result.loss(), result.bits_per_byte(), run.tokens};
    if (run.choice_scorer) {
        ProgressLine line("hellaswag");
        auto progress = [&](double share) { line(share); };
        record.hellaswag = run.choice_scorer->run(run.stream, progress, &run.mesh.world()).acc_norm();
    }
    std::printf("%s\n", validation_line(record).c_str());
    run.log->validation(record);
}

void sample(Run& run) {
    if (!run.memory->generator) return;
    const std::string text = sample_text(*run.memory->generator, *run.files.tokenizer, run.options, run.stream);
    std::printf("--- sample\n%s\n---\n", text.c_str());
    run.log->sample(run.step, text);
}

// A step is done: it is counted, logged, shown.
void finish_step(Run& run, TrainingStep::Result result, Pace& pace, StepPrinter& printer) {
    StepRecord& record = result.record;
    const int64_t step_tokens = record.tokens;
    run.step = record.step;
    record.tokens = run.tokens += step_tokens;
    pace.add(record, step_tokens, run.telemetry.read(std::chrono::milliseconds(200)));
    run.log->step(record);
    printer.step(record);
    check_finite(result);
}

int train(Run& run) {
    const Options& o = run.options;
    Communicator& world = run.mesh.world();
    TrainingStep training_step(o, *run.memory, run.mesh.size() > 1 ? &world : nullptr, run.peak_flops, run.stream);
    StepPrinter printer(isatty(STDOUT_FILENO));
    const auto start = std::chrono::steady_clock::now();
    Pace pace;
    int64_t submitted = run.step;
    auto due = [&](int64_t every) { return every > 0 && submitted % every == 0 && submitted < o.max_steps; };
    StepBatch batch;

    // what is due at the step of a signal is left to the resumed run
    auto last = [&](int64_t logged) { return numbers_of_all(world, logged)[0]; };  // rank 0 has the log
    if ((run.step == 0 || due(o.val_every)) && last(run.log->last_validation()) < run.step) validate(run);
    if (run.step > 0 && due(o.sample_every) && last(run.log->last_sample()) < run.step) sample(run);
    while (run.step < o.max_steps) {
        if (!o.overfit_batch) {
            batch = run.data->next();
        } else if (batch.tokens == 0) {
            run.data->seek({});  // the first batch, on resume too
            batch = run.data->next();
        }
        training_step.submit(submitted++, batch);
        const bool out_of_time =
            o.max_minutes > 0 && std::chrono::steady_clock::now() - start > std::chrono::duration<double, std::ratio<60>>(o.max_minutes);
        const bool stopping = any_rank(world, stop_signal() || out_of_time) && submitted < o.max_steps;
        // A GPU has one step in line while it computes another, except where something follows that needs the weights.
        const bool pause = stopping || submitted == o.max_steps || due(o.val_every) || due(o.sample_every) || due(o.checkpoint_every);
        while (training_step.under_way() > (run.stream.on_gpu() && !pause ? 1 : 0))
            finish_step(run, training_step.collect(), pace, printer);
        if (!pause) continue;
        if (stopping) {
            printer.end_line();
            run.mesh.check_peers(0.2);  // a launcher that ends a run because a rank was lost signals too
            std::printf("stopping after step %lld: %s\n", static_cast<long long>(run.step),
                        any_rank(world, stop_signal()) ? "signal received" : "--max-minutes is over");
            save(run, true);
            std::printf("continue with: ./train --config %s/run.json --resume auto\n", o.out.c_str());
            return static_cast<int>(ExitCode::saved);
        }
        if (due(o.val_every) || due(o.sample_every) || due(o.checkpoint_every)) printer.end_line();
        if (due(o.val_every)) validate(run);
        if (due(o.sample_every)) sample(run);
        if (due(o.checkpoint_every)) save(run, false);
    }
    if (run.directory.resumes() && run.directory.checkpoint->step == run.step) return std::printf("this run is complete\n"), 0;
    std::printf("trained for %s", duration(pace.step_seconds).c_str());
    if (pace.product_seconds > 0)
        std::printf("; matrix products took %.0f %% of the steps", 100 * pace.product_seconds / pace.step_seconds);
    if (pace.joules > 0) std::printf("; %.3g kJ, %.3g joules a token", pace.joules / 1e3, pace.joules / static_cast<double>(pace.tokens));
    std::printf("\n");
    validate(run);
    save(run, true);
    sample(run);
    if (run.mesh.rank() == 0) write_run_report(run.directory.path);
    return 0;
}

int train_command(int argc, char** argv, Mesh& mesh) {
    catch_stop_signals();
    Run run(mesh);
    read_options(run, argc, argv);
    open_data(run);
    build_model(run);
    restore(run);
    return train(run);
}

int run_command(int argc, char** argv, Mesh& mesh) {
    if (argc < 2) return std::fputs(examples, stdout), 0;
    const std::string command = argv[1];
    if (command == "--version") return std::fputs(build_summary().c_str(), stdout), 0;
    if (commands().contains(command)) return commands().at(command)(argc - 2, argv + 2, mesh);
    if (command[0] != '-')
        throw Error(ExitCode::usage, format("'%s' is no command of ./train", command.c_str()),
                    "the commands are tokenize, generate, eval, export, inspect, report, plan, bench, simulate, verify-determinism, "
                    "compare-numerics; without one, ./train trains");
    return train_command(argc, argv, mesh);
}

}  // namespace
}  // namespace traincu

int main(int argc, char** argv) {
    using namespace traincu;
    wait_passively(argv);
    keep_freed_memory();
    Mesh mesh;  // of one rank, until a run starts it
    try {
        return run_command(argc, argv, mesh);
    } catch (const HelpRequested& help) {
        std::fputs(help.text.c_str(), stdout);
        return 0;
    } catch (const Error& error) {
        return end_by_error(error, mesh);
    } catch (const std::exception& error) {
        std::fflush(stdout);
        std::fprintf(stderr, "internal error: %s\n  this is a bug in train.cu: please report it with the command line\n", error.what());
        return mesh.leave(1, error.what());
    }
}
