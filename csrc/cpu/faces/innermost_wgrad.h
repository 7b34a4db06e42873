// The weight gradient of tensors whose channels are innermost: lanes are channels of y, and nothing is copied. Sums of
// some taps of a row stay in registers along some rows of y, and each pixel of x is loaded once for all of them:
//
//     y                 pixel    0 1 2 3
//     x, of 3 taps      pixel    0 1 2 3 4 5      2 is in tap 0 of y's 2, in tap 1 of its 1, in tap 2 of its 0
//
// In groups a vector of x is spread as in innermost.h, and each channel of a group has sums of its own.
//
// A strip is as many rows of y as have STRIP places, one row, or RUN places of a long one. A job sums some vectors of
// channels over its share of the strips: in registers over one, PART places and then those parts, in double over them
// all. Of depthwise channels two vectors are summed at a time: pixels lie as far apart as there are channels, and of
// each come two lines of the cache then (Zen 5, 16 lanes: 1.05 to 1.25 times as fast, 1.1 to 1.4 from memory). Where
// tensors lie in memory a job sums as many vectors as there is room for, since a pixel's channels come together. How
// many shares there are depends on the problem alone. finish() adds them, and turns lanes to channels:
//
//     sums, of 4 lanes     tap 0  a b c d                weights    channel a  0 1 2 ..
//                              1  a b c d    ─shares─>                      b  0 1 2 ..
//                              2  a b c d                                   c  0 1 2 ..
//                              ..                                           d  0 1 2 ..
#pragma once
#include "cpu/faces/innermost.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t SUMMED = 256 * 1024;  // bytes of a job's sums: what the second-level cache has room for
constexpr int64_t STRIP = 128;          // places of several rows, of which a register
constexpr int64_t PART = 32;            // sums so many: longer sums round more than torch's do

// Taps of a row of depthwise channels whose sums there are registers for, of one vector and of two.
constexpr int OF_ONE = 7, OF_TWO = VECTOR_BYTES == 64 ? 7 : 5;

// Vectors that are summed at a time: two where that takes no more turns for a row of taps.
inline int64_t summed_together(const Problem& p) {
  return p.groups == p.c && over(p.kernel[2], OF_TWO) == over(p.kernel[2], OF_ONE) ? 2 : 1;
}

struct InnermostWgrad {
  int64_t taps, of_vector;  // taps of a channel; sums of a vector of channels: [tap][channel of x in its group][lane]
  int64_t vectors, together, blocks;  // of channels; of them, summed at a time; jobs that share them out
  int64_t rows, per_row;              // of a strip, and strips of a row
  int64_t per_plane, strips, shares;
};

template <class T>
inline InnermostWgrad innermost_wgrad_of(const Problem& p) {
  using A = typename Sum<T>::type;
  constexpr int64_t fewest = 16;  // jobs
  InnermostWgrad g;
  g.taps = product(p.kernel);
  g.of_vector = g.taps * (p.c / p.groups) * Lanes<A>::count;
  g.vectors = over(p.k, Lanes<A>::count);
  const int64_t bytes = g.vectors * g.of_vector * int64_t(sizeof(double));
  g.together = summed_together(p);
  g.blocks = least(over(g.vectors, g.together), most(is_far<T>(p) ? 1 : fewest, over(bytes, SUMMED)));
  g.rows = most(STRIP / p.output[2], 1);
  g.per_row = over(p.output[2], RUN);
  g.per_plane = over(p.output[1], g.rows) * g.per_row;
  g.strips = p.n * p.output[0] * g.per_plane;
  g.shares = least(g.strips, over(fewest, g.blocks));
  return g;
}

template <class T>
inline Work innermost_wgrad_work(const Problem& p) {
  const InnermostWgrad g = innermost_wgrad_of<T>(p);
  return {g.blocks * g.shares, 0, g.shares * g.vectors * g.of_vector * int64_t(sizeof(double)), 0};
}

// Places `c` to `end` - 1 of `rows` rows of y from row `h` on.
struct Strip {
  int64_t n, d, h, rows, c, end;
};

