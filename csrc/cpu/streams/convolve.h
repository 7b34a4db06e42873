// Some samples of a causal convolution: each row of weights times the windows of what its taps read.
//
//     window of a column   c0 t0 | c0 t1 | c1 t0 | c1 t1 | ...     as a row of weights lies
//
// Weights are most of what a step moves. They are read where they lie, and once: a few rows stay in the nearest cache
// for all columns.
#pragma once
#include "cpu/shared/vector.h"
#include "cpu/streams/program.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int LANES = Lanes<float>::count;

CONVEXT_INLINE void copy(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// Two rows, an element of each in turn.
CONVEXT_INLINE void interleave(float* __restrict to, const float* __restrict even, const float* __restrict odd,
                               int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
}

// Copies what the taps of one column read, of its ring and of the sample itself.
CONVEXT_INLINE void fill_window(const Instruction& I, const float* ring, int64_t ring_row, const float* sample,
                                float* window) {
  const int64_t channels = I.depth * I.groups, reach = I.dilation * (I.taps - 1);
  if (I.taps == 2) return interleave(window, ring + I.oldest * ring_row, sample, channels);
  for (int64_t t = 0; t < I.taps; ++t) {
    int64_t place = I.oldest + t * I.dilation;
    if (place >= reach) place -= reach;
    const float* from = t + 1 < I.taps ? ring + place * ring_row : sample;
    for (int64_t c = 0; c < channels; ++c) window[c * I.taps + t] = from[c];
  }
}

// The windows of all columns, one after the other. Each sample then takes the place of the oldest in the ring.
CONVEXT_INLINE void fill_windows(Instruction& I, const Chunk& chunk, float* windows) {
  const int64_t channels = I.depth * I.groups, reach = I.dilation * (I.taps - 1), ring_row = chunk.batch * channels;
  for (int64_t s = 0; s < chunk.samples; ++s) {
    for (int64_t n = 0; n < chunk.batch; ++n) {
      const int64_t column = n * chunk.samples + s;
      const float* sample = I.a.at + column * I.a.row;
      float* ring = I.ring + n * channels;
      fill_window(I, ring, ring_row, sample, windows + column * channels * I.taps);
      if (reach > 0) copy(ring + I.oldest * ring_row, sample, channels);
    }
    if (reach > 0) I.oldest = I.oldest + 1 == reach ? 0 : I.oldest + 1;
  }
}

// LANES rows of weights, `length` long, times a window.
CONVEXT_INLINE Vector<float> products(const float* rows, const float* window, int64_t length) {
  Vector<float> sums[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= length; i += LANES) {
    const Vector<float> x = load(window + i);
    unrolled<LANES>(CONVEXT_EACH(r) { sums[r.value] += load(rows + r.value * length + i) * x; });
  }
  if (i < length) {
    const Vector<float> x = load_first(window + i, length - i);
    unrolled<LANES>(CONVEXT_EACH(r) { sums[r.value] += load_first(rows + r.value * length + i, length - i) * x; });
  }
  add_lanes<float>(sums);
  return sums[0];
}

CONVEXT_INLINE float product(const float* row, const float* window, int64_t length) {
  Vector<float> sums = {};
  int64_t i = 0;
  for (; i + LANES <= length; i += LANES) sums += load(row + i) * load(window + i);
  if (i < length) sums += load_first(row + i, length - i) * load_first(window + i, length - i);
  return sum<float>(sums);
}

CONVEXT_INLINE void convolve(Instruction& I, const Chunk& chunk, float* windows) {
  const int64_t length = I.depth * I.taps, rows = I.channels / I.groups, columns = chunk.batch * chunk.samples;
  fill_windows(I, chunk, windows);
  for (int64_t g = 0; g < I.groups; ++g) {
    const float* of_group = windows + g * length;
    int64_t k = g * rows;
    for (; k + LANES <= (g + 1) * rows; k += LANES) {
      const Vector<float> bias = I.bias ? load(I.bias + k) : Vector<float>{};
      for (int64_t column = 0; column < columns; ++column) {
        const float* window = of_group + column * length * I.groups;
        store<float>(I.result.at + column * I.result.row + k, products(I.weight + k * length, window, length) + bias);
      }
    }
    for (; k < (g + 1) * rows; ++k) {
      for (int64_t column = 0; column < columns; ++column) {
        const float* window = of_group + column * length * I.groups;
        I.result.at[column * I.result.row + k] =
            product(I.weight + k * length, window, length) + (I.bias ? I.bias[k] : 0.0f);
      }
    }
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
