// What the host has to do with the guard (kernels/guard.h): saying why a step was skipped, and keeping its state in a checkpoint.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "kernels/guard.h"

namespace traincu {

// Empty where the last step was accepted. Otherwise why it was skipped: "loss is nan", "gradient norm 7.1 sigma above the last 128 steps".
std::string skip_reason(const GuardState& state);

// The windows go into the checkpoint, so that a resumed run decides alike. adam_steps is kept elsewhere.
nlohmann::ordered_json guard_to_json(const GuardState& state);
// Error(checkpoint) where the windows are not as many losses as norms, or too many; nlohmann's exceptions where something is missing.
GuardState guard_from_json(const nlohmann::ordered_json& json);

}  // namespace traincu
