// What --determinism promises of the GPU's kernels, with the warps in several orders: the same bits of losses, gradients and updated
// weights, in every precision, for every split into micro-batches, and for the tree of logical workers.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "kernels/matmul.h"
#include "src/optim/master_copy.h"
#include "tests/simt/runner.h"
#include "tests/support/numeric.h"
#include "tests/support/tiny_model.h"

namespace traincu::test {
namespace {

struct Result {
    double loss;
    std::vector<float> gradients, weights;
    bool operator==(const Result&) const = default;
};

// One step of 8 rows of 16 tokens in micro-batches of `rows`, summed by units of 16 and by that many logical workers.
Result step(const ModelConfig& config, const char* precision, int64_t rows, int workers, uint64_t seed) {
    simt::reseed(seed);
    TinyModel m(config, precision_named(precision), rows * 16, Recompute::none, 0, {}, 16, Stream(test_device(), int64_t{8} << 20),
                Dtype::f32, true, workers);
    MasterCopy masters(m.store.door, &m.optimizer, m.stream);
    init_weights(masters.tensor(), m.store.table, 3);
    masters.upload();
    Result result;
    result.loss = m.train_step(random_batch(8, 16, config.vocab_size, rows), 1e-3, 1.0);
    HostCopy gradients(m.gradients(), m.stream);
    auto values = [](const Tensor& t) { return std::vector<float>(t.as<float>(), t.as<float>() + t.numel()); };
    gradients.download();
    result.gradients = values(gradients.tensor()), result.weights = values(masters.download().tensor());
    return result;
}

}  // namespace

TEST_SUITE("simt") {
    TEST_CASE("simt: the order of warps changes no bit of a training step, in any precision, split or tree") {
        set_gemm_engine(GemmEngine::own);
        ModelConfig config = qwen3_like();
        config.n_layer = 1, config.attn_gate = GateKind::elementwise, config.attn_sinks = true, config.window = 9;
        for (const char* precision : {"fp32", "layercast", "bf16", "bf16-sr"})
            for (int workers : {1, 8}) {
                if (workers == 8 && precision != std::string("bf16")) continue;
                CAPTURE(precision);
                CAPTURE(workers);
                const Result whole = step(config, precision, workers == 1 ? 8 : 1, workers, 1);
                CHECK(std::isfinite(whole.loss));
                for (uint64_t seed : {2, 3, 4}) CHECK(step(config, precision, 1, workers, seed) == whole);
            }
        CHECK(step(config, "bf16", 1, 8, 1).gradients != step(config, "bf16", 1, 1, 1).gradients);  // the tree is another sum
        set_gemm_engine(GemmEngine::automatic);
    }
}

}  // namespace traincu::test
