// Gathers of tensors whose channels are innermost: lanes are channels of the result. Depthwise ones of one result a
// channel, and groups of GROUP channels on both sides, as many as fill vectors. Nothing is copied: x is read where it
// lies, and so are depthwise weights whose channels are innermost.
//
// In a group every channel of the result takes every channel of x, so that a vector of x is spread as many times, each
// with the weights of its own:
//
//     x          a b c d | e f g h | ..          groups of 4
//     spread     a a a a | e e e e | ..          times the weights of a and e for the four results of their groups
//                b b b b | f f f f | ..          ..
//
// A job is a row of results, or a part of a long one; of an input gradient with a stride, of those of one phase
// (geometry.h), whose neighbours are a stride apart. A tile is some of its results x one or two vectors of channels.
// Each pixel of x is loaded once for all the results that it is part of:
//
//     3 taps, stride 1      pixel    0: result 0
//                                    1: 0 1
//                                    2: 0 1 2       those beyond an end of the row are left out
//
// Where taps are dilated, these are results as far apart as the taps. With other strides each tap loads its own.
#pragma once
#include "cpu/faces/reorder.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t COLUMNS = 256;   // of a job
constexpr int MANY = 8;            // results of a tile whose pixels are shared, of one vector of channels
constexpr int FEW = 4;             // results of one whose are not
constexpr int64_t FAR = 10 << 20;  // bytes of tensors that lie in memory, rather than in a cache
constexpr int64_t FOREVER = int64_t(1) << 62;

// Bytes of tensors that are asked for a row ahead: that takes 1.05 to 1.3 times as long where they lie in a cache, and
// 0.65 to 0.95 times as long where they do not (Zen 5, with 32 MB of it).
constexpr int64_t ASKED = 24 << 20;

// Of the tensors of a call.
template <class T>
inline int64_t bytes_of(const Problem& p) {
  return p.n * (p.c * product(p.input) + p.k * product(p.output)) * int64_t(sizeof(T));
}

// Whether these lie in memory.
template <class T>
inline bool is_far(const Problem& p) {
  return bytes_of<T>(p) > FAR;
}

struct Innermost {
  int64_t in[AXES], out[AXES];  // how far a step along a phase of the result goes in the operand and in the result
  int64_t operand_size[AXES], result_size[AXES];
  int64_t phases, blocks;  // of a row, and of one of its phases
};

inline Innermost innermost_of(const Problem& p) {
  const bool adjoint = p.face == Face::dgrad;
  Innermost g;
  for (int i = 0; i < AXES; ++i) {
    g.in[i] = adjoint ? 1 : p.stride[i];
    g.out[i] = adjoint ? p.stride[i] : 1;
    g.operand_size[i] = adjoint ? p.output[i] : p.input[i];
    g.result_size[i] = adjoint ? p.input[i] : p.output[i];
  }
  g.phases = least(g.out[2], g.result_size[2]);
  g.blocks = over(over(g.result_size[2], g.out[2]), COLUMNS);
  return g;
}

// The most channels of a group: these numbers come in groups more than others.
template <class T>
constexpr int64_t widest_group = sizeof(T) == 4 ? 8 : 1;
template <>
constexpr int64_t widest_group<bfloat16> = 8;

// Whether groups of so many channels are compiled: those that divide a vector.
template <class T>
constexpr bool is_compiled(int64_t group) {
  return group <= least(widest_group<T>, Lanes<typename Sum<T>::type>::count) && (group & (group - 1)) == 0;
}

// Whether weights are read where they lie.
template <class T>
inline bool reads_weights(const Problem& p, const View& w) {
  return sizeof(T) == sizeof(typename Sum<T>::type) && p.groups == p.k && w.stride[0] == 1;
}

template <class T>
inline Work innermost_work(const Problem& p, const View& w) {
  const Innermost g = innermost_of(p);
  const int64_t weights = reads_weights<T>(p, w) ? 0 : p.k * (p.c / p.groups) * product(p.kernel);
  return {p.n * g.result_size[0] * g.result_size[1] * g.phases * g.blocks, 0,
          (weights + p.k) * int64_t(sizeof(typename Sum<T>::type)), 0};
}

