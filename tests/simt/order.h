// The order of launches, copies and fills: a vector clock for each, since streams are ordered by events and by the host alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace traincu::simt {

// Intervals with a meaning of their own.
constexpr uint32_t async_interval = 1;  // a cp.async is under way
constexpr uint32_t long_ago = 2;        // before all that is remembered
constexpr uint32_t first_interval = 3;

using Clock = std::vector<uint64_t>;  // by stream: how much of its work is past
void join_clocks(Clock& clock, const Clock& other);

// One piece of a stream's work begins: the `index`th of `stream`, known to come after all that `clock` says.
void begin_item(int stream, uint64_t index, const Clock& clock, std::string name);
void forget_items();  // nothing is in line, and the host waited for all: it comes before whatever comes now

uint32_t new_interval();
struct ItemNow {
    uint32_t first;  // its first interval
    uint32_t floor;  // all intervals before this one are ordered before the item
};
extern ItemNow item_now;
bool ordered_before_item(uint32_t interval);  // of one before item_now.first
std::string item_of(uint32_t interval);       // "kernel norm_kernel of another stream"

}  // namespace traincu::simt
