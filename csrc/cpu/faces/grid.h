// The weight gradient of one channel where rows share loads: a tile is HEIGHT x WIDTH taps, summed over ROWS rows of y
// at a time, which are as far apart as the taps are along height. Each row of x is loaded once for all pairs of a row
// of y and a tap that meet in it.
#pragma once
#include "cpu/faces/channels.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int ROWS = 4;

// Planes of both operands in scratch, and the places of their rows' vectors.
template <class A>
struct Operands {
  const A *x, *y;
  int64_t y_plane;      // between planes of y
  const Place* places;  // `result` is the place in y
  int64_t place_count;
  typename Lanes<A>::mask mask;  // of the lanes that count, where MASKED
};

struct Grid {
  int64_t down, across;  // between neighbouring taps, in x's scratch
  int64_t y_down;        // between the rows of y
  int64_t between;       // between the sums of neighbouring rows of taps
};

template <class A, int HEIGHT, int WIDTH, bool MASKED>
CONVEXT_INLINE void grid_tile(const Operands<A>& p, const Grid& grid, int64_t offset, double* sums) {
  Vector<A> totals[HEIGHT][WIDTH];
  unrolled<HEIGHT>(CONVEXT_EACH(h) { unrolled<WIDTH>(CONVEXT_EACH(t) { totals[h.value][t.value] = Vector<A>{}; }); });
  for (int64_t i = 0; i < p.place_count; ++i) {
    const A *x = p.x + p.places[i].x + offset, *y = p.y + p.places[i].result;
    Vector<A> ys[ROWS];
    unrolled<ROWS>(CONVEXT_EACH(r) { ys[r.value] = held(load(y + r.value * grid.y_down)); });
    unrolled<ROWS + HEIGHT - 1>(CONVEXT_EACH(j) {
      constexpr int row = decltype(j)::value;
      unrolled<WIDTH>(CONVEXT_EACH(t) {
        constexpr int column = decltype(t)::value;
        Vector<A> value = held(load(x + row * grid.down + column * grid.across));
        if constexpr (MASKED) value = masked<A>(value, p.mask);
        unrolled<ROWS>(CONVEXT_EACH(r) {
          constexpr int tap = row - decltype(r)::value;
          if constexpr (tap >= 0 && tap < HEIGHT) totals[tap][column] += ys[r.value] * value;
        });
      });
    });
  }
  unrolled<HEIGHT>(CONVEXT_EACH(h) {
    unrolled<WIDTH>(CONVEXT_EACH(t) { sums[h.value * grid.between + t.value] += sum<A>(totals[h.value][t.value]); });
  });
}

// `height` rows of `width` taps each.
template <class A, int HEIGHT, int WIDTH, bool MASKED>
inline void grid_taps(const Operands<A>& p, const Grid& grid, int64_t offset, int64_t height, int64_t width,
                      double* sums) {
  for (; height >= HEIGHT; height -= HEIGHT) {
    int64_t t = 0;
    for (; t + WIDTH <= width; t += WIDTH)
      grid_tile<A, HEIGHT, WIDTH, MASKED>(p, grid, offset + t * grid.across, sums + t);
    for (; t < width; ++t) grid_tile<A, HEIGHT, 1, MASKED>(p, grid, offset + t * grid.across, sums + t);
    offset += HEIGHT * grid.down, sums += HEIGHT * grid.between;
  }
  if (height == 0) return;
  constexpr bool many = VECTOR_BYTES == 64;  // vector registers: 32 of them, else 16
  if constexpr (HEIGHT == 7) grid_taps<A, 5, many ? 3 : 2, MASKED>(p, grid, offset, height, width, sums);
  if constexpr (HEIGHT == 5) grid_taps<A, 3, many ? 5 : 3, MASKED>(p, grid, offset, height, width, sums);
  if constexpr (HEIGHT == 3) grid_taps<A, 1, 5, MASKED>(p, grid, offset, height, width, sums);
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