// Weights of channels `first` to `last` - 1 of the result, as [depth][height][width][channel of x in its
// group][channel], in the kernel's own order: rows of channels, `pitch` apart.
template <class A, class T>
inline void prepare_weights(const Call& call, const T* w, int64_t first, int64_t last, A* to, int64_t pitch) {
  constexpr int64_t lanes = Lanes<A>::count;  // channels at a time, whose weights the first-level cache holds
  const Problem& p = call.problem;
  const bool adjoint = p.face == Face::dgrad;
  const int64_t group = p.c / p.groups, *s = call.b.stride, *kernel = p.kernel;
  const int64_t out_step = adjoint ? s[1] : s[0], in_step = adjoint ? s[0] : s[1];
  // Taps that lie as a row's pixels do, of channels that are evenly apart.
  const bool joined = joined_step(kernel, s + 2) == 1 && (group == 1 || !adjoint);
  for (int64_t count = 0; first < last; first += count, to += count) {
    count = least(lanes, last - first);
    if (joined && count == lanes) {
      for (int64_t in = 0; in < group; ++in)
        reorder_in(Planes<const T>{w, count, s[0], {0, 0, 1}, {}}, w + first * s[0] + in * s[1], product(kernel),
                   to + in * pitch, group * pitch);
      continue;
    }
    const T* from[lanes];  // of each channel
    for (int64_t i = 0; i < count; ++i) {
      const int64_t out = (first + i) % group;
      from[i] = w + (first + i - out) * s[0] + out * out_step;
    }
    A* row = to;
    for (int64_t d = 0; d < kernel[0]; ++d)
      for (int64_t h = 0; h < kernel[1]; ++h)
        for (int64_t v = 0; v < kernel[2]; ++v)
          for (int64_t in = 0; in < group; ++in, row += pitch)
            for (int64_t i = 0; i < count; ++i)
              row[i] = number(from[i] + in * in_step + d * s[2] + h * s[3] + v * s[4]);
  }
}

// The bias, then weights.
template <class T>
void innermost_prepare(const Call& call, int64_t first_group, int64_t last_group) {
  using A = typename Sum<T>::type;
  const Problem& p = call.problem;
  const int64_t group = p.c / p.groups, first = first_group * group, last = last_group * group;
  A* bias = static_cast<A*>(call.prepared);
  for (int64_t c = first; c < last; ++c) bias[c] = call.bias ? number(static_cast<const T*>(call.bias) + c) : A(0);
  if (!reads_weights<T>(p, call.b))
    prepare_weights(call, static_cast<const T*>(call.b.data), first, last, bias + p.k + first, p.k);
}

