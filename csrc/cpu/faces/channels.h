// Several planes of results from several of an operand: the products of a convolution with few channels in a group.
//
// A tile is CHANNELS planes of results x VECTORS places, a place being one vector of a row. Each vector of the operand
// is loaded once for all channels. Places are looked up, so that short rows and long ones run alike.
#pragma once
#include "cpu/faces/finish.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

struct Place {
  int32_t x;      // in the operand's planes of scratch
  int32_t count;  // of results, at most a vector
  int64_t result;
};

template <class A>
struct Channels {
  const A* x;
  A* result;
  int64_t plane;  // between planes of results
  const Place* places;
  int64_t place_count;
  const int32_t* offsets;  // of all taps of all channels of the operand
  int64_t taps;
  const A* w;  // `taps` for each channel of the result
  const A* bias;
  const Finish<A>& finish;
};

template <class A, int CHANNELS, int VECTORS>
CONVEXT_INLINE void channel_tile(const Channels<A>& p, int64_t channel, int64_t place) {
  A parts[Sums<A, CHANNELS, VECTORS>::size];
  Sums<A, CHANNELS, VECTORS> sums(parts);
  sums.begin();
  const A* lines[VECTORS];
  unrolled<VECTORS>(CONVEXT_EACH(v) { lines[v.value] = p.x + p.places[place + v.value].x; });
  const A* w = p.w + channel * p.taps;
  for (int64_t t = 0; t < p.taps;) {
    if (t) sums.next();
    for (const int64_t end = least(p.taps, t + TERMS); t < end; ++t) {
      const int64_t offset = p.offsets[t];
      Vector<A> values[VECTORS];
      unrolled<VECTORS>(CONVEXT_EACH(v) { values[v.value] = load(lines[v.value] + offset); });
      unrolled<CHANNELS>(CONVEXT_EACH(c) {
        const Vector<A> tap = broadcast(w[c.value * p.taps + t]);
        unrolled<VECTORS>(CONVEXT_EACH(v) { sums.now[c.value][v.value] += tap * values[v.value]; });
      });
    }
  }
  sums.finish(CONVEXT_EACH2(c, ) { return broadcast(p.bias[channel + c.value]); });
  sums.each(CONVEXT_EACH2(c, v) {
    const Place& here = p.places[place + v.value];
    store_first<A>(p.result + (channel + c.value) * p.plane + here.result, p.finish.bound(sums.now[c.value][v.value]),
                   here.count);
  });
}

template <class A, int CHANNELS, int VECTORS>
inline void channel_rows(const Channels<A>& p, int64_t channel) {
  int64_t i = 0;
  for (; i + VECTORS <= p.place_count; i += VECTORS) channel_tile<A, CHANNELS, VECTORS>(p, channel, i);
  for (; i < p.place_count; ++i) channel_tile<A, CHANNELS, 1>(p, channel, i);
  if (p.finish.is_done()) return;
  for (i = 0; i < p.place_count; ++i) {
    A* const to = p.result + channel * p.plane + p.places[i].result;
    p.finish.rest(to, p.plane, to, p.plane, CHANNELS, p.places[i].count);
  }
}

// Every result of `channels` planes.
template <class A>
inline void sum_channels(const Channels<A>& p, int64_t channels) {
  int64_t c = 0;
  if constexpr (VECTOR_BYTES == 64)
    for (; c + 8 <= channels; c += 8) channel_rows<A, 8, 3>(p, c);
  for (; c + 4 <= channels; c += 4) channel_rows<A, 4, 3>(p, c);
  for (; c + 2 <= channels; c += 2) channel_rows<A, 2, 4>(p, c);
  for (; c < channels; ++c) channel_rows<A, 1, 8>(p, c);
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
