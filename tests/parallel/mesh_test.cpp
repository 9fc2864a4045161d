// Which launcher started this process, by the variables that launchers set.
#include <doctest/doctest.h>

#include <map>

#include "src/base/process.h"
#include "src/parallel/mesh.h"

namespace traincu::test {

namespace {

std::map<std::string, std::string> variables;

Launcher found(std::map<std::string, std::string> set) {
    variables = std::move(set);
    return find_launcher([](const char* name) -> const char* {
        const auto it = variables.find(name);
        return it == variables.end() ? nullptr : it->second.c_str();
    });
}

}  // namespace

TEST_SUITE("mesh") {
    TEST_CASE("mesh: a launcher is known by its variables") {
        CHECK(found({}).name.empty());
        CHECK(found({{"OMPI_COMM_WORLD_SIZE", "4"}, {"PMIX_RANK", "1"}}).ranks == 4);
        CHECK(found({{"OMPI_COMM_WORLD_SIZE", "1"}, {"PMIX_RANK", "0"}}).ranks == 1);
        CHECK(found({{"PMI_SIZE", "3"}, {"PMI_RANK", "0"}}).ranks == 3);
        CHECK(found({{"PMIX_RANK", "2"}}).name == "a launcher with PMIx");
        CHECK(found({{"PMIX_RANK", "2"}}).ranks == 0);
        CHECK(found({{"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_PROCID", "0"}}).name == "srun");
        CHECK(found({{"SLURM_STEP_NUM_TASKS", "8"}, {"PMIX_RANK", "2"}}).ranks == 8);
        // an allocation of eight tasks, and no srun: a batch script, or a shell
        CHECK(found({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}).name.empty());
        CHECK(found({{"SLURM_NTASKS", "8"}, {"SLURM_STEP_NUM_TASKS", "1"}}).name.empty());
        // mpirun inside such an allocation
        CHECK(found({{"SLURM_STEP_NUM_TASKS", "1"}, {"OMPI_COMM_WORLD_SIZE", "8"}}).ranks == 8);
    }

    TEST_CASE("mesh: without a launcher there is one rank, on one node, with all cores") {
        Mesh mesh;
        CHECK(mesh.size() == 1);
        CHECK(mesh.nodes() == 1);
        CHECK(mesh.ranks_per_node() == 1);
        CHECK(mesh.local_rank() == 0);
        CHECK(mesh.threads_per_rank() == allowed_cores());
        CHECK(mesh.leave(5, "diverged") == 5);
        mesh.check_peers();
    }
}

}  // namespace traincu::test
