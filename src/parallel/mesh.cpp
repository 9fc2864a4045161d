#include "src/parallel/mesh.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "src/base/process.h"
#include "src/parallel/comm_nccl.h"
#ifdef TRAIN_HAS_MPI
#include "src/parallel/comm_mpi.h"
#endif

namespace traincu {

// Open MPI's mpirun sets OMPI_COMM_WORLD_SIZE; MPICH's and Intel's, and srun --mpi=pmi2, set PMI_SIZE; whatever speaks PMIx (srun
// --mpi=pmix, prun) sets PMIX_RANK, and no size. srun itself sets SLURM_STEP_NUM_TASKS. In a batch script outside of srun there is no
// step of several tasks, though SLURM_NTASKS and SLURM_PROCID are set: that is one rank.
Launcher find_launcher(const char* (*variable)(const char* name)) {
    const auto number = [&](const char* name) {
        const char* text = variable(name);
        return text ? std::max(0, std::atoi(text)) : 0;
    };
    if (const int ranks = number("OMPI_COMM_WORLD_SIZE")) return {"mpirun", ranks};
    if (const int ranks = number("PMI_SIZE")) return {"mpirun", ranks};
    if (const int ranks = number("SLURM_STEP_NUM_TASKS"); ranks > 1) return {"srun", ranks};
    if (variable("PMIX_RANK")) return {"a launcher with PMIx", 0};
    return {};
}

Mesh::Mesh() : threads_(allowed_cores()) {
    world_ = single_rank_communicator();
    node_ = world_->split(0, 0, "node"), across_ = world_->split(0, 0, "across");
}

// Why NCCL cannot serve these ranks, the same on all of them; empty: it can.
static std::string no_nccl(Communicator& world, const Stream& stream) {
    struct Place {
        bool on_gpu;
        char gpu[96];       // which card of which machine
        char missing[160];  // nccl_unusable()
    };
    Place mine = {stream.on_gpu(), "", ""};
    std::snprintf(mine.missing, sizeof mine.missing, "%s", nccl_unusable().c_str());
    if (mine.on_gpu) {
        std::string machine;  // alike in all containers of a machine, unlike on any two
        if (std::FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "r")) {
            char text[48] = "";
            if (std::fgets(text, sizeof text, file)) machine = text;
            std::fclose(file);
        }
        std::snprintf(mine.gpu, sizeof mine.gpu, "%.36s %.40s", machine.c_str(), gpu::device_info().pci_bus_id.c_str());
    }
    std::vector<Place> all(static_cast<size_t>(world.size()));
    const auto bytes = static_cast<int64_t>(sizeof mine);
    Stream cpu;
    world.all_gather(Tensor(all.data(), Dtype::u8, {world.size() * bytes}), Tensor(&mine, Dtype::u8, {bytes}), Cargo::other, cpu).wait(cpu);
    for (size_t i = 0; i < all.size(); i++) {
        if (!all[i].on_gpu) return format("rank %zu computes on the CPU", i);
        if (*all[i].missing) return all[i].missing;
        for (size_t j = 0; j < i; j++)
            if (std::string(all[j].gpu) == all[i].gpu) return format("ranks %zu and %zu share a GPU", j, i);
    }
    return "";
}

void Mesh::use_device(const Stream& stream) {
    if (size() == 1 || options_.transport == Transport::mpi) return;
    const auto sent = world_->traffic().sent;
    const std::string why_not = no_nccl(*world_, stream);
    world_->traffic().sent = sent;  // no part of the training
    if (!why_not.empty()) {
        if (options_.transport == Transport::nccl)
            throw Error(ExitCode::usage, "NCCL cannot be used: " + why_not,
                        "give each rank a GPU of its own and build with NCCL, or use MPI");
        if (stream.on_gpu()) note_ += (note_.empty() ? "" : "; ") + why_not + ": tensors travel through the hosts' memory";
        return;
    }
    const int m = node_->size(), here = rank();
    node_.reset(), across_.reset();
    world_ = nccl_communicator(std::move(world_), {options_.timeout_seconds, options_.nccl_scratch, options_.repeatable}, "world");
    node_ = world_->split(here / m, here, "node");
    across_ = world_->split(here % m, here, "across");
    nccl_ = true;
}

void Mesh::start(const MeshOptions& options) {
    ENSURE(!mpi_);
    const Launcher launcher = find_launcher([](const char* name) -> const char* { return std::getenv(name); });
    options_ = options;
    if (launcher.name.empty() || launcher.ranks == 1) return;
    if (has_mpi()) return start_mpi(options, launcher);
    if (launcher.ranks > 1 || std::getenv("PMIX_RANK") != std::string("0"))
        throw Error(ExitCode::usage, format("%s started several ranks, and this ./train was built without MPI", launcher.name.c_str()),
                    "install MPI and build again: sh scripts/setup.sh (packages libopenmpi-dev, openmpi-bin), then make");
}

#ifdef TRAIN_HAS_MPI

bool Mesh::has_mpi() { return true; }

