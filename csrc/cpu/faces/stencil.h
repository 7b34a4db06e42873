// One plane of results from one plane of an operand: the products of a depthwise convolution.
//
// A tile of ROWS x VECTORS vectors of results stays in registers. Its rows are `spacing` of the taps' rows apart, so
// that the tap of one row is the next tap of the row before: each row of the operand is loaded once for them all.
//
//     tap row   0 1 2        loaded row   0: result rows 0
//     results   0 1 2 3                   1: 0 1
//                                         2: 0 1 2        the ramp; then all rows, and down again
#pragma once
#include "cpu/faces/finish.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// The taps of a plane and where they read.
struct Taps {
  int64_t count[AXES];     // along depth, height, width
  int64_t distance[AXES];  // in scratch, between neighbouring taps
};

// Adds what one row of the operand gives to rows FIRST to LAST of a tile; `w`: the tap that row 0 would take.
template <class A, int FIRST, int LAST, int ROWS, int VECTORS>
CONVEXT_INLINE void add_row(const A* line, const A* w, Sums<A, ROWS, VECTORS>& sums) {
  Vector<A> values[VECTORS];
  unrolled<VECTORS>(CONVEXT_EACH(v) { values[v.value] = held(load(line + v.value * Lanes<A>::count)); });
  unrolled<LAST - FIRST + 1>(CONVEXT_EACH(i) {
    constexpr int row = FIRST + decltype(i)::value;
    const Vector<A> tap = held(broadcast(w[-row]));
    unrolled<VECTORS>(CONVEXT_EACH(v) { sums.now[row][v.value] += tap * values[v.value]; });
  });
}

// HEIGHT: the taps' rows, 0 for any number of at least ROWS - 1. `w` lies as [depth][width][height].
template <class A, int HEIGHT, int ROWS, int VECTORS>
CONVEXT_INLINE void sum_rows(const A* x, const Taps& taps, const A* w, Sums<A, ROWS, VECTORS>& sums) {
  const int64_t height = HEIGHT ? HEIGHT : taps.count[1], down = taps.distance[1], right = taps.distance[2];
  const int64_t width = taps.count[2], deeper = taps.distance[0] - width * right;
  const int64_t part = most(TERMS / height, 1);  // columns of taps
  int64_t t = width;
  for (int64_t left = taps.count[0] * width;;) {
    for (const int64_t end = most(left - part, 0); left > end; --left, w += height) {
      const A* line = x;
      x += right;
      if (--t == 0) t = width, x += deeper;
      if constexpr (HEIGHT != 0) {
        unrolled<ROWS + HEIGHT - 1>(CONVEXT_EACH(i) {
          constexpr int row = decltype(i)::value;
          constexpr int first = row < HEIGHT ? 0 : row - HEIGHT + 1, last = row < ROWS ? row : ROWS - 1;
          add_row<A, first, last>(line + row * down, w + row, sums);
        });
      } else {
        unrolled<ROWS - 1>(
            CONVEXT_EACH(i) { add_row<A, 0, decltype(i)::value>(line + i.value * down, w + i.value, sums); });
        for (int64_t i = ROWS - 1; i < height; ++i) add_row<A, 0, ROWS - 1>(line + i * down, w + i, sums);
        unrolled<ROWS - 1>(CONVEXT_EACH(i) {
          add_row<A, decltype(i)::value + 1, ROWS - 1>(line + (height + i.value) * down, w + height + i.value, sums);
        });
      }
    }
    if (left == 0) return;
    sums.next();
  }
}

// Rows that share nothing, `apart` from each other; the taps read at `offsets`.
template <class A, int ROWS, int VECTORS>
CONVEXT_INLINE void sum_taps(const A* x, int64_t apart, const int32_t* offsets, const A* w, int64_t taps,
                             Sums<A, ROWS, VECTORS>& sums) {
  for (int64_t t = 0; t < taps;) {
    if (t) sums.next();
    for (const int64_t end = least(taps, t + TERMS); t < end; ++t) {
      const A* line = x + offsets[t];
      const Vector<A> tap = broadcast(w[t]);
      sums.each(CONVEXT_EACH2(r, v) {
        sums.now[r.value][v.value] += tap * load(line + r.value * apart + v.value * Lanes<A>::count);
      });
    }
  }
}

// One plane of a block: where its rows of results begin, in the operand's scratch and in the result.
template <class A>
struct Plane {
  const A* x;
  A* result;
  int64_t count[AXES];     // of results
  int64_t x_depth, x_row;  // to the operand's element for the next result along depth and height
  int64_t depth, row;      // to the result's
  Taps taps;
  const int32_t* offsets;  // of the taps, in the order of `w`
  const A* w;
  A bias;
  int64_t spacing;  // of the taps along height, in results, where rows share loads; else 0
  const Finish<A>& finish;
};

