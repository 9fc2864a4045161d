#include "src/command/run_setup.h"

#include <cstdio>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "src/base/process.h"
#include "src/command/evaluation.h"
#include "src/data/shard.h"
#include "src/device/transfer.h"
#include "src/model/init.h"
#include "src/optim/master_copy.h"

namespace traincu {

RunFiles resolve_options(Options& o) {
    RunFiles files;
    if (o.from_scratch && o.model.empty())
        throw Error(ExitCode::usage, "--from-scratch needs the --model whose shape it takes", "give --model too, or leave out both");
    if (!o.model.empty()) {
        files.model = find_model(o.model);
        check_attention_options(o, files.model->config, o.model);
        set_model_options(o, files.model->config);
    }
    if (!o.data.empty()) {
        const std::string shard = expand_glob(o.data)[0];
        if (o.vocab_size == 0) o.vocab_size = Shard(shard).header().vocab_size;
        files.tokenizer = choose_tokenizer(o.tokenizer, shard, files.model ? &*files.model : nullptr, o.vocab_size);
    }
    resolve_rank_options(o);
    resolve_batch(o);
    if (names_bias_file(o)) files.bias = read_fixed_bias(o);
    set_model_options(o, model_config(o));
    return files;
}

std::string fill_new_weights(const Options& o, const RunFiles& files, const ParamTable& table, Tensor weights) {
    if (files.model && !o.from_scratch) {
        load_model(*files.model, table, weights);
        return "weights from " + o.model;
    }
    init_weights(weights, table, static_cast<uint64_t>(o.seed));
    if (files.bias) {
        place_factors(*files.bias, table, weights);
        return files.bias->report;
    }
    for (size_t row = 0; row < table.rows.size(); row++) {
        if (table.rows[row].trained()) continue;
        if (!files.model)
            throw Error(ExitCode::usage, "--attn-bias " + o.attn_bias + " has its numbers from a model, and there is no --model",
                        "give --attn-bias file:PATH or spatial:PATH, from which it was made");
        ModelSource(*files.model, table).read_row(row, weights.as<float>() + table.rows[row].offset);
    }
    return "";
}

ModelOptions training_options(const Options& o) {
    ModelOptions options;
    options.config = model_config(o), options.max_tokens = o.batch_size * o.seq_len, options.z_loss = o.z_loss,
    options.recompute = recompute_named(o.recompute), options.deterministic = o.determinism != "off";
    const Precision precision = precision_of(o);
    if (sums_by_units(o)) options.unit_rows = unit_tokens;
    options.dtype = precision.compute, options.wide_head = precision.wide_head();
    // On a GPU many rows together: each chunk of the head reads and writes the gradient of the whole table.
    if (options.dtype == Dtype::bf16) options.logits_bytes = int64_t{2} << 30;
    return options;
}

StepShape step_shape(const Options& o) { return {training_options(o), o.seq_len, o.total_batch_tokens / o.seq_len / o.ranks}; }

DataParallel data_parallel(const Options& o, int rank) {
    const int ranks = static_cast<int>(o.ranks), per_node = static_cast<int>(o.ranks_per_node);
    return {ranks, rank, per_node > 0 ? per_node : ranks, static_cast<int>(o.zero), o.determinism == "ranks", comm_quant(o)};
}

LoaderConfig training_loader_config(const Options& o, int rank) {
    LoaderConfig config = loader_config(o, o.data);
    config.rows_per_step = o.total_batch_tokens / o.seq_len;
    config.own_rows = config.rows_per_step / o.ranks, config.first_row = rank * config.own_rows;
    config.shuffle = o.shuffle;
    return config;
}

LoaderConfig loader_config(const Options& o, const std::string& patterns) {
    LoaderConfig config;
    config.shards = expand_glob(patterns);
    config.seq_len = o.seq_len, config.vocab_size = o.vocab_size, config.seed = static_cast<uint64_t>(o.seed);
    config.packing = o.packing == "documents" ? LoaderConfig::Packing::documents : LoaderConfig::Packing::stream;
    config.rows_per_micro_batch = config.rows_per_step = o.batch_size;
    return config;
}

int use_processor(const Options& o, int threads_per_rank) {
    set_gemm_engine(o.gemm == "own"        ? GemmEngine::own
                    : o.gemm == "onednn"   ? GemmEngine::onednn
                    : o.gemm == "cublaslt" ? GemmEngine::cublaslt
                                           : GemmEngine::automatic);
    set_attention_kernel(o.attention_kernel == "simple"   ? AttentionKernel::simple
                         : o.attention_kernel == "tiled"  ? AttentionKernel::tiled
                         : o.attention_kernel == "hopper" ? AttentionKernel::hopper
                                                          : AttentionKernel::automatic);
    return set_threads(o.threads > 0 ? static_cast<int>(o.threads) : threads_per_rank);
}

Stream open_stream(const std::string& device, std::string& precision) {
    const std::string why = gpu::built() ? gpu::unusable() : "this build has no GPU code";
    if (device == "cuda" && !why.empty())
        throw Error(
            ExitCode::usage, "--device cuda: " + why,
            gpu::built() ? "mend that, or train on the CPU: --device cpu" : "build with make CUDA=1, or train on the CPU: --device cpu");
    const bool use_gpu = device != "cpu" && why.empty();
    if (device == "auto" && gpu::built() && !use_gpu) traincu::note("computing on the CPU: %s", why.c_str());
    if (precision == "auto") precision = use_gpu ? "bf16" : "fp32";
    check_gemm_engine(use_gpu ? Device::cuda : Device::cpu);
    if (!use_gpu && wanted_attention_kernel() == AttentionKernel::hopper)
        throw Error(ExitCode::usage, "--attention-kernel hopper runs on H100 and H200 GPUs, and this run computes on the CPU",
                    "leave it out, or --attention-kernel tiled");
    return use_gpu ? Stream(Device::cuda) : Stream();
}

void choose_determinism(Options& o, const Stream& stream) {
    if (!stream.on_gpu()) {
        if (o.determinism == "off") o.determinism = "run";  // a CPU knows no other
        return;
    }
    if (!sums_by_units(o)) return;
    if (o.gemm == "cublaslt")
        throw Error(ExitCode::usage,
                    "--determinism " + o.determinism +
                        " and --gemm cublaslt: the library chooses an algorithm for each number of rows, and "
                        "with it the order of sums",
                    "leave out --gemm, which is our own product then, or --determinism run");
    set_gemm_engine(GemmEngine::own);
}

void choose_products(Options& o, const Stream& stream) {
    std::string& products = o.fp32_products;
    const Precision precision = precision_of(o);
    bool all_bf16 = true;
    for (int c = 0; c < n_weight_classes; c++)
        if (is_linear(static_cast<WeightClass>(c))) all_bf16 = all_bf16 && precision.stored[static_cast<size_t>(c)] == Dtype::bf16;
    const bool can_split = stream.on_gpu() && o.precision == "layercast" && all_bf16;
    if (products == "auto") products = "fp32";  // until the products by terms have passed their tests on a card
    if (products != "fp32" && !can_split)
        throw Error(ExitCode::usage,
                    "--fp32-products " + products + " multiplies fp32 activations by bf16 weights on a GPU" +
                        (!stream.on_gpu()             ? ", and this run computes on the CPU"
                         : o.precision != "layercast" ? ": a matter of --precision layercast"
                                                      : ", and not all linear weights of this run are bf16"),
                    "leave it out: auto is fp32 here");
    set_f32_products(products == "bf16x2" ? F32Products::bf16x2 : products == "bf16x3" ? F32Products::bf16x3 : F32Products::fp32);
}

GpuTelemetry open_telemetry() {
    GpuTelemetry telemetry = GpuTelemetry::open(gpu::device_info().pci_bus_id);
    const GpuReading& now = telemetry.read();
    if (now.other_processes.value_or(0) > 0)
        traincu::note("%d other processes compute on this GPU%s: expect less speed, and less memory", *now.other_processes,
                      now.other_memory ? format(" and hold %s of its memory", human_bytes(*now.other_memory).c_str()).c_str() : "");
    return telemetry;
}

void load_weights(const ModelOnDisk& model, WeightStore& weights, Stream& stream) {
    MasterCopy params(weights.door, nullptr, stream);
    load_model(model, weights.table, params.tensor());
    params.upload();
}

}  // namespace traincu
