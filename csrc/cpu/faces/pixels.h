// Several pixels of a result whose channels are innermost, from a few planes of an operand: the products of a
// convolution of one group.
//
// A tile is PIXELS neighbours of a row x VECTORS vectors of channels. Each vector of weights is loaded once for all
// pixels, each element of the operand once for all vectors; results go to the tensor as they lie there.
#pragma once
#include "cpu/faces/finish.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// 24 sums of 32 registers, or 12 of 16; of one vector, 12.
constexpr int TILE_VECTORS = VECTOR_BYTES == 64 ? 4 : 2;

constexpr int pixels_of(int vectors) {
  return vectors == 1 ? 12 : 6 * TILE_VECTORS / vectors;
}

// A row of results.
template <class T>
struct Pixels {
  using A = typename Sum<T>::type;
  const A* x;  // what the first pixel's tap at offset 0 reads; neighbours of pixels are neighbours there
  T* result;
  int64_t count, step;     // of pixels; from one to the next in the result
  const int32_t* offsets;  // of all taps of all channels of the operand
  int64_t taps;
  const A* w;  // [vectors of channels][taps][lanes]
  const A* bias;
  const Finish<T>& finish;
};

template <class T, int PIXELS, int VECTORS>
CONVEXT_INLINE void pixel_tile(const Pixels<T>& p, int64_t pixel, int64_t vector, int64_t channel) {
  using A = typename Sum<T>::type;
  constexpr int64_t lanes = Lanes<A>::count;
  A parts[Sums<A, PIXELS, VECTORS>::size];
  Sums<A, PIXELS, VECTORS> sums(parts);
  sums.begin();
  const A *x = p.x + pixel, *w = p.w + vector * p.taps * lanes;
  for (int64_t t = 0; t < p.taps;) {
    if (t) sums.next();
    for (const int64_t end = least(p.taps, t + TERMS); t < end; ++t) {
      const A* from = x + p.offsets[t];
      Vector<A> weights[VECTORS];
      unrolled<VECTORS>(CONVEXT_EACH(v) { weights[v.value] = load(w + (v.value * p.taps + t) * lanes); });
      unrolled<PIXELS>(CONVEXT_EACH(m) {
        const Vector<A> value = broadcast(from[m.value]);
        unrolled<VECTORS>(CONVEXT_EACH(v) { sums.now[m.value][v.value] += value * weights[v.value]; });
      });
    }
  }
  p.finish.tile(sums, parts, p.result + pixel * p.step + channel, p.step, p.bias + channel);
}

// A row in whole tiles, the last of which is shifted back over results that are already there.
template <class T, int PIXELS, int VECTORS>
inline void pixel_tiles(const Pixels<T>& p, int64_t vector, int64_t channel) {
  for (int64_t pixel = 0; pixel < p.count; pixel += PIXELS)
    pixel_tile<T, PIXELS, VECTORS>(p, least(pixel, p.count - PIXELS), vector, channel);
}

template <class T, int VECTORS>
inline void pixel_row(const Pixels<T>& p, int64_t vector, int64_t channel) {
  constexpr int pixels = pixels_of(VECTORS);
  if (p.count >= pixels) return pixel_tiles<T, pixels, VECTORS>(p, vector, channel);
  if (p.count >= pixels / 2) return pixel_tiles<T, pixels / 2, VECTORS>(p, vector, channel);
  pixel_tiles<T, 1, VECTORS>(p, vector, channel);
}

// Channels of a row from `vector` on, at most `TILE_VECTORS` vectors. Where `channels` is no multiple of a vector, the
// last is shifted back over results that are already there. Returns how many vectors it did.
template <class T>
inline int64_t sum_pixels(const Pixels<T>& p, int64_t channels, int64_t vector) {
  constexpr int64_t lanes = Lanes<typename Sum<T>::type>::count;
  const int64_t whole = channels / lanes - vector;
  if (whole <= 0) return pixel_row<T, 1>(p, vector, channels - lanes), 1;
  const int64_t now = least(whole, TILE_VECTORS);
  unrolled<TILE_VECTORS>(CONVEXT_EACH(i) {
    if (now == i.value + 1) pixel_row<T, i.value + 1>(p, vector, vector * lanes);
  });
  return now;
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
