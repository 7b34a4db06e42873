// The weight gradient of tensors whose channels are innermost: lanes are channels of y, and nothing is copied. Sums of
// some taps of a row stay in registers along a row of y, and each pixel of x is loaded once for all of them:
//
//     y                 pixel    0 1 2 3
//     x, of 3 taps      pixel    0 1 2 3 4 5      2 is in tap 0 of y's 2, in tap 1 of its 1, in tap 2 of its 0
//
// In groups a vector of x is spread as in innermost.h, and each channel of a group has sums of its own.
//
// A job sums some vectors of channels over its share of the rows, into sums of its own: in float32 over RUN places, in
// double over them all. How many shares there are depends on the problem alone.
#pragma once
#include "cpu/faces/innermost.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t SUMMED = 256 * 1024;  // bytes of a job's sums: what the second-level cache has room for

struct InnermostWgrad {
  int64_t vectors, blocks;           // of channels, and of vectors
  int64_t lines, shares;             // parts of a row of at most RUN places, and how they are shared
  int64_t per_row, taps, of_vector;  // lines of a row; taps of a channel; sums of a vector of channels
};

template <class A>
inline InnermostWgrad innermost_wgrad_of(const Problem& p) {
  constexpr int64_t fewest = 16;  // jobs
  InnermostWgrad g;
  g.taps = product(p.kernel);
  g.of_vector = g.taps * (p.c / p.groups) * Lanes<A>::count;
  g.vectors = over(p.k, Lanes<A>::count);
  const int64_t bytes = g.vectors * g.of_vector * int64_t(sizeof(A) + sizeof(double));
  g.blocks = least(g.vectors, most(fewest, over(bytes, SUMMED)));
  g.per_row = over(p.output[2], RUN);
  g.lines = p.n * p.output[0] * p.output[1] * g.per_row;
  g.shares = least(g.lines, over(fewest, g.blocks));
  return g;
}

template <class T>
inline Work innermost_wgrad_work(const Problem& p) {
  using A = typename Sum<T>::type;
  const InnermostWgrad g = innermost_wgrad_of<A>(p);
  const int64_t sums = over(g.vectors, g.blocks) * g.of_vector;
  const int64_t weights = p.k * (p.c / p.groups) * g.taps;
  return {g.blocks * g.shares, sums * int64_t(sizeof(A) + sizeof(double)), g.shares * weights * int64_t(sizeof(double)),
          0};
}

