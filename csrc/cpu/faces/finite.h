// Whether the weights of a call hold no infinity and no NaN. A packed window has zeros around it, and what a weight
// that is not finite makes of them is a NaN beyond the tensor's edge, where nothing is to be read.
#pragma once
#include "cpu/faces/kernels.h"

namespace convext {
namespace cpu {

inline bool are_contiguous(const Problem& p, const View& w) {
  const int64_t size[] = {p.k, p.c / p.groups, p.kernel[0], p.kernel[1], p.kernel[2]};
  int64_t step = 1;
  for (int i = 1 + AXES; i >= 0; step *= size[i--])
    if (size[i] > 1 && w.stride[i] != step) return false;
  return true;
}

// False where it is not asked: other faces, other numbers, one group, and weights that do not lie side by side.
inline bool has_finite_weights(const Call& call) {
  const Problem& p = call.problem;
  if (p.face == Face::wgrad || p.number != Number::float32 || p.groups == 1 || !are_contiguous(p, call.b)) return false;
  const float* const w = static_cast<const float*>(call.b.data);
  const int64_t count = p.k * (p.c / p.groups) * p.kernel[0] * p.kernel[1] * p.kernel[2];
  constexpr int64_t chains = 16;
  float sums[chains] = {};  // of 0 * w: 0, or NaN
  int64_t i = 0;
  for (; i + chains <= count; i += chains)
    for (int64_t j = 0; j < chains; ++j) sums[j] += 0 * w[i + j];
  for (; i < count; ++i) sums[0] += 0 * w[i];
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum == 0;
}

}  // namespace cpu
}  // namespace convext
