// A training run of several ranks is one run: they start together, are of one mind, and one of them speaks.
#pragma once

#include "src/command/run_directory.h"
#include "src/parallel/mesh.h"

namespace traincu {

// Options from the command line, and the ranks that a launcher has started. Of all but rank 0 standard output is nowhere from here on, and
// notes are not said. Error(usage), on all ranks, where their options or builds differ.
Options start_ranks(int argc, char** argv, Mesh& mesh);

// What run.json and checkpoints say, from which a later run may take its options on other hosts: --ranks-per-node as it was given.
Options options_to_keep(const Options& options, const Mesh& mesh);

// open_run_directory(), by rank 0; the others get its path and checkpoint, not its lock. options.out becomes the same on all.
RunDirectory open_run_directory(Io& io, Options& options, Mesh& mesh);

// The end of a run by an error: printed, and told to the other ranks; does not return where there are any. Where all ranks fail in the
// same way, rank 0 alone says so.
int end_by_error(const Error& error, Mesh& mesh);

// The end by an error that all ranks, none of them lost, have found together: rank 0 says it. Returns the exit code, on all; MPI ends as
// after success. (Where one rank were to leave at once, another might not yet have the last message, and would tell of a lost peer.)
int end_together(const Error& error, Mesh& mesh);

}  // namespace traincu