template <class T, int GROUP>
struct InnermostWgradJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;
  static constexpr int PLACES = 4;  // of a tile
  // Taps at a time: as many as have room for their sums in registers, and no more than rows of such layers often have.
  static constexpr int ROOM = (VECTOR_BYTES == 64 ? 20 : 8) / GROUP, LONGEST = GROUP == 1 ? 7 : 4;
  static constexpr int MOST = ROOM < 1 ? 1 : ROOM < LONGEST ? ROOM : LONGEST;

  const Call& call;
  const Problem& p = call.problem;
  const View &x = call.a, &y = call.b;
  const InnermostWgrad g = innermost_wgrad_of<A>(p);
  double* totals;
  A* sums;             // of each vector of channels: [tap][channel of x in its group][lane]
  int64_t places = 0;  // that `sums` are of

  InnermostWgradJob(const Call& c, void* scratch) : call(c) {
    totals = static_cast<double*>(scratch);
    sums = reinterpret_cast<A*>(totals + over(g.vectors, g.blocks) * g.of_vector);
  }

  void run(int64_t job) {
    const int64_t block = job / g.shares, share = job % g.shares;
    const int64_t first = g.vectors * block / g.blocks, end = g.vectors * (block + 1) / g.blocks;
    const int64_t count = (end - first) * g.of_vector;
    begin(count);
    for (int64_t l = g.lines * share / g.shares; l < g.lines * (share + 1) / g.shares; ++l) {
      const int64_t row = l / g.per_row, column = l % g.per_row * RUN, length = least(RUN, p.output[2] - column);
      count_places(length, count);
      for (int64_t v = first; v < end; ++v) line(row, column, column + length, channel(v), (v - first) * g.of_vector);
    }
    add_up(count);
    double* to = static_cast<double*>(call.prepared) + share * p.k * GROUP * g.taps;
    for (int64_t v = first; v < end; ++v)
      hand_over(channel(v), v * lanes - channel(v), lanes, (v - first) * g.of_vector, to);
  }

  // `count` sums begin.
  void begin(int64_t count) {
    for (int64_t i = 0; i < count; ++i) totals[i] = 0, sums[i] = 0;
    places = 0;
  }

  // `length` places follow; those of RUN at most are summed in float32.
  void count_places(int64_t length, int64_t count) {
    if (places + length > RUN) add_up(count), places = 0;
    places += length;
  }

  void add_up(int64_t count) {
    for (int64_t i = 0; i < count; ++i) totals[i] += sums[i], sums[i] = 0;
  }

  // Sums of the lanes from `fresh` to `last` - 1, as weights lie: [channel of y][channel of x in its group][tap].
  void hand_over(int64_t channel, int64_t fresh, int64_t last, int64_t at, double* to) const {
    const double* from = totals + at;
    for (int64_t t = 0; t < g.taps; ++t)
      for (int64_t in = 0; in < GROUP; ++in, from += lanes)
        for (int64_t lane = fresh; lane < last; ++lane) {
          double& sum = to[((channel + lane) * GROUP + in) * g.taps + t];
          sum = call.continues ? sum + from[lane] : from[lane];
        }
  }

  // Places `c` to `end` - 1 of a row, a vector of channels.
  void line(int64_t row, int64_t c, int64_t end, int64_t channel, int64_t at) {
    const int64_t h = row % p.output[1], plane = row / p.output[1], d = plane % p.output[0], n = plane / p.output[0];
    const T* from = static_cast<const T*>(x.data) + n * x.stride[0] + channel;
    const T* gradient = static_cast<const T*>(y.data) + n * y.stride[0] + d * y.stride[2] + h * y.stride[3] + channel;
    A* to = sums + at;
    for (int64_t i = 0; i < p.kernel[0]; ++i)
      for (int64_t j = 0; j < p.kernel[1]; ++j, to += p.kernel[2] * GROUP * lanes) {
        const int64_t depth = d * p.stride[0] + i * p.dilation[0] - p.pad[0];
        const int64_t height = h * p.stride[1] + j * p.dilation[1] - p.pad[1];
        if (depth < 0 || depth >= p.input[0] || height < 0 || height >= p.input[1]) continue;
        taps(from + depth * x.stride[2] + height * x.stride[3], gradient, c, end, to);
      }
  }

 private:
  // The first of a vector: the last one is shifted back over channels that the one before has.
  int64_t channel(int64_t v) const { return least(v * lanes, p.k - lanes); }

  void taps(const T* from, const T* gradient, int64_t c, int64_t end, A* to) const {
    const bool neighbours = p.stride[2] == 1 && p.dilation[2] == 1;
    for (int64_t t = 0; t < p.kernel[2];) {
      const int64_t left = least(p.kernel[2] - t, MOST);
      unrolled<MOST>(CONVEXT_EACH(i) {
        constexpr int some = decltype(i)::value + 1;
        if (left != some) return;
        if (neighbours)
          neighbouring<some>(from, gradient, t, c, end, to + t * GROUP * lanes);
        else
          apart<some>(from, gradient, t, c, end, to + t * GROUP * lanes);
      });
      t += left;
    }
  }

  // Sums of TAPS taps, in as many chains as keep enough additions under way.
  template <int TAPS>
  struct Registers {
    static constexpr int chains = TAPS * GROUP < 4 ? 2 : 1;
    Vector<A> now[chains][TAPS][GROUP] = {};

    template <int PLACE, int TAP>
    CONVEXT_INLINE void add(Vector<A> y, Vector<A> x) {
      unrolled<GROUP>(
          CONVEXT_EACH(in) { now[PLACE % chains][TAP][in.value] += y * spread<A, GROUP, decltype(in)::value>(x); });
    }

    CONVEXT_INLINE void add_to(A* sums) const {
      unrolled<TAPS>(CONVEXT_EACH(t) {
        unrolled<GROUP>(CONVEXT_EACH(in) {
          A* at = sums + (t.value * GROUP + in.value) * lanes;
          Vector<A> sum = load(at) + now[0][t.value][in.value];
          if constexpr (chains > 1) sum += now[1][t.value][in.value];
          store<A>(at, sum);
        });
      });
    }
  };

  // TAPS taps from `t` on, which read neighbours. Pixels beyond an end of x's row are left out.
  template <int TAPS>
  void neighbouring(const T* from, const T* gradient, int64_t t, int64_t c, int64_t end, A* to) const {
    Registers<TAPS> sums;
    const auto tile = [&](auto count) __attribute__((always_inline)) {
      constexpr int places = decltype(count)::value;
      const int64_t column = c + t - p.pad[2], beyond = p.input[2] - column;
      const T *x_at = from + column * x.stride[4], *y_at = gradient + c * y.stride[4];
      if (column >= 0 && beyond >= places + TAPS - 1)
        line_tile<TAPS, places, true>(x_at, y_at, 0, 0, sums);
      else
        line_tile<TAPS, places, false>(x_at, y_at, -column, beyond, sums);
      c += places;
    };
    while (c + PLACES <= end) tile(Int<PLACES>{});
    while (c < end) tile(Int<1>{});
    sums.add_to(to);
  }

  // Of the pixels of x, those from `first` to `end` - 1 are there; all of them where WHOLE.
  template <int TAPS, int COUNT, bool WHOLE>
  CONVEXT_INLINE void line_tile(const T* from, const T* gradient, int64_t first, int64_t end,
                                Registers<TAPS>& sums) const {
    Vector<A> ys[COUNT];
    unrolled<COUNT>(CONVEXT_EACH(m) { ys[m.value] = held(widen(gradient + m.value * y.stride[4])); });
    unrolled<COUNT + TAPS - 1>(CONVEXT_EACH(i) {
      constexpr int pixel = decltype(i)::value;
      if (!WHOLE && (pixel < first || pixel >= end)) return;
      const Vector<A> value = held(widen(from + pixel * x.stride[4]));
      unrolled<TAPS>(CONVEXT_EACH(t) {
        constexpr int tap = decltype(t)::value, place = pixel - tap;
        if constexpr (place >= 0 && place < COUNT) sums.template add<place, tap>(ys[place], value);
      });
    });
  }

  // TAPS taps from `t` on, wherever they read: together where all of them read inside, elsewhere one by one.
  template <int TAPS>
  void apart(const T* from, const T* gradient, int64_t t, int64_t c, int64_t end, A* to) const {
    Range all{inside(t, c, end).first, inside(t + TAPS - 1, c, end).end};
    if (all.first >= all.end) all = {end, end};
    each_place<TAPS>(from, gradient, t, all, to);
    if constexpr (TAPS > 1)
      for (int64_t i = 0; i < TAPS; ++i) {
        const Range one = inside(t + i, c, end);
        each_place<1>(from, gradient, t + i, {one.first, least(one.end, all.first)}, to + i * GROUP * lanes);
        each_place<1>(from, gradient, t + i, {most(one.first, all.end), one.end}, to + i * GROUP * lanes);
      }
  }

  struct Range {
    int64_t first, end;
  };

  // The places of c to end - 1 of which tap t reads inside.
  Range inside(int64_t t, int64_t c, int64_t end) const {
    const int64_t offset = t * p.dilation[2] - p.pad[2], beyond = p.input[2] - offset;
    return {most(c, over(most(-offset, 0), p.stride[2])), least(end, beyond > 0 ? over(beyond, p.stride[2]) : 0)};
  }

  template <int TAPS>
  CONVEXT_INLINE void each_place(const T* from, const T* gradient, int64_t t, Range range, A* to) const {
    if (range.first >= range.end) return;
    Registers<TAPS> sums;
    const int64_t step = p.stride[2] * x.stride[4], apart = p.dilation[2] * x.stride[4], next = y.stride[4];
    from += (t * p.dilation[2] - p.pad[2]) * x.stride[4] + range.first * step, gradient += range.first * next;
    const auto tile = [&](auto count) __attribute__((always_inline)) {
      constexpr int places = decltype(count)::value;
      unrolled<places>(CONVEXT_EACH(m) {
        const Vector<A> value = held(widen(gradient + m.value * next));
        unrolled<TAPS>(CONVEXT_EACH(tap) {
          sums.template add<decltype(m)::value, decltype(tap)::value>(value,
                                                                      widen(from + m.value * step + tap.value * apart));
        });
      });
      from += places * step, gradient += places * next, range.first += places;
    };
    while (range.first + PLACES <= range.end) tile(Int<PLACES>{});
    while (range.first < range.end) tile(Int<1>{});
    sums.add_to(to);
  }
};

template <class T>
void innermost_wgrad_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_group<T>(call.problem, [&](auto group) {
    InnermostWgradJob<T, decltype(group)::value> thread(call, scratch);
    for (int64_t job = first; job < last; ++job) thread.run(job);
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
