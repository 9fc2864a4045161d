#include "tests/simt/order.h"

#include <algorithm>

#include "src/base/error.h"
#include "tests/simt/access.h"

namespace traincu::simt {

namespace {

struct Item {
    uint32_t first;
    int stream;
    uint64_t index;
    std::string name;
};
std::vector<Item> items;  // begun, in the order of time; the last is under way
Clock clock_now;          // of the item under way
uint32_t next = first_interval;
constexpr uint32_t limit = 1u << 24;  // stamps have so many bits for an interval

bool before(const Item& item) {
    const auto stream = static_cast<size_t>(item.stream);
    return stream < clock_now.size() && clock_now[stream] >= item.index;
}
const Item* find_item(uint32_t interval) {
    auto after = std::upper_bound(items.begin(), items.end(), interval, [](uint32_t i, const Item& item) { return i < item.first; });
    return after == items.begin() ? nullptr : &*(after - 1);
}

}  // namespace

void join_clocks(Clock& clock, const Clock& other) {
    if (clock.size() < other.size()) clock.resize(other.size());
    for (size_t i = 0; i < other.size(); i++) clock[i] = std::max(clock[i], other[i]);
}

void begin_item(int stream, uint64_t index, const Clock& clock, std::string name) {
    clock_now = clock;
    item_now = {next, next};
    for (const Item& item : items)
        if (!before(item)) {
            item_now.floor = item.first;
            break;
        }
    items.push_back({next, stream, index, std::move(name)});
}
void forget_items() {
    items.clear();
    if (next < limit / 2) return;
    forget_stamps();
    next = first_interval;
}

uint32_t new_interval() {
    if (next == limit) throw Error(ExitCode::hardware, "SIMT runner: too many barriers in one launch");
    return next++;
}
ItemNow item_now;
bool ordered_before_item(uint32_t interval) {
    const Item* item = find_item(interval);
    return !item || before(*item);
}
std::string item_of(uint32_t interval) {
    const Item* item = find_item(interval);
    return item ? item->name : "earlier work";
}

}  // namespace traincu::simt
