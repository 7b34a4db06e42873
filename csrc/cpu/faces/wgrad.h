// The weight gradient. A job sums one bundle of groups over its share of the images and blocks, into partial sums of
// its own, in double, as there may be many blocks; finish() adds these in order. How many shares there are depends on
// the problem alone.
//
// A tile is CHANNELS channels of y x TAPS taps, each a vector of sums over every so many columns. Lanes of a row's last
// vector that lie beyond it are cleared in both operands: an infinity there must not meet a zero.
#pragma once
#include "cpu/faces/grid.h"
#include "cpu/shared/pack.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

struct Wgrad {
  int64_t c, k;  // channels of a group, of x and of y
  int64_t bundle, bundles, shares;
  Blocks blocks;
  int64_t taps, weights;                            // of a channel, of all groups
  int64_t operand_length, gradient_length, places;  // of the parts of the scratch, in elements
};

template <class T>
inline Wgrad wgrad_of(const Problem& p, const View& a, const View& b) {
  using A = typename Sum<T>::type;
  constexpr int64_t fewest = 16;  // jobs
  Wgrad g;
  g.c = p.c / p.groups, g.k = p.k / p.groups;
  const bool innermost = p.groups > 1 && (a.stride[1] == 1 || b.stride[1] == 1);
  g.bundle = innermost ? least(p.groups, most(1, Lanes<A>::count / most(g.c, g.k))) : 1;
  g.bundles = over(p.groups, g.bundle);
  const int64_t planes = g.bundle * g.c, limit = planes == 1 ? 64 * 1024 / 4 : SCRATCH;
  g.blocks = blocks_of<A>(p, planes, g.bundle * g.k, limit, p.n * g.bundles);
  g.shares = least(p.n * product(g.blocks.count), over(fewest, g.bundles));
  g.taps = product(p.kernel);
  g.weights = p.k * g.c * g.taps;
  g.operand_length = up(g.blocks.window.total, 16);
  g.gradient_length = up((g.blocks.staged + Lanes<A>::count) * (g.bundle * g.k + 1), 16);
  g.places = g.blocks.size[0] * g.blocks.size[1] * over(g.blocks.size[2], Lanes<A>::count);
  return g;
}

template <class T>
inline Work wgrad_work(const Problem& p, const View& a, const View& b) {
  using A = typename Sum<T>::type;
  const Wgrad g = wgrad_of<T>(p, a, b);
  return {g.bundles * g.shares,
          (g.operand_length + g.gradient_length) * int64_t(sizeof(A)) + g.places * int64_t(sizeof(Place)) +
              g.c * g.taps * 4 + 128,
          g.shares * g.weights * int64_t(sizeof(double)), p.n * g.bundles * product(g.blocks.count) * g.operand_length};
}

template <class A, int CHANNELS, int TAPS, bool MASKED>
CONVEXT_INLINE void weight_tile(const Operands<A>& p, const int32_t* offsets, double* sums, int64_t between) {
  Vector<A> totals[CHANNELS][TAPS];
  int64_t at[TAPS];
  unrolled<TAPS>(CONVEXT_EACH(t) {
    at[t.value] = offsets[t.value];
    unrolled<CHANNELS>(CONVEXT_EACH(c) { totals[c.value][t.value] = Vector<A>{}; });
  });
  for (int64_t i = 0; i < p.place_count; ++i) {
    const A *x = p.x + p.places[i].x, *y = p.y + p.places[i].result;
    Vector<A> ys[CHANNELS];
    unrolled<CHANNELS>(CONVEXT_EACH(c) { ys[c.value] = load(y + c.value * p.y_plane); });
    unrolled<TAPS>(CONVEXT_EACH(t) {
      Vector<A> value = load(x + at[t.value]);
      if constexpr (MASKED) value = masked<A>(value, p.mask);
      unrolled<CHANNELS>(CONVEXT_EACH(c) { totals[c.value][t.value] += ys[c.value] * value; });
    });
  }
  unrolled<CHANNELS>(CONVEXT_EACH(c) {
    unrolled<TAPS>(CONVEXT_EACH(t) { sums[c.value * between + t.value] += sum<A>(totals[c.value][t.value]); });
  });
}

template <class A, int CHANNELS, int TAPS, bool MASKED>
inline void weight_taps(const Operands<A>& p, const int32_t* offsets, int64_t taps, double* sums, int64_t between) {
  int64_t t = 0;
  for (; t + TAPS <= taps; t += TAPS) weight_tile<A, CHANNELS, TAPS, MASKED>(p, offsets + t, sums + t, between);
  if constexpr (TAPS > 1)
    if (t < taps)
      weight_taps<A, CHANNELS,
                  (TAPS > 9   ? 9
                   : TAPS > 4 ? 4
                   : TAPS > 2 ? 2
                              : 1),
                  MASKED>(p, offsets + t, taps - t, sums + t, between);
}

