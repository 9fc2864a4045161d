// A model in memory: its weights (with or without gradients), and the activations of one use of them. Training, validation and sampling are
// three uses of the same weights.
#pragma once

#include "src/model/transformer.h"

namespace traincu {

struct WeightStore {
    // part_multiple: see make_param_table
    WeightStore(const ModelConfig& model, const Precision& precision, bool with_gradients, bool head_apart = false,
                int64_t part_multiple = 16)
        : config(model),
          dtype(precision.compute),
          table(make_param_table(model, precision, part_multiple)),
          door(table, precision, weights, converted, with_gradients ? &gradients : nullptr, head_apart) {}

    void allocate(const Stream& stream) {
        for (Arena* arena : {&weights, &converted, &gradients}) arena->allocate(stream.memory());
        door.bind();
    }

    ModelConfig config;
    Dtype dtype;  // of activations
    ParamTable table;
    Arena weights{"weights"}, converted{"converted weights"}, gradients{"gradients"};
    WeightDoor door;
};

struct ModelInstance {
    ModelInstance(const ModelOptions& options, WeightDoor& weights, const std::string& use)
        : activations(use + " activations"), scratch(use + " scratch"), model(options, weights, activations, scratch) {}

    void allocate(const Stream& stream) {
        activations.allocate(stream.memory());
        scratch.allocate(stream.memory());
        model.bind(stream);
    }

    Arena activations, scratch;
    Transformer model;
};

}  // namespace traincu
