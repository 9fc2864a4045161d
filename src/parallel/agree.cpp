#include "src/parallel/agree.h"

#include <functional>

#include "src/base/error.h"

namespace traincu {

namespace {

template <class T>
Tensor tensor_of(T* values, Dtype type, size_t count) {
    return Tensor(values, type, {static_cast<int64_t>(count)});
}

}  // namespace

bool any_rank(Communicator& world, bool here) {
    Stream host;
    int32_t flag = here;
    world.all_reduce(tensor_of(&flag, Dtype::i32, 1), Reduce::max, Cargo::other, host).wait(host);
    return flag != 0;
}

std::string text_of_root(Communicator& world, const std::string& text, int root) {
    Stream host;
    int64_t length = static_cast<int64_t>(text.size());
    world.broadcast(tensor_of(&length, Dtype::i64, 1), root, Cargo::other, host).wait(host);
    std::string theirs = text;
    theirs.resize(static_cast<size_t>(length));
    world.broadcast(tensor_of(theirs.data(), Dtype::u8, theirs.size()), root, Cargo::other, host).wait(host);
    return theirs;
}

std::vector<int64_t> numbers_of_all(Communicator& world, int64_t here) {
    Stream host;
    std::vector<int64_t> all(static_cast<size_t>(world.size()));
    world.all_gather(tensor_of(all.data(), Dtype::i64, all.size()), tensor_of(&here, Dtype::i64, 1), Cargo::other, host).wait(host);
    return all;
}

void sum_over_ranks(Communicator& world, std::vector<double>& numbers) {
    Stream host;
    world.all_reduce(tensor_of(numbers.data(), Dtype::f64, numbers.size()), Reduce::sum, Cargo::other, host).wait(host);
}

void check_same(Communicator& world, const std::string& text, const char* what, const char* remedy) {
    const auto hash = static_cast<int64_t>(std::hash<std::string>()(text));
    const std::vector<int64_t> all = numbers_of_all(world, hash);
    std::string others;
    for (size_t rank = 1; rank < all.size(); rank++)
        if (all[rank] != all[0]) others += (others.empty() ? "" : ", ") + std::to_string(rank);
    if (!others.empty()) throw Error(ExitCode::usage, format("%s of rank %s are not those of rank 0", what, others.c_str()), remedy);
}

}  // namespace traincu