// `taps` of all channels of x for `channels` channels of y, whose sums lie `taps` apart.
template <class A, bool MASKED>
inline void weight_channels(Operands<A> p, const int32_t* offsets, int64_t taps, int64_t channels, double* sums) {
  int64_t c = 0;
  const auto next = [&](int64_t step) { c += step, sums += step * taps, p.y += step * p.y_plane; };
  for (; c + 4 <= channels; next(4))
    weight_taps<A, 4, (VECTOR_BYTES == 64 ? 6 : 3), MASKED>(p, offsets, taps, sums, taps);
  for (; c + 2 <= channels; next(2)) weight_taps<A, 2, 6, MASKED>(p, offsets, taps, sums, taps);
  for (; c < channels; next(1)) weight_taps<A, 1, 12, MASKED>(p, offsets, taps, sums, taps);
}

template <class T>
struct WgradJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  const Call& call;
  const Problem& p = call.problem;
  const Wgrad g = wgrad_of<T>(p, call.a, call.b);
  A *operand, *gradient;
  Place* places;
  int32_t* offsets;

  WgradJob(const Call& c, void* scratch) : call(c) {
    operand = static_cast<A*>(scratch);
    gradient = operand + g.operand_length;
    places = reinterpret_cast<Place*>(gradient + g.gradient_length);
    offsets = reinterpret_cast<int32_t*>(places + g.places);
    fill_offsets();
  }

  void run(int64_t job) {
    const int64_t bundle = job / g.shares, share = job % g.shares, group = bundle * g.bundle;
    const int64_t groups = least(g.bundle, p.groups - group), block_count = product(g.blocks.count);
    double* sums = static_cast<double*>(call.prepared) + share * g.weights + group * g.k * g.c * g.taps;
    if (!call.continues)
      for (int64_t i = 0; i < groups * g.k * g.c * g.taps; ++i) sums[i] = 0;
    const int64_t units = p.n * block_count;
    for (int64_t unit = units * share / g.shares; unit < units * (share + 1) / g.shares; ++unit)
      add(unit / block_count, block_at(g.blocks, unit % block_count), group, groups, sums);
  }

  void add(int64_t image, const Block& block, int64_t group, int64_t groups, double* sums) {
    const Blocks& b = g.blocks;
    const View &x = call.a, &y = call.b;
    const T* x_data = static_cast<const T*>(x.data) + image * x.stride[0] + group * g.c * x.stride[1];
    const T* y_data = static_cast<const T*>(y.data) + image * y.stride[0] + group * g.k * y.stride[1];
    Planes<const T> x_planes{x_data, groups * g.c, x.stride[1], {}, {}};
    Planes<const T> y_planes{y_data, groups * g.k, y.stride[1], {}, {}};
    int64_t origin[AXES];
    Window x_window = b.window, y_window;
    for (int i = 0; i < AXES; ++i) {
      x_planes.step[i] = x.stride[2 + i], x_planes.size[i] = p.input[i];
      y_planes.step[i] = y.stride[2 + i], y_planes.size[i] = block.first[i] + block.count[i];
      origin[i] = block.first[i] * b.axis[i].in + b.axis[i].low;
      x_window.size[i] = reach_of(b.axis[i], block.count[i]);
      y_window.size[i] = block.count[i];
    }
    y_window.columns = y_window.row = up(block.count[2], lanes);
    y_window.depth = y_window.row * block.count[1];
    y_window.plane = y_window.depth * block.count[0] + lanes;
    pack<A>(x_planes, origin, x_window, b.axis[2].in, operand);
    pack<A>(y_planes, block.first, y_window, 1, gradient);

    const Listed listed = fill_places(block, y_window);
    for (int64_t i = 0; i < groups; ++i) {
      Operands<A> operands{
          operand + i * g.c * b.window.plane,    gradient + i * g.k * y_window.plane, y_window.plane, places, 0,
          first_lanes<A>(block.count[2] % lanes)};
      double* group_sums = sums + i * g.k * g.c * g.taps;
      const auto each_run = [&](int64_t count, const auto& body) {
        for (int64_t left = count; left > 0; left -= RUN) {
          operands.place_count = least(left, RUN);
          body();
          operands.places += operands.place_count;
        }
      };
      each_run(listed.rows, [&] { weight_rows<false>(operands, y_window, group_sums); });
      each_run(listed.last_rows, [&] { weight_rows<true>(operands, y_window, group_sums); });
      const int64_t taps = g.c * g.taps;
      each_run(listed.single, [&] { weight_channels<A, false>(operands, offsets, taps, g.k, group_sums); });
      each_run(listed.last_single, [&] { weight_channels<A, true>(operands, offsets, taps, g.k, group_sums); });
    }
  }

  bool shares_rows() const {
    return g.c == 1 && g.blocks.axis[1].in == 1 && g.blocks.axis[2].in == 1 && p.kernel[1] >= 3;
  }

  template <bool MASKED>
  void weight_rows(Operands<A> operands, const Window& y_window, double* sums) {
    const Window& w = g.blocks.window;
    const Grid grid{p.dilation[1] * w.row, p.dilation[2], p.dilation[1] * y_window.row, p.kernel[2]};
    for (int64_t k = 0; k < g.k; ++k, operands.y += y_window.plane)
      for (int64_t z = 0; z < p.kernel[0]; ++z, sums += p.kernel[1] * p.kernel[2])
        grid_taps<A, 7, (VECTOR_BYTES == 64 ? 3 : 1), MASKED>(operands, grid, z * p.dilation[0] * w.depth, p.kernel[1],
                                                              p.kernel[2], sums);
  }

  // As weights lie: [channel of x][depth][height][width].
  void fill_offsets() {
    const Blocks& b = g.blocks;
    const Window& w = b.window;
    int32_t* to = offsets;
    const int64_t remainders = b.axis[2].in;
    for (int64_t c = 0; c < g.c; ++c)
      for (int64_t z = 0; z < p.kernel[0]; ++z)
        for (int64_t y = 0; y < p.kernel[1]; ++y)
          for (int64_t t = 0; t < p.kernel[2]; ++t) {
            const int64_t column = t * p.dilation[2];
            *to++ = static_cast<int32_t>(c * w.plane + z * p.dilation[0] * w.depth + y * p.dilation[1] * w.row +
                                         column % remainders * w.columns + column / remainders);
          }
  }

  // How many places of each kind there are, in the order in which they are listed.
  struct Listed {
    int64_t rows, last_rows, single, last_single;  // of ROWS rows, and of one; whole vectors, and the last of a row
  };

  Listed fill_places(const Block& block, const Window& y_window) {
    const int64_t *count = block.count, whole = count[2] / lanes, last = count[2] % lanes ? 1 : 0;
    const int64_t apart = p.dilation[1];  // rows that share are so far apart: every row is of one of so many classes
    const auto shared_of = [&](int64_t first) {
      return shares_rows() ? over(count[1] - first, apart) / ROWS * ROWS : 0;
    };
    int64_t shared = 0;
    for (int64_t first = 0; first < least(apart, count[1]); ++first) shared += shared_of(first);
    const int64_t many = count[0] * shared / ROWS, alone = count[0] * (count[1] - shared);
    const Listed listed{many * whole, many * last, alone * whole, alone * last};
    Place* rows[] = {places, places + listed.rows};
    Place* single[] = {rows[1] + listed.last_rows, rows[1] + listed.last_rows + listed.single};
    for (int64_t z = 0; z < count[0]; ++z)
      for (int64_t first = 0; first < least(apart, count[1]); ++first)
        for (int64_t r = 0; first + r * apart < count[1]; ++r)
          if (r >= shared_of(first) || r % ROWS == 0)
            fill_row(z, first + r * apart, count[2], y_window, r < shared_of(first) ? rows : single);
    return listed;
  }

  // The vectors of one row: whole ones to to[0], a last one to to[1].
  void fill_row(int64_t z, int64_t y, int64_t columns, const Window& y_window, Place* (&to)[2]) {
    const Window& w = g.blocks.window;
    const int64_t x_row = z * g.blocks.axis[0].in * w.depth + y * g.blocks.axis[1].in * w.row;
    const int64_t y_row = z * y_window.depth + y * y_window.row;
    for (int64_t v = 0; v < columns; v += lanes) {
      const int64_t count = least(lanes, columns - v);
      *to[count < lanes]++ = {static_cast<int32_t>(x_row + v), static_cast<int32_t>(count), y_row + v};
    }
  }
};

