// What the options of a run come to before anything is allocated: for the run itself and for its plan.
#pragma once

#include <memory>
#include <optional>

#include "src/checkpoint/formats.h"
#include "src/command/attention_bias.h"
#include "src/config/batch_options.h"
#include "src/config/model_options.h"
#include "src/parallel/sharding.h"
#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/device/stream.h"
#include "src/device/telemetry.h"
#include "src/model/instance.h"
#include "src/plan/cost.h"

namespace traincu {

// What the files say that the options name.
struct RunFiles {
    std::optional<ModelOnDisk> model;      // --model
    std::unique_ptr<Tokenizer> tokenizer;  // of --data or --model; null: neither names one, so no samples
    std::optional<FixedBias> bias;         // of --attn-bias file:PATH or spatial:PATH
};
// Options that leave something to their files get it: the model's shape from --model, the vocabulary from the first shard's header. Then
// the batch is resolved. No tokens are read.
RunFiles resolve_options(Options& o);

// One micro-batch a step, unshuffled, from the shards that the patterns mean: as a validation reads them.
LoaderConfig loader_config(const Options& o, const std::string& patterns);

// The threads and the engine of matrix products that the options ask for come into force. Returns the number of threads; unasked: those
// of a rank, 0 = all.
int use_processor(const Options& o, int threads_per_rank = 0);

// The stream to compute on. device: auto (a GPU if there is one that this build can use, else the CPU, with a note that says why), cpu,
// cuda. precision: auto becomes bf16 on a GPU and fp32 on a CPU. Error(usage) where what is asked for is not there.
Stream open_stream(const std::string& device, std::string& precision);

// --determinism comes into force on the stream's device. Error(usage) where an option has no way to keep the promise.
void choose_determinism(Options& o, const Stream& stream);

// --fp32-products comes into force; auto becomes fp32. Error(usage) where it cannot be.
void choose_products(Options& o, const Stream& stream);

// Readings of the GPU that is computed on. Notes on stderr where someone else computes on it too.
GpuTelemetry open_telemetry();

// The weights that a new run begins with, flat f32 on the host: of --model, or from the seed; the factors of a fixed bias. Says where they
// come from.
std::string fill_new_weights(const Options& o, const RunFiles& files, const ParamTable& table, Tensor weights);

// A model from disk into memory that is allocated on the stream's device.
void load_weights(const ModelOnDisk& model, WeightStore& weights, Stream& stream);

// The model of the training steps, with room for the largest micro-batch.
ModelOptions training_options(const Options& o);
// One rank's share of the run's steps: rows and micro-batches. o: resolved.
StepShape step_shape(const Options& o);
// How the ranks of the run go together.
DataParallel data_parallel(const Options& o, int rank);
// One rank's share of the steps' tokens.
LoaderConfig training_loader_config(const Options& o, int rank);

}  // namespace traincu
