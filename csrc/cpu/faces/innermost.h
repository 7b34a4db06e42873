// Depthwise gathers of tensors whose channels are innermost, of one result a channel: lanes are channels. Nothing is
// copied: x is read where it lies, and so are weights whose channels are innermost.
//
// A job is a row of results, or a part of a long one. A tile is PIXELS of it x one vector of channels, or several.
// Where taps are neighbours along the row, each pixel of x is loaded once for all the results that it is part of:
//
//     3 taps, stride 1      pixel    0: result 0
//                                    1: 0 1
//                                    2: 0 1 2       up to PIXELS + 1; those beyond an end of the row are left out
//
// Elsewhere each tap loads its own, and results whose taps would read beyond an end are tiles of one pixel.
#pragma once
#include "cpu/faces/finish.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t COLUMNS = 256;  // of a job
constexpr int MANY = 8, FEW = 4;  // pixels of a tile

struct Innermost {
  Phase taps[AXES];
  int64_t in[AXES], operand_size[AXES], result_size[AXES];
  int64_t blocks;  // of a row
};

inline Innermost innermost_of(const Problem& p) {
  const bool adjoint = p.face == Face::dgrad;
  Innermost g;
  for (int i = 0; i < AXES; ++i) {
    g.taps[i] = phase_of(p, i, 0);
    g.in[i] = adjoint ? 1 : p.stride[i];
    g.operand_size[i] = adjoint ? p.output[i] : p.input[i];
    g.result_size[i] = adjoint ? p.input[i] : p.output[i];
  }
  g.blocks = over(g.result_size[2], COLUMNS);
  return g;
}

template <class T>
inline bool is_innermost(const Problem& p, const View& a, const View& result) {
  const bool one_phase = p.face == Face::fprop || (p.face == Face::dgrad && product(p.stride) == 1);
  return one_phase && p.c == p.groups && p.k == p.groups && p.groups >= Lanes<typename Sum<T>::type>::count &&
         a.stride[1] == 1 && result.stride[1] == 1;
}

// Whether weights are read where they lie.
template <class T>
inline bool reads_weights(const View& w) {
  return sizeof(T) == sizeof(typename Sum<T>::type) && w.stride[0] == 1;
}

template <class T>
inline Work innermost_work(const Problem& p, const View& w) {
  const Innermost g = innermost_of(p);
  const int64_t weights = reads_weights<T>(w) ? 0 : p.k * product(p.kernel);
  return {p.n * g.result_size[0] * g.result_size[1] * g.blocks, 0,
          (weights + p.k) * int64_t(sizeof(typename Sum<T>::type)), 0};
}

// The bias, then weights as [depth][height][width][channel], in the kernel's own order.
template <class T>
void innermost_prepare(const Call& call, int64_t first, int64_t last) {
  using A = typename Sum<T>::type;
  const Problem& p = call.problem;
  const int64_t* s = call.b.stride;
  A* bias = static_cast<A*>(call.prepared);
  for (int64_t c = first; c < last; ++c) bias[c] = call.bias ? number(static_cast<const T*>(call.bias) + c) : A(0);
  if (reads_weights<T>(call.b)) return;
  const T* w = static_cast<const T*>(call.b.data);
  A* to = bias + p.k;
  for (int64_t d = 0; d < p.kernel[0]; ++d)
    for (int64_t h = 0; h < p.kernel[1]; ++h)
      for (int64_t v = 0; v < p.kernel[2]; ++v, to += p.k)
        for (int64_t c = first; c < last; ++c) to[c] = number(w + c * s[0] + d * s[2] + h * s[3] + v * s[4]);
}

