#include "src/parallel/sharding.h"

#include <algorithm>
#include <numeric>

#include "kernels/add.h"
#include "kernels/copy.h"
#include "src/config/batch_options.h"

namespace traincu {

namespace {

using Weights = CommQuant::Weights;
using Grads = CommQuant::Grads;

QuantFormat gradient_format(const CommQuant& quant, int bits) {
    QuantFormat f;
    f.bits = bits, f.group = quant.grads_group, f.rounding = QuantFormat::stochastic;
    f.hadamard = quant.grads == Grads::two_level_hadamard;
    f.sixteen_levels = quant.grads == Grads::int4;
    if (f.sixteen_levels) f.rounding = QuantFormat::nearest;
    return f;
}

QuantFormat weight_format(const CommQuant& quant) {
    QuantFormat f;
    f.bits = quant.weights == Weights::int8 ? 8 : 4, f.group = quant.weights_group, f.rounding = QuantFormat::stochastic;
    return f;
}

}  // namespace

// A rank's share of a part is whole groups.
int64_t DataParallel::part_multiple() const {
    constexpr int64_t alignment = 16;
    int64_t share = alignment;
    if (quant.weights != Weights::none) share = std::max(share, quant.weights_group);
    if (quant.grads != Grads::none) share = std::max(share, quant.grads_group);
    return share * (fixed_tree ? std::lcm(ranks, logical_workers) : ranks);
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
    : how_(how),
      door_(door),
      first_(gradient_format(how.quant, how.quant.grads == Grads::int4 ? 4 : 8)),
      second_(gradient_format(how.quant, how.quant.grads == Grads::int8 ? 8 : 4)),
      weights_(weight_format(how.quant)),
      messages_(door.table().parts.size()),
      stages_(door.table().parts.size(), Stage::done),
      summing_(door.table().parts.size()),
      arriving_(door.table().parts.size()) {
    int64_t largest = 0;
    for (const ParamPart& part : door.table().parts) largest = std::max(largest, part.size);
    const int64_t m = how.ranks_per_node, M = how.nodes(), n = largest / how.ranks;
    if (how.fixed_tree) arena.add(received_, "gradients of all ranks", statistics_of(door.precision().compute), {largest});
    arena.add(loss_sums_, "losses of all ranks", Dtype::f64, {how.ranks});
    if (how.quant.grads != Grads::none)
        for (Hops& hops : hops_) {
            if (m > 1)
                for (Tensor* t : {&hops.first_out, &hops.first_in})
                    arena.add(*t, "messages inside the node", Dtype::u8, {m * M * message_bytes(n, first_)});
            if (M > 1)
                for (Tensor* t : {&hops.second_out, &hops.second_in})
                    arena.add(*t, "messages between nodes", Dtype::u8, {M * message_bytes(n, second_)});
        }
    if (how.quant.weights != Weights::none) {
        for (size_t part = 0; part < messages_.size(); part++)
            arena.add(messages_[part], "messages of weights", Dtype::u8,
                      {how.ranks, message_bytes(door.table().parts[part].size / how.ranks, weights_)});
    }
}

Traffic Sharding::step_traffic() const {
    const int64_t m = how_.ranks_per_node, M = how_.nodes(), P = how_.ranks;
    Traffic traffic;
    auto links = [&](Cargo cargo) -> Traffic::Links& { return traffic.sent[static_cast<size_t>(cargo)]; };
    auto to_all = [&](Cargo cargo, int64_t bytes) {  // so many to each other rank
        links(cargo).inside_node += (m - 1) * bytes, links(cargo).between_nodes += (P - m) * bytes;
    };
    for (const ParamPart& part : door_.table().parts) {
        const int64_t n = part.size / P;
        if (how_.quant.grads == Grads::none) {
            // the shares are summed, and with --zero 0 the sums brought back
            to_all(Cargo::gradients, (how_.zero == 0 ? 2 : 1) * n * size_of(door_.flat_gradients().dtype));
        } else {
            links(Cargo::gradients).inside_node += (m - 1) * M * message_bytes(n, first_);
            links(Cargo::gradients).between_nodes += (M - 1) * message_bytes(n, second_);
        }
        if (how_.zero == 0) continue;
        const int64_t own = part.begin + how_.rank * n;
        to_all(Cargo::weights, how_.quant.weights == Weights::none ? stored_at(own + n) - stored_at(own) : message_bytes(n, weights_));
    }
    to_all(Cargo::other, size_of(Dtype::f64));  // losses
    const int64_t squares = how_.optimizer_share().norm_pieces * door_.table().n_parts;
    if (how_.zero > 0) to_all(Cargo::other, squares / P * size_of(Dtype::f64));
    return traffic;
}

Tensor Sharding::gradients_of(int part) const {
    const ParamPart& range = range_of(part);
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
    if (how_.zero > 0) return;
    summing_[static_cast<size_t>(part)] = world_->all_gather(gradients, mine, Cargo::gradients, stream);
    stages_[static_cast<size_t>(part)] = Stage::summing;
}

QuantNoise Sharding::noise(int hop, int64_t first, int64_t stride) const {
    return {how_.quant.seed, static_cast<uint32_t>(step_), hop, how_.rank, first, stride};
}

// Two hops of a part's gradients. Shares are numbered as ranks are: node by node.
void Sharding::begin_hops(int part, Stream& stream) {
    const ParamPart& range = range_of(part);
    const int64_t m = how_.ranks_per_node, M = how_.nodes(), n = range.size / how_.ranks;
    const Tensor gradients = gradients_of(part);
    Hops& hops = hops_[static_cast<size_t>(part) % hops_.size()];
    const bool inside = m > 1;
    const QuantFormat& format = inside ? first_ : second_;
    const int64_t bytes = message_bytes(n, format);
    const Tensor& to = inside ? hops.first_out : hops.second_out;
    const Tensor messages = inside ? Tensor(to.data, Dtype::u8, {m, M, bytes}) : Tensor(to.data, Dtype::u8, {M, bytes});
    const Tensor shares = inside ? Tensor(gradients.data, gradients.dtype, {M, m, n}) : Tensor(gradients.data, gradients.dtype, {M, n});
    quantize(messages, shares, 1.0, format, noise(inside ? 0 : 1, range.begin, n), stream);
    const Tensor from((inside ? hops.first_in : hops.second_in).data, Dtype::u8, {messages.numel()});
    Communicator& peers = inside ? *node_ : *across_;
    summing_[static_cast<size_t>(part)] =
        peers.all_to_all(from, Tensor(messages.data, Dtype::u8, {messages.numel()}), Cargo::gradients, stream);
    stages_[static_cast<size_t>(part)] = inside ? Stage::first_hop : Stage::second_hop;
}

void Sharding::advance(int part, Stream& stream) {
    Stage& stage = stages_[static_cast<size_t>(part)];
    if (stage == Stage::done) return;
    Pending& sum = summing_[static_cast<size_t>(part)];
    sum.wait(stream);
    if (stage == Stage::summing) {
        stage = Stage::done;
        return;
    }
    const ParamPart& range = range_of(part);
    const int64_t m = how_.ranks_per_node, M = how_.nodes(), n = range.size / how_.ranks;
    const Hops& hops = hops_[static_cast<size_t>(part) % hops_.size()];
    const Tensor share = own(gradients_of(part));
    auto messages = [](const Tensor& t, std::initializer_list<int64_t> shape) { return Tensor(t.data, Dtype::u8, shape); };
    if (stage == Stage::second_hop) {
        reduce_dequantize(share, messages(hops.second_in, {M, message_bytes(n, second_)}), second_, stream);
        stage = Stage::done;
    } else if (M == 1) {
        reduce_dequantize(share, messages(hops.first_in, {m, message_bytes(n, first_)}), first_, stream);
        stage = Stage::done;
    } else {
        const int64_t bytes = M * message_bytes(n, second_), local = how_.rank % m;
        reduce_quantize(messages(hops.second_out, {M, message_bytes(n, second_)}),
                        messages(hops.first_in, {m, M, message_bytes(n, first_)}), first_, second_,
                        noise(1, range.begin + local * n, m * n), stream);
        sum = across_->all_to_all(messages(hops.second_in, {bytes}), messages(hops.second_out, {bytes}), Cargo::gradients, stream);
        stage = Stage::second_hop;
    }
}

void Sharding::finish(int part, Stream& stream) {
    while (stages_[static_cast<size_t>(part)] != Stage::done) advance(part, stream);
}

void Sharding::committed(int part, bool last, Stream& stream) {
    world_->progress();
    if (!last || how_.fixed_tree) return;
    if (how_.quant.grads != Grads::none) {
        // The backward comes to the parts in descending order. Three share the messages' memory in turn: the first hop of this one is
        // under way beside the second hop of the next.
        const int parts = door_.table().n_parts;
        if (part + 2 < parts) finish(part + 2, stream);
        if (part + 1 < parts && stages_[static_cast<size_t>(part + 1)] == Stage::first_hop) advance(part + 1, stream);
        return begin_hops(part, stream);
    }
    const Tensor gradients = gradients_of(part);
    summing_[static_cast<size_t>(part)] = how_.zero == 0 ? world_->all_reduce(gradients, Reduce::sum, Cargo::gradients, stream)
                                                         : world_->reduce_scatter(own(gradients), gradients, Cargo::gradients, stream);
    stages_[static_cast<size_t>(part)] = Stage::summing;
}

void Sharding::finish_gradients(Tensor loss_sum, Stream& stream) {
    const int parts = door_.table().n_parts;
    if (how_.fixed_tree)
        for (int part = 0; part < parts; part++) sum_as_tree(part, stream);
    for (int part = parts - 1; part >= 0; part--)
        if (stages_[static_cast<size_t>(part)] == Stage::first_hop) advance(part, stream);
    for (int part = parts - 1; part >= 0; part--) finish(part, stream);
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
    const ParamPart& range = range_of(part);
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

Tensor Sharding::stored_of(int part) const {
    const ParamPart& range = range_of(part);
    const Dtype type = door_.table().rows[0].stored;
    return Tensor(static_cast<std::byte*>(door_.flat_weights().data) + range.begin * size_of(type), type, {range.size});
}

// Quantised: what this rank's masters are, or have become since.
Pending Sharding::bring_messages(int part, const Optimizer& optimizer, Stream& stream) {
    constexpr int hop = 2;
    const OwnPiece& piece = optimizer.pieces()[static_cast<size_t>(part)];
    const Tensor& of_all = messages_[static_cast<size_t>(part)];
    const Tensor messages(of_all.data, Dtype::u8, {of_all.numel()}), message = own(messages);
    const Tensor masters = optimizer.kept(), main = masters.slice_rows(piece.local, piece.size);  // all are kept, so they lie as moments do
    if (how_.quant.weights == Weights::diff4)
        quantize_difference(message, main, own(stored_of(part)), weights_, noise(hop, piece.begin, 0), stream);
    else
        quantize(message, main, 1.0, weights_, noise(hop, piece.begin, 0), stream);
    return world_->all_gather(messages, message, Cargo::weights, stream);
}

void Sharding::publish_weights(const Optimizer& optimizer, Stream& stream) {
    if (how_.zero == 0) return;
    for (int part = 0; part < door_.table().n_parts; part++)
        arriving_[static_cast<size_t>(part)] =
            how_.quant.weights == Weights::none ? bring_weights(part, stream) : bring_messages(part, optimizer, stream);
}

void Sharding::ready(int part, Stream& stream) {
    world_->progress();
    Pending& weights = arriving_[static_cast<size_t>(part)];
    if (!weights) return;
    weights.wait(stream);
    if (how_.quant.weights == Weights::none) return;
    const Tensor stored = stored_of(part), shares(stored.data, stored.dtype, {how_.ranks, stored.numel() / how_.ranks});
    if (how_.quant.weights == Weights::diff4)
        dequantize_add(shares, messages_[static_cast<size_t>(part)], weights_, stream);
    else
        dequantize(shares, messages_[static_cast<size_t>(part)], weights_, stream);
}

void Sharding::settle(Stream& stream) {
    for (int part = 0; part < door_.table().n_parts; part++) ready(part, stream);
}

}  // namespace traincu