namespace {

template <class T>
std::vector<T> gather(const T& mine, MPI_Comm mpi) {
    int size = 0;
    check_mpi(MPI_Comm_size(mpi, &size), "MPI_Comm_size");
    std::vector<T> all(static_cast<size_t>(size));
    check_mpi(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, mpi), "MPI_Allgather");
    return all;
}

}  // namespace

void Mesh::start_mpi(const MeshOptions& options, const Launcher& launcher) {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    mpi_ = true;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);  // inherited by what is split from it
    // srun without --mpi: each process would be a run of its own, all in one directory.
    int started = 0;
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &started), "MPI_Comm_size");
    if (launcher.ranks > 0 && launcher.ranks != started)
        throw Error(ExitCode::usage, format("%s started %d ranks, and MPI knows of %d", launcher.name.c_str(), launcher.ranks, started),
                    "start with mpirun -np N, or with srun --mpi=pmix (srun --mpi=list says what this Slurm has)");

    // The host's ranks, and the first of them, which stands for the host.
    MPI_Comm host = MPI_COMM_NULL, mpi = MPI_COMM_NULL;
    int launched_rank = 0, rank = 0;
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &launched_rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, launched_rank, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
    check_mpi(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(host, &local_ranks_), "MPI_Comm_size");
    const int first = gather(launched_rank, host)[0];
    cpu_set_t cores;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof cores, &cores);
    const std::vector<cpu_set_t> cores_of = gather(cores, host);
    threads_ = std::max(1, allowed_cores() / static_cast<int>(std::ranges::count_if(cores_of, [&](const cpu_set_t& other) {
                               cpu_set_t both;
                               CPU_AND(&both, &cores, &other);
                               return CPU_COUNT(&both) > 0;
                           })));
    check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");

    // Ranks are numbered host by host: `first` ascends by host, and within a host order is kept.
    check_mpi(MPI_Comm_split(MPI_COMM_WORLD, 0, 0, &mpi), "MPI_Comm_split");
    std::vector<int> first_of = gather(first, mpi), order(first_of.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int>(i);
    std::ranges::stable_sort(order, {}, [&](int launched) { return first_of[static_cast<size_t>(launched)]; });
    check_mpi(MPI_Comm_free(&mpi), "MPI_Comm_free");
    const int key = static_cast<int>(std::ranges::find(order, launched_rank) - order.begin());
    check_mpi(MPI_Comm_split(MPI_COMM_WORLD, 0, key, &mpi), "MPI_Comm_split");
    check_mpi(MPI_Comm_rank(mpi, &rank), "MPI_Comm_rank");
    first_of = gather(first, mpi);

    // Equal nodes, or nodes of one rank.
    const int ranks = static_cast<int>(first_of.size());
    int m = options.ranks_per_node;
    const bool refused = m > 0 && ranks % m != 0;  // once the ranks know each other: it is said once
    if (refused) m = 1;
    if (m <= 0) {
        m = static_cast<int>(std::ranges::count(first_of, first_of[0]));
        for (int r = 0; r < ranks; r++)
            if (static_cast<int>(std::ranges::count(first_of, first_of[static_cast<size_t>(r)])) != m) m = 0;
        if (m == 0) m = 1, note_ = "the hosts have unequal numbers of ranks: each rank counts as a node of its own";
    }
    std::vector<Communicator::Member> members;
    for (int r = 0; r < ranks; r++) members.push_back({r, r / m});

    watch_ = std::make_unique<PeerWatch>(rank, ranks);
    PeerWatch::Invitation invitation;
    if (rank == 0) invitation = watch_->invite(local_ranks_ == ranks);
    check_mpi(MPI_Bcast(&invitation, sizeof invitation, MPI_BYTE, 0, mpi), "MPI_Bcast");
    const std::string unwatched = watch_->start(invitation);
    if (!unwatched.empty()) note_ += (note_.empty() ? "" : "; ") + unwatched;

    world_ = mpi_communicator(mpi, std::move(members), {options.timeout_seconds, options.largest_message, watch_.get()}, "world");
    node_ = world_->split(rank / m, rank, "node");
    across_ = world_->split(rank % m, rank, "across");
    if (refused)
        throw Error(ExitCode::usage, format("%d ranks are not nodes of %d each", ranks, options.ranks_per_node),
                    "give --ranks-per-node a divisor of the number of ranks");
}

Mesh::~Mesh() {
    if (std::uncaught_exceptions() > 0) {
        [[maybe_unused]] PeerWatch* silent = watch_.release();  // no goodbye: to the others this is a failure
        return;
    }
    node_.reset(), across_.reset(), world_.reset();
    if (mpi_) MPI_Finalize();
    watch_.reset();  // only now: a rank that dies in MPI_Finalize is noticed as well
}

int Mesh::leave(int exit_code, const std::string& sentence) {
    if (!mpi_) return exit_code;
    if (watch_) watch_->last_words(sentence);
    std::fflush(nullptr);
    _exit(exit_code);
}

#else

bool Mesh::has_mpi() { return false; }
void Mesh::start_mpi(const MeshOptions&, const Launcher&) {}
Mesh::~Mesh() = default;
int Mesh::leave(int exit_code, const std::string&) { return exit_code; }

#endif

}  // namespace traincu
