// Rows of pixels, a channel each, to vectors of channels, a pixel each, and back. Pixels whose channels are neighbours
// are only moved closer together.
#pragma once
#include "cpu/faces/finish.h"
#include "cpu/shared/pack.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// `count` pixels, at most a vector, of `from.count` channels, to vectors of channels. WHOLE: vectors of both, and
// pixels that are neighbours.
template <bool WHOLE, class A, class T>
CONVEXT_INLINE void tile_in(const Planes<const T>& from, const T* pixels, int64_t count, A* to, int64_t apart) {
  constexpr int64_t lanes = Lanes<A>::count;
  Vector<A> rows[lanes];
  unrolled<lanes>(CONVEXT_EACH(i) {
    const T* row = pixels + i.value * from.between;
    if constexpr (WHOLE)
      rows[i.value] = widen(row);
    else
      rows[i.value] = i.value < from.count ? widen_few<A>(row, from.step[2], count) : Vector<A>{};
  });
  transpose<A>(rows);
  unrolled<lanes>(CONVEXT_EACH(i) {
    if (WHOLE || i.value < count) store<A>(to + i.value * apart, rows[i.value]);
  });
}

template <class A, class T>
inline void reorder_in(const Planes<const T>& from, const T* pixels, int64_t count, A* to, int64_t apart) {
  constexpr int64_t lanes = Lanes<A>::count;
  if (from.between == 1 && from.count > 1) {
    for (int64_t j = 0; j < count; ++j, pixels += from.step[2], to += apart)
      store<A>(to, from.count == lanes ? widen(pixels) : widen_few<A>(pixels, 1, from.count));
    return;
  }
  const bool whole = from.step[2] == 1 && from.count == lanes && count >= lanes;
  for (int64_t j = 0; j < count; j += lanes) {
    if (whole) j = least(j, count - lanes);  // the last vector, over pixels that are already there
    if (whole)
      tile_in<true>(from, pixels + j, lanes, to + j * apart, apart);
    else
      tile_in<false>(from, pixels + j * from.step[2], least(lanes, count - j), to + j * apart, apart);
  }
}

// The way back, with what follows the sums.
template <bool WHOLE, class A, class T>
CONVEXT_INLINE void tile_out(const A* from, const Planes<T>& to, T* pixels, int64_t count, const Finish<T>& finish) {
  constexpr int64_t lanes = Lanes<A>::count;
  Vector<A> rows[lanes];
  unrolled<lanes>(
      CONVEXT_EACH(i) { rows[i.value] = WHOLE || i.value < count ? load(from + i.value * lanes) : Vector<A>{}; });
  transpose<A>(rows);
  unrolled<lanes>(CONVEXT_EACH(i) {
    T* const row = pixels + i.value * to.between;
    if constexpr (WHOLE)
      narrow(row, finish.bound(rows[i.value]));
    else if (i.value < to.count)
      narrow_few<A>(row, to.step[2], finish.all(rows[i.value], row, to.step[2], count), count);
  });
}

template <class A, class T>
inline void reorder_out(const A* from, const Planes<T>& to, T* pixels, int64_t count, const Finish<T>& finish) {
  constexpr int64_t lanes = Lanes<A>::count;
  if (to.between == 1 && to.count > 1) {
    const bool simple = to.count == lanes && finish.is_done();
    for (int64_t j = 0; j < count; ++j, from += lanes, pixels += to.step[2])
      if (simple)
        narrow(pixels, finish.bound(load(from)));
      else
        narrow_few<A>(pixels, 1, finish.all(load(from), pixels, 1, to.count), to.count);
    return;
  }
  const bool joined = to.step[2] == 1 && count >= lanes, whole = joined && to.count == lanes && finish.is_done();
  for (int64_t j = 0; j < count; j += lanes) {
    if (joined) j = least(j, count - lanes);
    if (whole)
      tile_out<true>(from + j * lanes, to, pixels + j, lanes, finish);
    else
      tile_out<false>(from + j * lanes, to, pixels + j * to.step[2], least(lanes, count - j), finish);
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