template <class A, int HEIGHT, int ROWS, int VECTORS>
CONVEXT_INLINE void tile(const Plane<A>& p, const A* x, A* result, int64_t step, int64_t columns) {
  constexpr int64_t lanes = Lanes<A>::count;
  A parts[Sums<A, ROWS, VECTORS>::size];
  Sums<A, ROWS, VECTORS> sums(parts);
  sums.begin();
  if constexpr (HEIGHT < 0)
    sum_taps(x, p.x_row * step, p.offsets, p.w, product(p.taps.count), sums);
  else
    sum_rows<A, HEIGHT>(x + p.offsets[0], p.taps, p.w, sums);
  const Vector<A> bias = broadcast(p.bias);
  sums.finish(CONVEXT_EACH2(, ) { return bias; });
  const int64_t apart = step * p.row;
  if (p.finish.is_plain && columns >= VECTORS * lanes)
    return sums.each(
        CONVEXT_EACH2(r, v) { store<A>(result + r.value * apart + v.value * lanes, sums.now[r.value][v.value]); });
  sums.each(CONVEXT_EACH2(r, v) {
    store_first<A>(result + r.value * step * p.row + v.value * lanes, p.finish.bound(sums.now[r.value][v.value]),
                   columns - v.value * lanes);
  });
}

// ROWS rows of results, `step` apart, in tiles of up to VECTORS vectors. What is left of a row is done by a last tile
// that is shifted back over results that are already there.
template <class A, int HEIGHT, int ROWS, int VECTORS>
CONVEXT_INLINE void strip(const Plane<A>& p, const A* x, A* result, int64_t step) {
  constexpr int64_t lanes = Lanes<A>::count, two = 2 * lanes;
  const int64_t columns = p.count[2];
  const auto at = [&](int64_t c, auto vectors) __attribute__((always_inline)) {
    tile<A, HEIGHT, ROWS, decltype(vectors)::value>(p, x + c, result + c, step, columns - c);
  };
  int64_t c = 0;
  for (; c + VECTORS * lanes <= columns; c += VECTORS * lanes) at(c, Int<VECTORS>{});
  if constexpr (VECTORS > 2)
    for (; c + two <= columns; c += two) at(c, Int<2>{});
  if constexpr (VECTORS > 1)
    if (columns - c > lanes) return at(columns >= two ? columns - two : 0, Int<2>{});
  if (c < columns) at(columns >= lanes ? columns - lanes : 0, Int<1>{});
}

// HEIGHT: the taps' rows, 0 for any number, -1 where rows share nothing.
template <class A, int HEIGHT, int ROWS, int VECTORS>
inline void strips(const Plane<A>& p) {
  const int64_t spacing = HEIGHT < 0 ? 1 : p.spacing, rows = p.count[1];
  for (int64_t z = 0; z < p.count[0]; ++z)
    for (int64_t first = 0; first < least(spacing, rows); ++first) {
      const A* x = p.x + z * p.x_depth + first * p.x_row;
      A* result = p.result + z * p.depth + first * p.row;
      const int64_t count = over(rows - first, spacing);
      const auto at = [&](int64_t row, auto height) __attribute__((always_inline)) {
        constexpr int rows_of = decltype(height)::value;
        A* const to = result + row * spacing * p.row;
        strip<A, rows_of == 1 ? -1 : HEIGHT, rows_of, rows_of == 1 ? 8 : VECTORS>(p, x + row * spacing * p.x_row, to,
                                                                                  spacing);
        const int64_t apart = spacing * p.row;
        if (!p.finish.is_done()) p.finish.rest(to, apart, to, apart, rows_of, p.count[2]);
      };
      int64_t r = 0;
      for (; r + ROWS <= count; r += ROWS) at(r, Int<ROWS>{});
      if (r < count && count >= ROWS) at(count - ROWS, Int<ROWS>{}), r = count;
      for (; r < count; ++r) at(r, Int<1>{});
    }
}

// Every result of a plane.
template <class A>
inline void stencil(const Plane<A>& p) {
  constexpr int wide = Lanes<A>::count == 4 ? 2 : 3;
  const int64_t height = p.taps.count[1], rows = p.spacing ? p.count[1] / p.spacing : 0;
  if (height < 3 || rows < 4) return strips<A, -1, 4, 2>(p);
  if constexpr (sizeof(A) == 4) {
    if (height == 3) return strips<A, 3, 4, 2>(p);
    if (height == 5) return strips<A, 5, 4, 2>(p);
    if (height == 7) return strips<A, 7, 4, 2>(p);
  }
  strips<A, 0, 4, wide>(p);
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