template <class T>
struct InnermostJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  // The taps of an axis that read inside: `count` from `first` on.
  struct Inside {
    int64_t first, count;
  };

  const Call& call;
  const Problem& p = call.problem;
  const Innermost g = innermost_of(p);
  const Finish<T> finish{call};
  const A *bias = static_cast<const A*>(call.prepared), *weights;
  int64_t x_tap[AXES], w_tap[AXES];  // from tap to tap
  Inside inside[AXES];               // of the tile's results

  explicit InnermostJob(const Call& c) : call(c) {
    const bool in_place = reads_weights<T>(c.b);
    int64_t apart = p.k;
    weights = in_place ? static_cast<const A*>(static_cast<const void*>(c.b.data)) : bias + p.k;
    for (int i = AXES - 1; i >= 0; --i) {
      const int64_t step = in_place ? c.b.stride[2 + i] : apart;
      weights += g.taps[i].first * step;
      w_tap[i] = g.taps[i].step * step;
      x_tap[i] = g.taps[i].spacing * c.a.stride[2 + i];
      apart *= p.kernel[i];
    }
  }

  void run(int64_t job) {
    const int64_t block = job % g.blocks, y = job / g.blocks % g.result_size[1];
    const int64_t plane = job / g.blocks / g.result_size[1], z = plane % g.result_size[0], n = plane / g.result_size[0];
    const int64_t* step = call.result.stride;
    T* to = static_cast<T*>(call.result.data) + n * step[0] + z * step[2] + y * step[3];
    part(n, z, y, block * COLUMNS, least(g.result_size[2], (block + 1) * COLUMNS), to);
  }

  // Results `c` to `end` - 1 of a row; `to` is where the row begins.
  void part(int64_t n, int64_t z, int64_t y, int64_t c, int64_t end, T* to) {
    const T* x = static_cast<const T*>(call.a.data) + n * call.a.stride[0];
    const int64_t at[] = {z, y};
    for (int i = 0; i < 2; ++i) {
      inside[i] = taps_inside(i, at[i]);
      x += (at[i] * g.in[i] + g.taps[i].offset) * call.a.stride[2 + i];
    }
    row(x, to, c, end);
  }

 private:
  Inside taps_inside(int axis, int64_t m) const {
    const Phase& f = g.taps[axis];
    const int64_t from = m * g.in[axis] + f.offset;  // where the first tap reads
    const int64_t first = least(over(most(-from, 0), f.spacing), f.taps);
    const int64_t end = least(over(most(g.operand_size[axis] - from, 0), f.spacing), f.taps);
    return {first, most(end - first, 0)};
  }

  // Results `c` to `end` - 1 of a row; `x` and `to` are of its first.
  void row(const T* x, T* to, int64_t c, int64_t end) {
    const Phase& f = g.taps[2];
    if (f.spacing == 1 && end - c >= FEW) {
      const auto at = [&](auto taps, auto stride) {
        neighbours<decltype(taps)::value, decltype(stride)::value>(x, to, c, end);
      };
      const Int<1> one;
      const Int<2> two;
      if (f.taps == 3 && g.in[2] == 1) return at(Int<3>{}, one);
      if (f.taps == 3 && g.in[2] == 2) return at(Int<3>{}, two);
      if (f.taps == 5 && g.in[2] == 1) return at(Int<5>{}, one);
      if (f.taps == 5 && g.in[2] == 2) return at(Int<5>{}, two);
      if (f.taps == 7 && g.in[2] == 1) return at(Int<7>{}, one);
    }
    const int64_t beyond = g.operand_size[2] - f.offset - (f.taps - 1) * f.spacing;
    const int64_t low = most(c, over(most(-f.offset, 0), g.in[2]));           // all taps of low to high - 1
    const int64_t high = least(end, beyond > 0 ? over(beyond, g.in[2]) : 0);  // read inside
    while (c < end) {
      if (c >= low && c < high && high - low >= FEW) {
        inside[2] = {0, f.taps};
        for (; c < high; c += FEW) pixels<FEW, 2>(x, to, least(c, high - FEW));
        c = high;
      } else {
        inside[2] = taps_inside(2, c);
        pixels<1, 4>(x, to, c++);
      }
    }
  }

  // The same where TAPS neighbours are read by each result, STRIDE from those of the next. What is left at the end is
  // done by a tile that is shifted back over results that are already there. Tiles of MANY pixels read inside.
  template <int TAPS, int STRIDE>
  void neighbours(const T* x, T* to, int64_t c, int64_t end) {
    for (; c + MANY <= end; c += MANY) neighbours_of<TAPS, STRIDE, MANY>(x, to, c);
    for (; c < end; c += FEW) neighbours_of<TAPS, STRIDE, FEW>(x, to, least(c, end - FEW));
  }

  template <int TAPS, int STRIDE, int PIXELS>
  void neighbours_of(const T* x, T* to, int64_t m) {
    constexpr int64_t read = (PIXELS - 1) * STRIDE + TAPS;
    const int64_t column = m * STRIDE + g.taps[2].offset;  // of the first pixel
    const int64_t first = most(-column, 0), end = least(read, g.operand_size[2] - column);
    if constexpr (PIXELS == MANY)
      if (first > 0 || end < read)
        return neighbours_of<TAPS, STRIDE, FEW>(x, to, m), neighbours_of<TAPS, STRIDE, FEW>(x, to, m + FEW);
    x += column * call.a.stride[4] + inside[0].first * x_tap[0] + inside[1].first * x_tap[1];
    const A* w = weights + inside[0].first * w_tap[0] + inside[1].first * w_tap[1];
    to += m * call.result.stride[4];
    for (int64_t c = 0; c < p.k; c += lanes) {
      c = least(c, p.k - lanes);
      line_tile<TAPS, STRIDE, PIXELS, PIXELS == MANY>(x + c, w + c, bias + c, to + c, first, end);
    }
  }

  // Of the pixels that are read, those from `first` to `end` - 1 are there; all of them where WHOLE.
  template <int TAPS, int STRIDE, int PIXELS, bool WHOLE>
  CONVEXT_INLINE void line_tile(const T* x, const A* w, const A* bias, T* to, int64_t first, int64_t end) const {
    const int64_t step = call.a.stride[4];
    A parts[Sums<A, PIXELS, 1>::size];
    Sums<A, PIXELS, 1> sums(parts);
    unrolled<PIXELS>(CONVEXT_EACH(m) { sums.now[m.value][0] = load(bias); });
    int64_t room = TERMS;
    for (int64_t d = 0; d < inside[0].count; ++d)
      for (int64_t h = 0; h < inside[1].count; ++h) {
        const T* line = x + d * x_tap[0] + h * x_tap[1];
        const A* tap = w + d * w_tap[0] + h * w_tap[1];
        if (room < TAPS) sums.next(), room = TERMS;
        room -= TAPS;
        Vector<A> taps[TAPS];
        unrolled<TAPS>(CONVEXT_EACH(t) { taps[t.value] = load(tap + t.value * w_tap[2]); });
        unrolled<(PIXELS - 1) * STRIDE + TAPS>(CONVEXT_EACH(i) {
          constexpr int pixel = decltype(i)::value;
          if (!WHOLE && (pixel < first || pixel >= end)) return;
          const Vector<A> value = widen(line + pixel * step);
          unrolled<PIXELS>(CONVEXT_EACH(m) {
            constexpr int tap = pixel - decltype(m)::value * STRIDE;
            if constexpr (tap >= 0 && tap < TAPS) sums.now[m.value][0] += taps[tap] * value;
          });
        });
      }
    finish.tile(sums, parts, to, call.result.stride[4]);
  }

  // All channels of PIXELS results from `m` on. The last vector is shifted back over channels that are already there.
  template <int PIXELS, int VECTORS>
  void pixels(const T* x, T* to, int64_t m) const {
    x += (m * g.in[2] + g.taps[2].offset) * call.a.stride[4];
    to += m * call.result.stride[4];
    const A* w = weights;
    for (int i = 0; i < AXES; ++i) x += inside[i].first * x_tap[i], w += inside[i].first * w_tap[i];
    int64_t c = 0;
    for (; c + VECTORS * lanes <= p.k; c += VECTORS * lanes) tile<PIXELS, VECTORS>(x + c, w + c, bias + c, to + c);
    for (; c < p.k; c += lanes) {
      c = least(c, p.k - lanes);
      tile<PIXELS, 1>(x + c, w + c, bias + c, to + c);
    }
  }

  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void tile(const T* x, const A* w, const A* bias, T* to) const {
    const int64_t next = g.in[2] * call.a.stride[4];
    A parts[Sums<A, PIXELS, VECTORS>::size];
    Sums<A, PIXELS, VECTORS> sums(parts);
    sums.each(CONVEXT_EACH2(m, v) { sums.now[m.value][v.value] = load(bias + v.value * lanes); });
    int64_t room = TERMS;
    for (int64_t d = 0; d < inside[0].count; ++d)
      for (int64_t h = 0; h < inside[1].count; ++h) {
        const T* line = x + d * x_tap[0] + h * x_tap[1];
        const A* tap = w + d * w_tap[0] + h * w_tap[1];
        for (int64_t left = inside[2].count; left > 0;) {
          if (room == 0) sums.next(), room = TERMS;
          const int64_t now = least(left, room);
          left -= now, room -= now;
          for (int64_t t = 0; t < now; ++t, tap += w_tap[2], line += x_tap[2])
            unrolled<VECTORS>(CONVEXT_EACH(v) {
              const Vector<A> weight = load(tap + v.value * lanes);
              unrolled<PIXELS>(CONVEXT_EACH(m) {
                sums.now[m.value][v.value] += weight * widen(line + m.value * next + v.value * lanes);
              });
            });
        }
      }
    finish.tile(sums, parts, to, call.result.stride[4]);
  }
};

template <class T>
void innermost_run(const Call& call, int64_t first, int64_t last) {
  InnermostJob<T> thread(call);
  for (int64_t job = first; job < last; ++job) thread.run(job);
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
