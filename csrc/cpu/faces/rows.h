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

// Lanes of the widest vectors by which rows are to be summed, or 0. Rows against blocks, on Zen 3 with 8 lanes: 3x3,
// 5x5 and 7x7 on 28x28 are 1.06 to 1.21 times as fast, on 56x56 1.26 to 1.59, on 16x16 0.8 to 0.9; groups of two on
// 28x28 0.91 to 0.98, on 40x40 1.02 to 1.07, of four and eight on 28x28 1.03 to 1.14.
inline int64_t lanes_of_rows(const Call& call) {
  constexpr int64_t fewest = 4;
  const Problem& p = call.problem;
  if (!has_plain_rows(call)) return 0;
  const int64_t group = p.c / p.groups, width = p.face == Face::dgrad ? p.input[2] : p.output[2];
  const int64_t half_vectors = group == 2 ? 10 : 7;  // that a row has to fill
  const int64_t lanes = 2 * width / half_vectors, weights = p.k * group * p.kernel[0] * p.kernel[1] * p.kernel[2];
  const bool finite =
      lanes >= fewest && are_contiguous(p, call.b) && are_finite(static_cast<const float*>(call.b.data), weights);
  return finite ? lanes : 0;
}

}  // namespace cpu
}  // namespace convext
