// QK-norm and rotary positions: what happens to queries and keys between the QKV projection and attention.
//
//   QK-norm (Henry et al. 2020; per head as in Qwen3):  x <- x / sqrt(average(x^2) + eps) * weight     over the HS elements of a head
//   RoPE (Su et al. 2021), at position p, i < HS/2, angle a = p * f_i, frequency f_i = theta^(-2i/HS):
//       out[i]        = x[i] cos a - x[i+HS/2] sin a
//       out[i+HS/2]   = x[i+HS/2] cos a + x[i] sin a        (pairs half a head apart, the convention of Llama and Qwen checkpoints)
//
//   Scaled for long contexts (Llama 3.1, Dubey et al. 2024) by {factor, low, high, original}: a wave of length w = 2 pi / f_i fits
//   r = original / w times into the context of the pretraining.
//       r > high:  f_i stays                    short waves, seen often enough
//       r < low:   f_i / factor                 long waves, stretched to the new context
//       between:   s f_i + (1-s) f_i / factor,  s = (r - low) / (high - low)
//
// Shapes: qkv (T,(NH+2*NKV)*HS), query heads first, then key heads, then value heads; values are not touched.
// qk (T,(NH+NKV)*HS): the result for queries and keys. Without QK-norm, qk may be (and in the model is) the first columns of qkv
// itself: the rotation is undone in backward, nothing is saved. With QK-norm the input is needed for backward, so qk is a buffer
// of its own, and rstd (T,NH+NKV) is saved. q_weight, k_weight (HS): present together with rstd, or all three absent.
// positions (T) i32. angles (P,HS): row p has the cosines of p * f_i for i < HS/2, then the sines, of the statistics' type; absent: no
// rotation (QK-norm alone). It is computed once, in double, so exact to the last bit at any position, and shared by all layers and steps.
// rstd, dq_weight, dk_weight are of the statistics' type (statistics_of(), src/base/dtype.h).
//
// Backward: dqk (T,(NH+NKV)*HS) -> dqkv's query and key columns (may be the same memory); dq_weight, dk_weight += sums over tokens and
// heads, unit by unit (kernels/norm.h, "Units"). Bytes per token, s = size of an element: 2s(NH+NKV)HS forward, 3s backward. FLOPs ~12 and
// ~20 an element.
#pragma once

#include "src/base/tensor.h"
#include "src/config/model_config.h"
#include "src/device/stream.h"

namespace traincu {

struct RopeParams {
    int64_t n_head = 0, n_kv_head = 0, head_size = 0;
    double eps = 0;  // of the QK-norm
};

// f_i, radians per position, of pair i < head_size/2.
double rope_frequency(int64_t i, int64_t head_size, double theta, const RopeScaling& scaling);

// Fills angles (P,HS), f32 or f64, on the host.
void rope_angles(Tensor angles, double theta, const RopeScaling& scaling);

void qk_norm_rope_forward(Tensor qk, Tensor rstd, Tensor qkv, Tensor q_weight, Tensor k_weight, Tensor positions, Tensor angles,
                          const RopeParams& params, Stream& stream);

void qk_norm_rope_backward(Tensor dqkv, Tensor dq_weight, Tensor dk_weight, Tensor dqk, Tensor rstd, Tensor qkv, Tensor q_weight,
                           Tensor k_weight, Tensor positions, Tensor angles, const RopeParams& params, int64_t unit_rows, Stream& stream);

namespace gpu {
TRAINCU_GPU void qk_norm_rope_forward(Tensor qk, Tensor rstd, Tensor qkv, Tensor q_weight, Tensor k_weight, Tensor positions, Tensor angles,
                                      const RopeParams& params, Stream& stream);
TRAINCU_GPU void qk_norm_rope_backward(Tensor dqkv, Tensor dq_weight, Tensor dk_weight, Tensor dqk, Tensor rstd, Tensor qkv,
                                       Tensor q_weight, Tensor k_weight, Tensor positions, Tensor angles, const RopeParams& params,
                                       int64_t unit_rows, Stream& stream);
}  // namespace gpu

}  // namespace traincu