template <class T>
void wgrad_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  WgradJob<T> thread(call, scratch);
  for (int64_t job = first; job < last; ++job) thread.run(job);
}

// Adds the `count` shares, in order, of channels first to last - 1 of y.
template <class T>
void wgrad_finish(const Call& call, int64_t count, int64_t first, int64_t last) {
  using A = typename Sum<T>::type;
  const Problem& p = call.problem;
  const int64_t group = p.c / p.groups, taps = product(p.kernel), weights = p.k * group * taps;
  const int64_t* s = call.result.stride;
  const double* shares = static_cast<const double*>(call.prepared);
  for (int64_t k = first; k < last; ++k) {
    const double* from = shares + k * group * taps;
    for (int64_t c = 0; c < group; ++c)
      for (int64_t z = 0; z < p.kernel[0]; ++z)
        for (int64_t y = 0; y < p.kernel[1]; ++y)
          for (int64_t t = 0; t < p.kernel[2]; ++t, ++from) {
            double total = from[0];
            for (int64_t share = 1; share < count; ++share) total += from[share * weights];
            T* to = static_cast<T*>(call.result.data) + k * s[0] + c * s[1] + z * s[2] + y * s[3] + t * s[4];
            narrow_few<A>(to, 1, broadcast(A(total)), 1);
          }
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
