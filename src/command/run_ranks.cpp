#include "src/command/run_ranks.h"

#include <chrono>
#include <cstdio>
#include <thread>

#include "src/base/process.h"
#include "src/base/version.h"
#include "src/parallel/agree.h"

namespace traincu {

namespace {

// What may differ between ranks, since each has its own: the threads follow from the machine.
std::string shared_options(const Options& options) {
    Options o = options;
    o.threads = 0;
    return options_to_json(o).dump();
}

void print_error(const Error& error, const Mesh& mesh) {
    const std::string who = mesh.size() > 1 ? format("rank %d: ", mesh.rank()) : "";
    std::fprintf(stderr, "error: %s%s\n  what to do: %s\n%s\n", who.c_str(), error.what(), error.remedy().c_str(), error.json().c_str());
}

}  // namespace

Options start_ranks(int argc, char** argv, Mesh& mesh) {
    // The ranks start first: a mistake in the options is then said once.
    Options options;
    std::exception_ptr mistake;
    try {
        options = parse_options(argc, argv);
    } catch (...) {
        mistake = std::current_exception();
    }
    mesh.start({.ranks_per_node = static_cast<int>(options.ranks_per_node),
                .timeout_seconds = options.peer_timeout,
                .transport = options.transport == "nccl"  ? Transport::nccl
                             : options.transport == "mpi" ? Transport::mpi
                                                          : Transport::automatic,
                .repeatable = options.determinism != "off"});
    if (mesh.size() > 1 && options.device != "cpu" && gpu::built()) gpu::choose_device(mesh.local_rank());
    if (mesh.rank() > 0) {
        silence_notes();
        if (!std::freopen("/dev/null", "w", stdout)) throw Error(ExitCode::io, "/dev/null cannot be opened");
    }
    if (mistake) std::rethrow_exception(mistake);
    options.ranks = mesh.size();
    if (mesh.size() > 1) options.ranks_per_node = mesh.ranks_per_node();
    if (!mesh.note().empty()) note("%s", mesh.note().c_str());
    check_same(mesh.world(), shared_options(options), "the options", "start all ranks with one command line");
    check_same(mesh.world(), build_summary(), "the programs", "start the same build of ./train on all hosts");
    return options;
}

Options options_to_keep(const Options& options, const Mesh& mesh) {
    Options o = options;
    o.ranks_per_node = mesh.wanted_ranks_per_node();
    return o;
}

RunDirectory open_run_directory(Io& io, Options& options, Mesh& mesh) {
    RunDirectory directory;
    if (mesh.rank() == 0) directory = open_run_directory(io, options);
    if (mesh.size() == 1) return directory;
    options.out = text_of_root(mesh.world(), options.out);
    const std::string checkpoint = text_of_root(mesh.world(), directory.checkpoint ? directory.checkpoint->path : "");
    if (mesh.rank() > 0) {
        directory.path = options.out;
        if (!checkpoint.empty()) directory.checkpoint = open_checkpoint(checkpoint);
    }
    return directory;
}

int end_by_error(const Error& error, Mesh& mesh) {
    // A mistake in the options is one of all ranks. Rank 0 gives the others the time to meet it themselves, not as news of its failure.
    constexpr auto time_to_meet_it = std::chrono::milliseconds(200);
    if (mesh.rank() == 0 && mesh.size() > 1 && error.code() == ExitCode::usage) std::this_thread::sleep_for(time_to_meet_it);
    bool said = false;
    if (mesh.rank() > 0 && error.code() != ExitCode::peer) {
        constexpr double patience = 2;  // until rank 0 has failed in the same way, or has not
        try {
            mesh.check_peers(patience);
        } catch (const Error& lost) {
            said = std::string(lost.what()).find(error.what()) != std::string::npos;
        }
    }
    std::fflush(stdout);
    if (!said) print_error(error, mesh);
    return mesh.leave(static_cast<int>(error.code()), error.what());
}

int end_together(const Error& error, Mesh& mesh) {
    std::fflush(stdout);
    if (mesh.rank() == 0) print_error(error, mesh);
    return static_cast<int>(error.code());
}

}  // namespace traincu
