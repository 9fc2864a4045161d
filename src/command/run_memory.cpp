#include "src/command/run_memory.h"

#include "src/command/run_setup.h"
#include "src/plan/memory.h"

namespace traincu {

namespace {

AdamwParams adamw_params(const Options& o) {
    AdamwParams params;
    params.beta1 = o.beta1, params.beta2 = o.beta2, params.eps = o.adam_eps, params.weight_decay = o.weight_decay,
    params.seed = static_cast<uint64_t>(o.seed);
    return params;
}

}  // namespace

RunMemory::RunMemory(const Options& o, const RunUses& uses, int rank)
    : weights(model_config(o), precision_of(o), true, sums_by_units(o), data_parallel(o, rank).part_multiple()),
      optimizer(weights.door, adamw_params(o), optimizer_arena, o.adam_moments == "bf16" ? Dtype::bf16 : Dtype::f32,
                data_parallel(o, rank).optimizer_share()),
      trainer(training_options(o), weights.door, "training") {
    const int workers = o.determinism == "ranks" ? logical_workers / static_cast<int>(o.ranks) : 1;
    if (workers > 1)
        tree = std::make_unique<GradientTree>(weights.gradients, weights.table.flat_size, statistics_of(weights.dtype), workers);
    if (o.ranks > 1) {
        sharding = std::make_unique<Sharding>(data_parallel(o, rank), weights.door, exchange);
        weights.door.set_keeper(sharding.get());
    }
    if (uses.validates) validation = std::make_unique<ForwardPass>(weights, o.batch_size * o.seq_len);
    if (uses.samples) generator = std::make_unique<Generator>(weights, o.seq_len);
}

std::vector<const Arena*> RunMemory::arenas() const {
    std::vector<const Arena*> arenas = {&weights.weights, &weights.gradients, &optimizer_arena, &trainer.activations, &trainer.scratch};
    if (exchange.bytes() > 0) arenas.insert(arenas.begin() + 3, &exchange);
    if (weights.converted.bytes() > 0) arenas.insert(arenas.begin() + 1, &weights.converted);
    if (validation) arenas.insert(arenas.end(), {&validation->instance().activations, &validation->instance().scratch});
    if (generator) arenas.insert(arenas.end(), {&generator->instance().activations, &generator->instance().scratch});
    return arenas;
}

void RunMemory::allocate(const Stream& stream) {
    check_fits(arenas(), available_memory(stream));
    weights.allocate(stream);
    exchange.allocate(stream.memory());
    optimizer_arena.allocate(stream.memory());
    optimizer.bind(stream);
    trainer.allocate(stream);
    if (validation) validation->allocate(stream);
    if (generator) generator->allocate(stream);
}

void resolve_recompute(Options& o, const RunUses& uses, int64_t available) {
    if (o.recompute != "auto") return;
    for (const char* mode : {"none", "mlp", "attention", "block"}) {
        o.recompute = mode;
        if (total_bytes(RunMemory(o, uses).arenas()) < available / 10 * 9) return;
    }
}

}  // namespace traincu