template <class T, int GROUP = 1>
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
  const int64_t next = call.result.stride[4] * g.out[2];  // to the next result of a phase
  const bool far = is_far<T>(p), asks = bytes_of<T>(p) > ASKED;
  Phase taps[AXES];                  // of the row's phase
  int64_t at[AXES];                  // which that is
  int64_t x_tap[AXES], w_tap[AXES];  // from tap to tap
  Inside inside[AXES];               // of the tile's results

  // Lines of taps that a part of a sum takes.
  template <int TAPS>
  static constexpr int64_t lines_of = TERMS / (TAPS * GROUP);

  explicit InnermostJob(const Call& c) : call(c) { aim(0, 0, 0); }

  void run(int64_t job) {
    const int64_t block = job % g.blocks, phase = job / g.blocks % g.phases, row = job / g.blocks / g.phases;
    const int64_t y = row % g.result_size[1], plane = row / g.result_size[1];
    const int64_t z = plane % g.result_size[0], n = plane / g.result_size[0];
    const int64_t count = over(g.result_size[2] - phase, g.out[2]), first = block * COLUMNS;
    const int64_t* step = call.result.stride;
    T* to = static_cast<T*>(call.result.data) + n * step[0] + z * step[2] + y * step[3] + phase * step[4];
    part(n, z, y, phase, first, least(count, first + COLUMNS), to);
  }

  // Results `c` to `end` - 1 of a phase of a row; `to` is where that begins.
  void part(int64_t n, int64_t z, int64_t y, int64_t phase, int64_t c, int64_t end, T* to) {
    const int64_t m[] = {z / g.out[0], y / g.out[1]}, depth = z % g.out[0], height = y % g.out[1];
    if (depth != at[0] || height != at[1] || phase != at[2]) aim(depth, height, phase);
    const T* x = static_cast<const T*>(call.a.data) + n * call.a.stride[0];
    for (int i = 0; i < 2; ++i) {
      inside[i] = taps_inside(i, m[i]);
      x += (m[i] * g.in[i] + taps[i].offset) * call.a.stride[2 + i];
    }
    row(x, to, c, end);
  }

 private:
  // At results of one phase.
  void aim(int64_t depth, int64_t height, int64_t width) {
    at[0] = depth, at[1] = height, at[2] = width;
    const bool in_place = reads_weights<T>(p, call.b);
    int64_t apart = p.k * GROUP;
    weights = in_place ? static_cast<const A*>(static_cast<const void*>(call.b.data)) : bias + p.k;
    for (int i = AXES - 1; i >= 0; --i) {
      const int64_t step = in_place ? call.b.stride[2 + i] : apart;
      taps[i] = phase_of(p, i, at[i]);
      weights += taps[i].first * step;
      w_tap[i] = taps[i].step * step;
      x_tap[i] = taps[i].spacing * call.a.stride[2 + i];
      apart *= p.kernel[i];
    }
  }

  Inside taps_inside(int axis, int64_t m) const {
    const Phase& f = taps[axis];
    const int64_t from = m * g.in[axis] + f.offset;  // where the first tap reads
    const int64_t first = least(over(most(-from, 0), f.spacing), f.taps);
    const int64_t end = least(over(most(g.operand_size[axis] - from, 0), f.spacing), f.taps);
    return {first, most(end - first, 0)};
  }

  // Results `c` to `end` - 1 of a row; `x` and `to` are of its first.
  void row(const T* x, T* to, int64_t c, int64_t end) {
    const int64_t apart = taps[2].spacing, count = taps[2].taps;
    const bool compiled = count == 3 || (count == 5 && GROUP == 1);  // with a stride
    if (count < (GROUP == 1 ? 1 : 3) || (g.in[2] > 1 && !(g.in[2] == 2 && apart == 1 && compiled)))
      return separately(x, to, c, end);
    // Strands of dilated taps lie between each other. Of tensors in memory a stretch of all of them is done at a time:
    // else each strand would fetch the row's lines again (on Zen 3 that took 2 to 3 times as long; Zen 5 is
    // indifferent).
    const int64_t stretch = far && apart > 1 ? MANY * apart : end - c;
    for (; c < end; c += stretch) {
      const int64_t stop = least(c + stretch, end);
      for (int64_t first = c; first < least(c + apart, stop); ++first) strand(x, to, first, over(stop - first, apart));
    }
  }

  // `count` results from `first` on, as far apart as the taps: these read neighbours.
  void strand(const T* x, T* to, int64_t first, int64_t count) {
    inside[2] = {0, taps[2].taps};
    const auto run = [&](auto taps, auto stride) __attribute__((always_inline)) {
      tiles<decltype(taps)::value, decltype(stride)::value>(x, to, first, count);
    };
    const Int<1> one;
    const Int<2> two;
    const int64_t of = taps[2].taps;
    if (of == 3) return g.in[2] == 1 ? run(Int<3>{}, one) : run(Int<3>{}, two);
    if constexpr (GROUP == 1) {
      if (of == 1) return run(Int<1>{}, one);
      if (of == 2) return run(Int<2>{}, one);
      if (of == 5) return g.in[2] == 1 ? run(Int<5>{}, one) : run(Int<5>{}, two);
      if (of == 7) return run(Int<7>{}, one);
    }
    run(Int<0>{}, one);
  }

  // Results of a tile of two vectors of channels; 0: there are not the registers for one.
  template <int TAPS>
  static constexpr int of_pairs = GROUP > 1 || TAPS == 0            ? 0
                                  : TAPS <= 3                       ? MANY / 2
                                  : TAPS == 5 && VECTOR_BYTES == 64 ? MANY
                                                                    : 0;

  // A few taps: tiles of two vectors of channels. Cache lines are read whole then, and two of them together, and fewer
  // pixels, which are a power of two apart where the channels are such a number. (Two of 16 lanes for 5 taps: 1.1 to
  // 1.9 times as fast from memory, 1.03 to 1.12 from a cache.) TAPS: 0 for any number from 3 on.
  template <int TAPS, int STRIDE>
  void tiles(const T* x, T* to, int64_t first, int64_t count) const {
    constexpr int results = of_pairs<TAPS>;
    int64_t paired = 0;  // channels
    if constexpr (results > 0)
      if (p.k >= 2 * lanes) {
        const int64_t rest = p.k % (2 * lanes);
        paired = rest > lanes ? p.k : p.k - rest;
        for (int64_t m = 0; m < count; m += results)
          neighbours<TAPS, STRIDE, results, 2>(x, to, first + m * taps[2].spacing, least(count - m, results), 0,
                                               paired);
      }
    if (paired < p.k)
      for (int64_t m = 0; m < count; m += MANY)
        neighbours<TAPS, STRIDE, MANY, 1>(x, to, first + m * taps[2].spacing, least(count - m, MANY), paired, p.k);
  }

  // Channels `c` to `last` - 1 of `count` results of a strand, at most RESULTS, from `m` on.
  template <int TAPS, int STRIDE, int RESULTS, int VECTORS>
  void neighbours(const T* x, T* to, int64_t m, int64_t count, int64_t c, int64_t last) const {
    const int64_t read = (RESULTS - 1) * STRIDE + taps[2].taps, apart = taps[2].spacing;
    const int64_t column = m * STRIDE + taps[2].offset;  // of the first pixel of x
    const int64_t first = over(most(-column, 0), apart);
    const int64_t end = least(read, over(most(g.operand_size[2] - column, 0), apart));
    x += column * call.a.stride[4] + inside[0].first * x_tap[0] + inside[1].first * x_tap[1];
    const A* w = weights + inside[0].first * w_tap[0] + inside[1].first * w_tap[1];
    to += m * next;
    const auto sum = [&](auto whole, auto in_parts) __attribute__((always_inline)) {
      channels<TAPS, STRIDE, RESULTS, VECTORS, decltype(whole)::value, decltype(in_parts)::value>(x, w, to, first, end,
                                                                                                  count, c, last);
    };
    const Int<0> no;
    const Int<1> yes;
    if constexpr (TAPS == 0) {
      sum(no, yes);
    } else {
      const bool whole = first == 0 && end == read && count == RESULTS;
      if constexpr (lines_of<TAPS> >= TAPS)  // of the lines of a square filter
        if (inside[0].count == 1 && inside[1].count <= lines_of<TAPS>) return whole ? sum(yes, no) : sum(no, no);
      whole ? sum(yes, yes) : sum(no, yes);
    }
  }

  // The same for all tiles of these channels, of which the last is shifted back over channels that are already there.
  // Of the pixels that are read, those from `first` to `end` - 1 are there, all of them where WHOLE. IN_PARTS: the sums
  // may be longer than a part of them.
  //
  // A tile of 3x3 takes some 40 cycles. It has all registers, and a loop that does nothing else: inlined in more, and
  // with a loop over depth around it, 3x3 of 56x56x64 took 1.4 times as long.
  template <int TAPS, int STRIDE, int RESULTS, int VECTORS, int WHOLE, int IN_PARTS>
  __attribute__((noinline)) void channels(const T* x, const A* w, T* to, int64_t first, int64_t end, int64_t count,
                                          int64_t c, int64_t last) const {
    if (asks) ask_ahead(x + c, x_tap[2], RESULTS * STRIDE, last - c);
    for (; c < last; c += VECTORS * lanes) {
      c = least(c, last - VECTORS * lanes);
      A parts[Sums<A, RESULTS, VECTORS>::size];
      Sums<A, RESULTS, VECTORS> sums(parts);
      sums.begin();
      if constexpr (IN_PARTS)
        add_parts<TAPS, STRIDE, WHOLE>(x + c, w + c, first, end, sums);
      else
        add_lines<TAPS, STRIDE, WHOLE>(x + c, w + c, inside[1].count, first, end, sums);
      finish.tile(sums, parts, to + c, next * taps[2].spacing, bias + c, count);
    }
  }

  // The taps of `lines` lines.
  template <int TAPS, int STRIDE, bool WHOLE, int RESULTS, int VECTORS>
  CONVEXT_INLINE void add_lines(const T* line, const A* tap, int64_t lines, int64_t first, int64_t end,
                                Sums<A, RESULTS, VECTORS>& sums) const {
    for (; lines > 0; --lines, line += x_tap[1], tap += w_tap[1]) {
      int64_t step = x_tap[2];
      __asm__ volatile("" : "+r"(step));  // where a pixel lies is added up: this loop would keep each in memory
      add_taps<TAPS, STRIDE, WHOLE>(line, step, tap, first, end, sums);
    }
  }

  // The taps of all lines, in parts.
  template <int TAPS, int STRIDE, bool WHOLE, int RESULTS, int VECTORS>
  CONVEXT_INLINE void add_parts(const T* x, const A* w, int64_t first, int64_t end,
                                Sums<A, RESULTS, VECTORS>& sums) const {
    int64_t room = TERMS;  // terms that may follow before a part ends
    for (int64_t d = inside[0].count; d > 0; --d, x += x_tap[0], w += w_tap[0]) {
      const T* line = x;
      const A* tap = w;
      for (int64_t h = inside[1].count; h > 0; --h, line += x_tap[1], tap += w_tap[1]) {
        if constexpr (TAPS == 0) {
          add_long_line(line, tap, first, end, room, sums);
        } else {
          if (room < TAPS * GROUP) sums.next(), room = TERMS;
          room -= TAPS * GROUP;
          add_lines<TAPS, STRIDE, WHOLE>(line, tap, 1, first, end, sums);
        }
      }
    }
  }

  // A line of any number of taps is threes, fours and fives of them; those that read beyond an end are left out.
  CONVEXT_INLINE void add_long_line(const T* line, const A* tap, int64_t first, int64_t end, int64_t& room,
                                    Sums<A, MANY, 1>& sums) const {
    for (int64_t t = 0, now; t < taps[2].taps && t < end; t += now) {
      const int64_t left = taps[2].taps - t;
      now = left == 6 ? 3 : left == 7 ? 4 : least(left, 5);
      if (t + now + MANY - 1 <= first) continue;
      const auto add = [&](auto count) __attribute__((always_inline)) {
        constexpr int some = decltype(count)::value;
        const T* x = line + t * x_tap[2];
        const A* w = tap + t * w_tap[2];
        if (room < some * GROUP) sums.next(), room = TERMS;
        room -= some * GROUP;
        if (t >= first && t + some + MANY - 1 <= end)
          add_taps<some, 1, true>(x, x_tap[2], w, 0, 0, sums);
        else
          add_taps<some, 1, false>(x, x_tap[2], w, first - t, end - t, sums);
      };
      if (now == 5)
        add(Int<5>{});
      else if (now == 4)
        add(Int<4>{});
      else
        add(Int<3>{});
    }
  }

  // TAPS neighbouring taps of a line.
  template <int TAPS, int STRIDE, bool WHOLE, int RESULTS, int VECTORS>
  CONVEXT_INLINE void add_taps(const T* line, int64_t step, const A* tap, int64_t first, int64_t end,
                               Sums<A, RESULTS, VECTORS>& sums) const {
    const int64_t w_step = w_tap[2];
    unrolled<GROUP>(CONVEXT_EACH(in) {
      constexpr int of = decltype(in)::value;
      Vector<A> some[TAPS][VECTORS];
      unrolled<TAPS>(CONVEXT_EACH(t) {
        const A* w = tap + t.value * w_step + of * p.k;
        unrolled<VECTORS>(CONVEXT_EACH(v) { some[t.value][v.value] = load(w + v.value * lanes); });
      });
      unrolled<(RESULTS - 1) * STRIDE + TAPS>(CONVEXT_EACH(i) {
        constexpr int pixel = decltype(i)::value;
        if (!WHOLE && (pixel < first || pixel >= end)) return;
        unrolled<VECTORS>(CONVEXT_EACH(v) {
          const Vector<A> value = held(spread<A, GROUP, of>(widen(line + pixel * step + v.value * lanes)));
          unrolled<RESULTS>(CONVEXT_EACH(m) {
            constexpr int tap = pixel - decltype(m)::value * STRIDE;
            if constexpr (tap >= 0 && tap < TAPS) sums.now[m.value][v.value] += some[tap][v.value] * value;
          });
        });
      });
    });
  }

  // Where taps share nothing, each loads its own. Neighbours of which the same taps read inside are tiles.
  void separately(const T* x, T* to, int64_t c, int64_t end) {
    while (c < end) {
      inside[2] = taps_inside(2, c);
      const int64_t stop = least(end, change_after(c));
      if (stop - c >= FEW) {
        for (; c < stop; c += FEW) pixels<FEW, 2>(x, to, least(c, stop - FEW));
        c = stop;
      } else {
        while (c < stop) pixels<1, 4>(x, to, c++);
      }
    }
  }

  // The first result after `c` of which other taps read inside, those of `c` being `inside`: the tap before them enters
  // there, or the last one leaves.
  int64_t change_after(int64_t c) const {
    const Phase& f = taps[2];
    const int64_t first = inside[2].first, last = first + inside[2].count - 1;
    const auto reaches = [&](int64_t tap, int64_t place) {
      return over(most(place - f.offset - tap * f.spacing, 0), g.in[2]);
    };
    const int64_t enters = first > 0 ? reaches(first - 1, 0) : FOREVER;
    const int64_t leaves = inside[2].count > 0 ? reaches(last, g.operand_size[2]) : FOREVER;
    return least(enters, leaves);
  }

  // All channels of PIXELS results from `m` on. The last vector is shifted back over channels that are already there.
  template <int PIXELS, int VECTORS>
  void pixels(const T* x, T* to, int64_t m) const {
    x += (m * g.in[2] + taps[2].offset) * call.a.stride[4];
    to += m * next;
    const A* w = weights;
    for (int i = 0; i < AXES; ++i) x += inside[i].first * x_tap[i], w += inside[i].first * w_tap[i];
    const int64_t whole = p.k - p.k % (VECTORS * lanes);
    if (whole > 0) apart<PIXELS, VECTORS>(x, w, to, 0, whole);
    if (whole < p.k) apart<PIXELS, 1>(x, w, to, whole, p.k);
  }

  // Channels `c` to `last` - 1 of PIXELS results.
  template <int PIXELS, int VECTORS>
  __attribute__((noinline)) void apart(const T* x, const A* w, T* to, int64_t c, int64_t last) const {
    const int64_t step = g.in[2] * call.a.stride[4];
    const int64_t terms = inside[0].count * inside[1].count * inside[2].count * GROUP;
    if (asks) ask_ahead(x + c, step, PIXELS, last - c);
    for (; c < last; c += VECTORS * lanes) {
      c = least(c, last - VECTORS * lanes);
      A parts[Sums<A, PIXELS, VECTORS>::size];
      Sums<A, PIXELS, VECTORS> sums(parts);
      sums.begin();
      if (terms <= TERMS && inside[0].count == 1)
        add_apart(x + c, step, w + c, sums);
      else
        add_apart_in_parts(x + c, step, w + c, sums);
      finish.tile(sums, parts, to + c, next, bias + c);
    }
  }

  // The taps of lines that are no more than a part of a sum.
  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void add_apart(const T* line, int64_t step, const A* tap, Sums<A, PIXELS, VECTORS>& sums) const {
    for (int64_t h = inside[1].count; h > 0; --h, line += x_tap[1], tap += w_tap[1])
      add_some_apart(line, step, tap, inside[2].count, sums);
  }

  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void add_apart_in_parts(const T* x, int64_t step, const A* w, Sums<A, PIXELS, VECTORS>& sums) const {
    int64_t room = TERMS / GROUP;  // taps
    for (int64_t d = 0; d < inside[0].count; ++d)
      for (int64_t h = 0; h < inside[1].count; ++h) {
        const T* line = x + d * x_tap[0] + h * x_tap[1];
        const A* tap = w + d * w_tap[0] + h * w_tap[1];
        for (int64_t left = inside[2].count, now; left > 0;
             left -= now, line += now * x_tap[2], tap += now * w_tap[2]) {
          if (room == 0) sums.next(), room = TERMS / GROUP;
          now = least(left, room);
          room -= now;
          add_some_apart(line, step, tap, now, sums);
        }
      }
  }

  // `count` taps of a line, for pixels `step` apart.
  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void add_some_apart(const T* line, int64_t step, const A* tap, int64_t count,
                                     Sums<A, PIXELS, VECTORS>& sums) const {
    for (; count > 0; --count, line += x_tap[2], tap += w_tap[2])
      unrolled<GROUP>(CONVEXT_EACH(in) {
        constexpr int of = decltype(in)::value;
        unrolled<VECTORS>(CONVEXT_EACH(v) {
          const Vector<A> weight = load(tap + of * p.k + v.value * lanes);
          unrolled<PIXELS>(CONVEXT_EACH(m) {
            const Vector<A> value = widen(line + m.value * step + v.value * lanes);
            sums.now[m.value][v.value] += weight * spread<A, GROUP, of>(value);
          });
        });
      });
  }

  // Asks for what a later tile is the first to read, `channels` of `count` pixels `pixel` apart, where tensors have
  // more than ASKED bytes: their pixels lie further apart than a processor foresees. That tile is the one of the next
  // row; of a single row, the next but one. `x` is what this tile reads. A little at a time, as what is asked for in a
  // burst is forgotten; results are not asked for, which gains nothing.
  __attribute__((noinline)) void ask_ahead(const T* x, int64_t pixel, int64_t count, int64_t channels) const {
    __asm__ volatile("");  // a function that only asks is one without an effect: compilers leave its calls out
    constexpr int64_t line = 64 / sizeof(T);
    const bool one_row = g.result_size[0] * g.result_size[1] == 1;
    for (int i = 0; i < AXES; ++i) x += (inside[i].count - 1) * x_tap[i];
    for (int64_t row = 0; row < g.in[1]; ++row) {
      x += one_row ? 2 * count * pixel : call.a.stride[3];
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < channels; c += line) __builtin_prefetch(x + i * pixel + c, 0, 2);
    }
  }
};

// Calls `body` with the Int of a group's channels.
template <class T, int GROUP = 1, class Body>
CONVEXT_INLINE void for_group(const Problem& p, const Body& body) {
  if constexpr (is_compiled<T>(GROUP)) {
    if (p.c / p.groups == GROUP) return body(Int<GROUP>{});
    for_group<T, GROUP * 2>(p, body);
  }
}

template <class T>
void innermost_run(const Call& call, int64_t first, int64_t last) {
  for_group<T>(call.problem, [&](auto group) {
    InnermostJob<T, decltype(group)::value> thread(call);
    for (int64_t job = first; job < last; ++job) thread.run(job);
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
