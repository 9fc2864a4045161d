// What ranks tell each other about the run itself: few numbers, in the host's memory, between steps. Each waits for all ranks.
#pragma once

#include <string>
#include <vector>

#include "src/parallel/comm.h"

namespace traincu {

bool any_rank(Communicator& world, bool here);
// Root's text, on all ranks.
std::string text_of_root(Communicator& world, const std::string& text, int root = 0);
// What each rank says, by rank.
std::vector<int64_t> numbers_of_all(Communicator& world, int64_t here);
// numbers[i] becomes the sum over ranks of theirs; where all but one have 0, that one's to the bit.
void sum_over_ranks(Communicator& world, std::vector<double>& numbers);
// Error(usage) naming the ranks whose text is not that of rank 0. what: "the options"
void check_same(Communicator& world, const std::string& text, const char* what, const char* remedy);

}  // namespace traincu