template <class T, int GROUP>
struct InnermostWgradJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;
  static constexpr int PLACES = 4;  // of a tile
  // Taps at a time: as many as have room for their sums in registers, and no more than rows of such layers often have.
  static constexpr int ROOM = (VECTOR_BYTES == 64 ? 20 : 8) / GROUP, LONGEST = GROUP == 1 ? OF_ONE : 4;
  template <int VECTORS>
  static constexpr int most_taps = VECTORS == 2     ? OF_TWO
                                   : ROOM < 1       ? 1
                                   : ROOM < LONGEST ? ROOM
                                                    : LONGEST;

  const Call& call;
  const Problem& p = call.problem;
  const View &x = call.a, &y = call.b;
  const InnermostWgrad g = innermost_wgrad_of<T>(p);
  const int64_t x_apart = p.dilation[2] * x.stride[4], y_apart = p.dilation[2] * y.stride[4];  // of neighbours

  explicit InnermostWgradJob(const Call& c) : call(c) {}

  void run(int64_t job) {
    const int64_t block = job / g.shares, share = job % g.shares;
    const int64_t sets = over(g.vectors, g.together), first = sets * block / g.blocks * g.together;
    const int64_t end = least(sets * (block + 1) / g.blocks * g.together, g.vectors);
    double* totals = static_cast<double*>(call.prepared) + share * g.vectors * g.of_vector;
    if (!call.continues)
      for (int64_t i = first * g.of_vector; i < end * g.of_vector; ++i) totals[i] = 0;
    for (int64_t s = g.strips * share / g.shares; s < g.strips * (share + 1) / g.shares; ++s) {
      const Strip strip = strip_at(s);
      for (int64_t v = first; v < end;) v += add_some(strip, v, end, totals + v * g.of_vector);
    }
  }

  // Adds a strip to the sums of VECTORS vectors of channels, the first of which is `channel`.
  template <int VECTORS>
  void add(const Strip& s, int64_t channel, double* to) const {
    const T* from = static_cast<const T*>(x.data) + s.n * x.stride[0] + channel;
    const T* gradient = static_cast<const T*>(y.data) + s.n * y.stride[0] + s.d * y.stride[2] + channel;
    for (int64_t i = 0; i < p.kernel[0]; ++i)
      for (int64_t j = 0; j < p.kernel[1]; ++j, to += p.kernel[2] * GROUP * lanes) {
        const int64_t depth = s.d * p.stride[0] + i * p.dilation[0] - p.pad[0], offset = j * p.dilation[1] - p.pad[1];
        const Range inside = reads_inside(1, offset, s.h, s.h + s.rows);
        if (depth < 0 || depth >= p.input[0] || inside.first >= inside.end) continue;
        const int64_t height = inside.first * p.stride[1] + offset;
        taps<VECTORS>({from + depth * x.stride[2] + height * x.stride[3], gradient + inside.first * y.stride[3],
                       inside.end - inside.first},
                      s.c, s.end, to);
      }
  }

 private:
  // Adds a strip to the sums of two vectors, the `v`th and the next, or of one, and returns of how many.
  int64_t add_some(const Strip& s, int64_t v, int64_t end, double* to) const {
    if constexpr (GROUP == 1)
      if (g.together == 2 && v + 2 <= end && (v + 2) * lanes <= p.k) return add<2>(s, v * lanes, to), 2;
    return add<1>(s, least(v * lanes, p.k - lanes), to), 1;
  }

  struct Range {
    int64_t first, end;
  };

  // Rows of both operands that meet in a row of taps, from their first pixels on.
  struct Rows {
    const T *x, *y;
    int64_t count;
  };

  Strip strip_at(int64_t index) const {
    const int64_t plane = index / g.per_plane, h = index % g.per_plane / g.per_row * g.rows;
    const int64_t c = index % g.per_row * RUN;
    const int64_t rows = least(g.rows, p.output[1] - h), end = least(c + RUN, p.output[2]);
    return {plane / p.output[0], plane % p.output[0], h, rows, c, end};
  }

  // The places of `first` to `end` - 1 along an axis of which a tap, `offset` from where its place begins, reads
  // inside.
  Range reads_inside(int axis, int64_t offset, int64_t first, int64_t end) const {
    const int64_t stride = p.stride[axis], beyond = p.input[axis] - offset;
    return {most(first, over(most(-offset, 0), stride)), least(end, beyond > 0 ? over(beyond, stride) : 0)};
  }

  template <int VECTORS>
  void taps(const Rows& rows, int64_t c, int64_t end, double* to) const {
    const bool neighbours = p.stride[2] == 1 && (p.dilation[2] == 1 || p.dilation[2] * PLACES <= end - c);
    for (int64_t t = 0; t < p.kernel[2];) {
      constexpr int at_most = most_taps<VECTORS>;
      const int64_t left = least(p.kernel[2] - t, at_most);
      unrolled<at_most>(CONVEXT_EACH(i) {
        constexpr int some = decltype(i)::value + 1;
        if (left != some) return;
        if (neighbours)
          neighbouring<some, VECTORS>(rows, t, c, end, to + t * GROUP * lanes);
        else
          apart<some, VECTORS>(rows, t, c, end, to + t * GROUP * lanes);
      });
      t += left;
    }
  }

  // Sums of TAPS taps of VECTORS vectors, in as many chains as keep enough additions under way.
  template <int TAPS, int VECTORS>
  struct Registers {
    static constexpr int chains = TAPS * GROUP * VECTORS < 4 ? 2 : 1;
    struct Tap {
      Vector<A> now[chains][GROUP] = {}, parts[GROUP] = {};
    };
    Tap taps[VECTORS][TAPS];
    int64_t summed = 0;  // places, in `now`

    // Comes before each row of `places`.
    CONVEXT_INLINE void begin_row(int64_t places) {
      if (summed > 0 && summed + places > PART) end_part();
      summed += places;
    }

    CONVEXT_INLINE void end_part() {
      each_tap(CONVEXT_EACH2(v, t) {
        Tap& tap = taps[v.value][t.value];
        unrolled<GROUP>(CONVEXT_EACH(in) {
          unrolled<chains>(CONVEXT_EACH(chain) {
            Vector<A>& sum = tap.now[chain.value][in.value];
            tap.parts[in.value] += sum;
            sum = Vector<A>{};
          });
        });
      });
      summed = 0;
    }

    template <int VECTOR, int PLACE, int TAP>
    CONVEXT_INLINE void add(Vector<A> y, Vector<A> x) {
      Tap& tap = taps[VECTOR][TAP];
      unrolled<GROUP>(
          CONVEXT_EACH(in) { tap.now[PLACE % chains][in.value] += y * spread<A, GROUP, decltype(in)::value>(x); });
    }

    // Totals of vectors lie `of_vector` apart.
    CONVEXT_INLINE void hand_over(double* totals, int64_t of_vector) {
      end_part();
      each_tap(CONVEXT_EACH2(v, t) {
        double* to = totals + v.value * of_vector + t.value * GROUP * lanes;
        unrolled<GROUP>(CONVEXT_EACH(in) { add_to<A>(to + in.value * lanes, taps[v.value][t.value].parts[in.value]); });
      });
    }

    template <class Body>
    CONVEXT_INLINE void each_tap(const Body& body) {
      unrolled<VECTORS>(CONVEXT_EACH(v) { unrolled<TAPS>(CONVEXT_EACH(t) { body(v, t); }); });
    }
  };

  // TAPS taps from `t` on, which read neighbours among places as far apart as the taps. Pixels beyond an end of x's row
  // are left out.
  template <int TAPS, int VECTORS>
  void neighbouring(const Rows& rows, int64_t t, int64_t c, int64_t end, double* to) const {
    Registers<TAPS, VECTORS> sums;
    const int64_t apart = p.dilation[2], offset = t * apart - p.pad[2];
    const auto of_strand = [=](int64_t count) { return apart == 1 ? count : over(count, apart); };
    for (int64_t first = c; first < least(c + apart, end); ++first) {
      const int64_t column = first + offset, places = of_strand(end - first);
      const int64_t low = of_strand(most(-column, 0)), high = of_strand(most(p.input[2] - column, 0));
      const T *from = rows.x + column * x.stride[4], *gradient = rows.y + first * y.stride[4];
      for (int64_t left = rows.count; left > 0; --left) {
        sums.begin_row(places);
        strand(from, gradient, low, high, places, sums);
        from += p.stride[1] * x.stride[3], gradient += y.stride[3];
      }
    }
    sums.hand_over(to, g.of_vector);
  }

  // `count` places; the pixels from `low` to `high` - 1 are there.
  template <int TAPS, int VECTORS>
  CONVEXT_INLINE void strand(const T* from, const T* gradient, int64_t low, int64_t high, int64_t count,
                             Registers<TAPS, VECTORS>& sums) const {
    int64_t i = 0;
    const auto tile = [&](auto many) __attribute__((always_inline)) {
      constexpr int places = decltype(many)::value;
      const T *pixels = from + i * x_apart, *at = gradient + i * y_apart;
      const bool whole = i >= low && i + places + TAPS - 1 <= high;
      unrolled<VECTORS>(CONVEXT_EACH(v) {
        constexpr int vector = decltype(v)::value;
        if (whole)
          line_tile<vector, places, true>(pixels + vector * lanes, at + vector * lanes, 0, 0, sums);
        else
          line_tile<vector, places, false>(pixels + vector * lanes, at + vector * lanes, low - i, high - i, sums);
      });
      i += places;
    };
    while (i + PLACES <= count) tile(Int<PLACES>{});
    while (i < count) tile(Int<1>{});
  }

  // Of the pixels of x, those from `first` to `end` - 1 are there; all of them where WHOLE.
  template <int VECTOR, int COUNT, bool WHOLE, int TAPS, int VECTORS>
  CONVEXT_INLINE void line_tile(const T* from, const T* gradient, int64_t first, int64_t end,
                                Registers<TAPS, VECTORS>& sums) const {
    Vector<A> ys[COUNT];
    unrolled<COUNT>(CONVEXT_EACH(m) { ys[m.value] = held(widen(gradient + m.value * y_apart)); });
    unrolled<COUNT + TAPS - 1>(CONVEXT_EACH(i) {
      constexpr int pixel = decltype(i)::value;
      if (!WHOLE && (pixel < first || pixel >= end)) return;
      const Vector<A> value = held(widen(from + pixel * x_apart));
      unrolled<TAPS>(CONVEXT_EACH(t) {
        constexpr int tap = decltype(t)::value, place = pixel - tap;
        if constexpr (place >= 0 && place < COUNT) sums.template add<VECTOR, place, tap>(ys[place], value);
      });
    });
  }

  // TAPS taps from `t` on, wherever they read: together where all of them read inside, elsewhere one by one.
  template <int TAPS, int VECTORS>
  void apart(const Rows& rows, int64_t t, int64_t c, int64_t end, double* to) const {
    const auto inside = [&](int64_t t) { return reads_inside(2, t * p.dilation[2] - p.pad[2], c, end); };
    Range all{inside(t).first, inside(t + TAPS - 1).end};
    if (all.first >= all.end) all = {end, end};
    each_place<TAPS, VECTORS>(rows, t, all, to);
    if constexpr (TAPS > 1)
      for (int64_t i = 0; i < TAPS; ++i) {
        const Range one = inside(t + i);
        each_place<1, VECTORS>(rows, t + i, {one.first, least(one.end, all.first)}, to + i * GROUP * lanes);
        each_place<1, VECTORS>(rows, t + i, {most(one.first, all.end), one.end}, to + i * GROUP * lanes);
      }
  }

  template <int TAPS, int VECTORS>
  __attribute__((noinline)) void each_place(Rows rows, int64_t t, Range range, double* to) const {
    if (range.first >= range.end) return;
    Registers<TAPS, VECTORS> sums;
    const int64_t step = p.stride[2] * x.stride[4], apart = p.dilation[2] * x.stride[4], next = y.stride[4];
    rows.x += (t * p.dilation[2] - p.pad[2]) * x.stride[4] + range.first * step, rows.y += range.first * next;
    for (; rows.count > 0; --rows.count, rows.x += p.stride[1] * x.stride[3], rows.y += y.stride[3]) {
      const T *from = rows.x, *gradient = rows.y;
      int64_t left = range.end - range.first;
      sums.begin_row(left);
      const auto tile = [&](auto count) __attribute__((always_inline)) {
        constexpr int places = decltype(count)::value;
        unrolled<places>(CONVEXT_EACH(m) {
          unrolled<VECTORS>(CONVEXT_EACH(v) {
            const Vector<A> value = held(widen(gradient + m.value * next + v.value * lanes));
            unrolled<TAPS>(CONVEXT_EACH(tap) {
              const Vector<A> pixel = widen(from + m.value * step + tap.value * apart + v.value * lanes);
              sums.template add<decltype(v)::value, decltype(m)::value, decltype(tap)::value>(value, pixel);
            });
          });
        });
        from += places * step, gradient += places * next, left -= places;
      };
      while (left >= PLACES) tile(Int<PLACES>{});
      while (left > 0) tile(Int<1>{});
    }
    sums.hand_over(to, g.of_vector);
  }
};

