#include "src/parallel/sharding.h"

#include <algorithm>
#include <numeric>

#include "kernels/add.h"
#include "kernels/copy.h"
#include "src/config/batch_options.h"

namespace traincu {

int64_t DataParallel::part_multiple() const {
    constexpr int64_t alignment = 16;
    return alignment * (fixed_tree ? std::lcm(ranks, logical_workers) : ranks);
}

OptimizerShare DataParallel::optimizer_share() const {
    OptimizerShare share;
    if (zero > 0) share.rank = rank, share.ranks = ranks;
    if (fixed_tree)
        share.norm_pieces = logical_workers;
    else if (ranks > 1)
        share.norm_pieces = ranks;
    return share;
}

Sharding::Sharding(const DataParallel& how, WeightDoor& door, Arena& arena)
    : how_(how), door_(door), summing_(door.table().parts.size()), arriving_(door.table().parts.size()) {
    int64_t largest = 0;
    for (const ParamPart& part : door.table().parts) largest = std::max(largest, part.size);
    if (how.fixed_tree) arena.add(received_, "gradients of all ranks", statistics_of(door.precision().compute), {largest});
    arena.add(loss_sums_, "losses of all ranks", Dtype::f64, {how.ranks});
}

Tensor Sharding::gradients_of(int part) const {
    const ParamPart& range = door_.table().parts[static_cast<size_t>(part)];
    return door_.flat_gradients().slice_rows(range.begin, range.size);
}

Tensor Sharding::own(const Tensor& whole) const {
    const int64_t share = whole.numel() / how_.ranks;
    return whole.slice_rows(how_.rank * share, share);
}

// blocks: (P,n), flat. The sum as GradientTree adds workers, in block 0.
void Sharding::add_as_tree(const Tensor& blocks, Stream& stream) const {
    const int64_t n = blocks.numel() / how_.ranks;
    for (int stride = 1; stride < how_.ranks; stride *= 2)
        for (int block = 0; block + stride < how_.ranks; block += 2 * stride)
            add(blocks.slice_rows(block * n, n), blocks.slice_rows((block + stride) * n, n), stream);
}

void Sharding::sum_as_tree(int part, Stream& stream) {
    const Tensor gradients = gradients_of(part), received = received_.slice_rows(0, gradients.numel()), mine = own(gradients);
    world_->all_to_all(received, gradients, Cargo::gradients, stream).wait(stream);
    add_as_tree(received, stream);
    copy(mine, received.slice_rows(0, mine.numel()), stream);
    if (how_.zero == 0) summing_[static_cast<size_t>(part)] = world_->all_gather(gradients, mine, Cargo::gradients, stream);
}

void Sharding::committed(int part, bool last, Stream& stream) {
    world_->progress();
    if (!last || how_.fixed_tree) return;
    const Tensor gradients = gradients_of(part);
    summing_[static_cast<size_t>(part)] = how_.zero == 0 ? world_->all_reduce(gradients, Reduce::sum, Cargo::gradients, stream)
                                                         : world_->reduce_scatter(own(gradients), gradients, Cargo::gradients, stream);
}

void Sharding::finish_gradients(Tensor loss_sum, Stream& stream) {
    if (how_.fixed_tree)
        for (int part = 0; part < door_.table().n_parts; part++) sum_as_tree(part, stream);
    for (Pending& sum : summing_)
        if (sum) sum.wait(stream);
    world_->all_gather(loss_sums_, loss_sum, Cargo::other, stream).wait(stream);
    add_as_tree(loss_sums_, stream);
    copy(loss_sum, loss_sums_.slice_rows(0, 1), stream);
}

void Sharding::finish_squares(Tensor squares, Stream& stream) {
    if (how_.zero > 0) world_->all_gather(squares, own(squares), Cargo::other, stream).wait(stream);
}

int64_t Sharding::stored_at(int64_t index) const {
    const ParamTable& table = door_.table();
    if (index == table.flat_size) return table.stored_bytes;
    const auto next =
        std::upper_bound(table.rows.begin(), table.rows.end(), index, [](int64_t at, const ParamRow& row) { return at < row.offset; });
    const ParamRow& row = next[-1];
    return row.stored_at + (index - row.offset) * size_of(row.stored);
}

// Shares are equal in elements. In bytes they are where all rows of the part are of one type; else each rank sends what it has.
Pending Sharding::bring_weights(int part, Stream& stream) {
    const ParamPart& range = door_.table().parts[static_cast<size_t>(part)];
    auto share_of = [&](int rank) {
        const int64_t share = range.size / how_.ranks, begin = stored_at(range.begin + rank * share),
                      end = stored_at(range.begin + (rank + 1) * share);
        return Tensor(static_cast<std::byte*>(door_.flat_weights().data) + begin, Dtype::u8, {end - begin});
    };
    const Tensor mine = share_of(how_.rank);
    bool equal = true;
    for (int rank = 0; rank < how_.ranks; rank++) equal = equal && share_of(rank).bytes() == mine.bytes();
    if (equal) {
        const Tensor all(share_of(0).data, Dtype::u8, {mine.bytes() * how_.ranks});
        return world_->all_gather(all, mine, Cargo::weights, stream);
    }
    std::vector<Communicator::Message> sends, receives;
    for (int rank = 0; rank < how_.ranks; rank++)
        if (rank != how_.rank) sends.push_back({rank, mine}), receives.push_back({rank, share_of(rank)});
    return world_->exchange(sends, receives, Cargo::weights, stream);
}

void Sharding::publish_weights(Stream& stream) {
    if (how_.zero == 0) return;
    for (int part = 0; part < door_.table().n_parts; part++) arriving_[static_cast<size_t>(part)] = bring_weights(part, stream);
}

void Sharding::ready(int part, Stream& stream) {
    world_->progress();
    if (Pending& weights = arriving_[static_cast<size_t>(part)]) weights.wait(stream);
}

void Sharding::settle(Stream& stream) {
    for (int part = 0; part < door_.table().n_parts; part++) ready(part, stream);
}

}  // namespace traincu
