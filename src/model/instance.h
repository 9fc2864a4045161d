// A model in memory: its weights (with or without gradients), and the activations of one use of them. Training, validation and sampling are
// three uses of the same weights.
#pragma once

#include "src/model/transformer.h"

namespace traincu {

struct WeightStore {
    WeightStore(const ModelConfig& model, Dtype dtype, bool with_gradients)
        : config(model), table(make_param_table(model)), door(table, dtype, weights, with_gradients ? &gradients : nullptr) {}

    void allocate() {
        weights.allocate();
        gradients.allocate();
        door.bind();
    }

    ModelConfig config;
    ParamTable table;
    Arena weights{"weights"}, gradients{"gradients"};
    WeightDoor door;
};

struct ModelInstance {
    ModelInstance(const ModelOptions& options, WeightDoor& weights, const std::string& use)
        : activations(use + " activations"), scratch(use + " scratch"), model(options, weights, activations, scratch) {}

    void allocate() {
        activations.allocate();
        scratch.allocate();
        model.bind();
    }

    Arena activations, scratch;
    Transformer model;
};

}  // namespace traincu