template <class T>
void innermost_wgrad_run(const Call& call, int64_t first, int64_t last) {
  for_group<T>(call.problem, [&](auto group) {
    InnermostWgradJob<T, decltype(group)::value> thread(call);
    for (int64_t job = first; job < last; ++job) thread.run(job);
  });
}

// Adds the shares, in order, of channels `first` to `last` - 1 of y. SHIFTED: the last vector of channels is one that
// ends with the last channel.
template <class T, bool SHIFTED>
void lanes_finish(const Call& call, int64_t shares, int64_t first, int64_t last) {
  using A = typename Sum<T>::type;
  constexpr int64_t lanes = Lanes<A>::count;
  const Problem& p = call.problem;
  const int64_t *kernel = p.kernel, *s = call.result.stride, group = p.c / p.groups;
  const int64_t of_vector = product(kernel) * group * lanes, of_share = over(p.k, lanes) * of_vector;
  const int64_t joined = joined_step(kernel, s + 2), next = joined ? joined : s[4];  // from tap to tap
  const int64_t taps = joined ? product(kernel) : kernel[2], rows = product(kernel) / taps;
  A sums[(lanes + 1) * lanes] = {};  // of some taps; lanes that are not asked for lie before and behind
  for (int64_t k = first, count = 0; k < last; k += count) {
    const int64_t v = k / lanes, begin = SHIFTED ? least(v * lanes, p.k - lanes) : v * lanes;
    count = least((v + 1) * lanes, last) - k;
    const double* from = static_cast<const double*>(call.prepared) + v * of_vector;
    const Planes<T> weights{static_cast<T*>(call.result.data) + k * s[0], count, s[0], {0, 0, next}, {}};
    for (int64_t row = 0; row < rows; ++row, from += taps * group * lanes)
      for (int64_t c = 0; c < group; ++c) {
        T* to = weights.data + c * s[1] + row / kernel[1] * s[2] + row % kernel[1] * s[3];
        for (int64_t t = 0; t < taps; t += lanes) {
          const int64_t some = least(lanes, taps - t);
          for (int64_t i = 0; i < some; ++i) {
            const double* at = from + ((t + i) * group + c) * lanes;
            each_double<A>(CONVEXT_EACH(lane) {
              Vector<double> total = load(at + lane.value);
              for (int64_t share = 1; share < shares; ++share) total += load(at + share * of_share + lane.value);
              from_double(sums + i * lanes + lane.value, total);
            });
          }
          reorder_out(sums + k - begin, weights, to + t * next, some, Finish<T>());
        }
      }
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
