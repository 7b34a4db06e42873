// Calls whose rows may be summed as they lie, with zeros beside them (gather.h), and not as blocks of channels.
//
// What a weight that is not finite makes of such a zero is a NaN beyond the tensor's edge, where nothing is to be read.
// Weights are looked through once a call, where all else speaks for rows.
#pragma once
#include "cpu/faces/kernels.h"

namespace convext {
namespace cpu {

// Planes of float32 whose rows are innermost, of as many channels on both sides, and taps that stencil.h has loops for:
// with more, rows were 0.56 to 0.86 times as fast.
inline bool has_plain_rows(const Call& call) {
  const Problem& p = call.problem;
  const int64_t *a = call.a.stride, *result = call.result.stride, *stride = p.stride, height = p.kernel[1];
  return p.face != Face::wgrad && p.number == Number::float32 && p.groups > 1 && p.c == p.k && a[1] != 1 && a[4] == 1 &&
         result[1] != 1 && result[4] == 1 && stride[0] * stride[1] * stride[2] == 1 && p.kernel[2] <= 7 &&
         (height == 3 || height == 5 || height == 7);
}

inline bool are_contiguous(const Problem& p, const View& w) {
  const int64_t size[] = {p.k, p.c / p.groups, p.kernel[0], p.kernel[1], p.kernel[2]};
  int64_t step = 1;
  for (int i = 1 + AXES; i >= 0; step *= size[i--])
    if (size[i] > 1 && w.stride[i] != step) return false;
  return true;
}

inline bool are_finite(const float* w, int64_t count) {
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

inline bool may_be_rows(const Call& call) {
  constexpr int64_t shortest = 14;  // that pays with any vectors (ways.h)
  const Problem& p = call.problem;
  const int64_t weights = p.k * (p.c / p.groups) * p.kernel[0] * p.kernel[1] * p.kernel[2];
  return has_plain_rows(call) && (p.face == Face::dgrad ? p.input : p.output)[2] >= shortest &&
         are_contiguous(p, call.b) && are_finite(static_cast<const float*>(call.b.data), weights);
}

}  // namespace cpu
}  // namespace convext
