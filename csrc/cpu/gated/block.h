// A block of time on its way through a gated block. What lies between x and the results stays in a core's own caches:
//
//     x --> values --> tiles of f and g --> products --> tiles of z --> next, skip
//           [channels x taps][SAMPLES]      [inner][SAMPLES]
//
// A tile is some rows of weights x SAMPLES. One of f and g has as many rows of each, so that their product is formed
// while both are near.
#pragma once
#include "cpu/gated/gated.h"
#include "cpu/shared/epilogue.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int LANES = Lanes<float>::count, VECTORS = 3, SAMPLES = VECTORS * LANES;
constexpr int ROWS = VECTOR_BYTES == 64 ? 8 : 4;  // of a tile: its sums, VECTORS operands and a weight fill registers

// SAMPLES results of each row: `bias` plus `depth` weights, times as many rows of SAMPLES `values`.
template <int N>
CONVEXT_INLINE void multiply(const float* const (&rows)[N], const float (&bias)[N], const float* values, int64_t depth,
                             float* results) {
  Sums<float, N, VECTORS> sums(results);
  sums.begin();
  for (int64_t i = 0; i < depth;) {
    if (i) sums.next();
    for (const int64_t end = least(depth, i + TERMS); i < end; ++i) {
      Vector<float> x[VECTORS];
      unrolled<VECTORS>(CONVEXT_EACH(v) { x[v.value] = load(values + i * SAMPLES + v.value * LANES); });
      unrolled<N>(CONVEXT_EACH(r) {
        const Vector<float> w = broadcast(rows[r.value][i]);
        unrolled<VECTORS>(CONVEXT_EACH(v) { sums.now[r.value][v.value] += w * x[v.value]; });
      });
    }
  }
  sums.finish(CONVEXT_EACH2(r, ) { return broadcast(bias[r.value]); });
  sums.each(
      CONVEXT_EACH2(r, v) { store<float>(results + r.value * SAMPLES + v.value * LANES, sums.now[r.value][v.value]); });
}

class GatedBlock {
 public:
  CONVEXT_INLINE GatedBlock(const GatedCall& call, void* scratch)
      : p(call), values(static_cast<float*>(scratch)), products(values + p.channels * p.taps * SAMPLES) {}

  static int64_t scratch_floats(const GatedCall& p) { return (p.channels * p.taps + p.inner) * SAMPLES; }

  static int64_t blocks(const GatedCall& p) { return (p.length + SAMPLES - 1) / SAMPLES; }

  void run(int64_t job) {
    signal = job / blocks(p), begin = job % blocks(p) * SAMPLES, count = least(p.length - begin, SAMPLES);
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t t = 0; t < p.taps; ++t) read(c, (p.taps - 1 - t) * p.dilation, values + (c * p.taps + t) * SAMPLES);
    int64_t k = 0;
    for (; k + ROWS / 2 <= p.inner; k += ROWS / 2) gate<ROWS / 2>(k);
    for (; k < p.inner; ++k) gate<1>(k);
    for (k = 0; k + ROWS <= p.channels; k += ROWS) mix<ROWS>(k);
    for (; k < p.channels; ++k) mix<1>(k);
  }

 private:
  // The block of a channel, so many samples ago; zeros before the signal, and behind it.
  CONVEXT_INLINE void read(int64_t channel, int64_t ago, float* to) const {
    const float* x = p.x + (signal * p.channels + channel) * p.length + begin - ago;
    const int64_t first = least(most(ago - begin, 0), count);
    for (int64_t i = 0; i < first; ++i) to[i] = 0;
    for (int64_t i = first; i < count; ++i) to[i] = x[i];
    for (int64_t i = count; i < SAMPLES; ++i) to[i] = 0;
  }

  template <int N>
  CONVEXT_INLINE void gate(int64_t k) {
    const int64_t depth = p.channels * p.taps;
    const float* rows[2 * N];
    float bias[2 * N], sums[2 * N * SAMPLES];
    unrolled<2 * N>(CONVEXT_EACH(r) {
      const int64_t row = r.value < N ? k + r.value : p.inner + k + r.value - N;
      rows[r.value] = p.weight + row * depth, bias[r.value] = p.bias ? p.bias[row] : 0.0f;
    });
    multiply<2 * N>(rows, bias, values, depth, sums);
    for (int64_t i = 0; i < N * SAMPLES; i += LANES) {
      const Vector<float> f = load(sums + i), g = load(sums + N * SAMPLES + i);
      store<float>(products + k * SAMPLES + i, hyperbolic_tangent(f) * sigmoid<float, Accuracy::all>(g));
    }
  }

  template <int N>
  CONVEXT_INLINE void mix(int64_t k) const {
    const float* rows[N];
    float bias[N], sums[N * SAMPLES];
    unrolled<N>(CONVEXT_EACH(r) {
      rows[r.value] = p.mix + (k + r.value) * p.inner, bias[r.value] = p.mix_bias ? p.mix_bias[k + r.value] : 0.0f;
    });
    multiply<N>(rows, bias, products, p.inner, sums);
    for (int64_t r = 0; r < N; ++r) write(k + r, sums + r * SAMPLES);
  }

  CONVEXT_INLINE void write(int64_t channel, const float* z) const {
    const int64_t at = (signal * p.channels + channel) * p.length + begin;
    const float* x = values + (channel * p.taps + p.taps - 1) * SAMPLES;
    for (int64_t i = 0; i < count; i += LANES) {
      const Vector<float> here = load(z + i);
      store_first<float>(p.next + at + i, load(x + i) + here, count - i);
      store_first<float>(p.skip + at + i, p.total ? load_first(p.total + at + i, count - i) + here : here, count - i);
    }
  }

  const GatedCall& p;
  float *values, *products;
  int64_t signal, begin, count;
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
