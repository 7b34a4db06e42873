// The weight gradient of one group of many channels, as sums of outer products: lanes are channels of y, and each pixel
// of x that a tap reads is spread, channel by channel.
//
//     one tap      y, of a pixel   a b c d                sums    x's channel 0    0a 0b 0c 0d
//                  x, there        0 1 2 ..                                   1    1a 1b 1c 1d
//                                                                             2    2a 2b 2c 2d
//
// A tile is some channels of x x one or two vectors of y's, in registers over the rows of a band: as many rows of one
// plane of y as have BAND places. It is in scratch with the rows of x that taps of one depth read of it, vectors of
// channels as reorder.h lays them. Taps that read beyond x are left out. A job sums some vectors of y's channels and
// the taps of one depth over its share of the bands; finish() adds the shares, as of the other loops by lanes.
#pragma once
#include "cpu/faces/innermost_wgrad.h"
#include "cpu/faces/reordered.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t BAND = 256;  // places, at least a row, that registers sum before they are added to doubles
constexpr int SPREAD = VECTOR_BYTES == 64 ? 8 : 4;  // channels of x of a tile: what registers have room for

struct DenseWgrad {
  int64_t vectors, pairs, shares;  // vectors of y's channels; what jobs sum of them; jobs that share a sum
  int64_t blocks;                  // vectors of x's channels
  int64_t rows, bands;             // of y: of a band, and bands of a plane
  int64_t reach;                   // rows of x, at most, that a band reads
  int64_t of_vector;               // sums of a vector of channels
};

template <class T>
inline DenseWgrad dense_wgrad_of(const Problem& p) {
  constexpr int64_t lanes = Lanes<typename Sum<T>::type>::count, fewest = 16;  // jobs
  DenseWgrad g;
  g.vectors = over(p.k, lanes), g.pairs = over(g.vectors, 2), g.blocks = over(p.c, lanes);
  g.rows = least(most(BAND / p.output[2], 1), p.output[1]);
  g.bands = over(p.output[1], g.rows);
  g.reach = least(p.input[1], (g.rows - 1) * p.stride[1] + (p.kernel[1] - 1) * p.dilation[1] + 1);
  g.shares = least(p.n * p.output[0] * g.bands, over(fewest, g.pairs * p.kernel[0]));
  g.of_vector = product(p.kernel) * p.c * lanes;
  return g;
}

template <class T>
inline Work dense_wgrad_work(const Problem& p) {
  using A = typename Sum<T>::type;
  const DenseWgrad g = dense_wgrad_of<T>(p);
  const int64_t pixels = g.blocks * g.reach * p.input[2] + 2 * g.rows * p.output[2];
  return {g.pairs * p.kernel[0] * g.shares, pixels * Lanes<A>::count * int64_t(sizeof(A)),
          g.shares * g.vectors * g.of_vector * int64_t(sizeof(double)), 0};
}

template <class T>
struct DenseWgradJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  // Rows of y, and of x from the first that they read.
  struct Band {
    int64_t image, z, first, count;
    int64_t x_plane, x_first, x_count;
  };

  const Call& call;
  const Problem& p = call.problem;
  const DenseWgrad g = dense_wgrad_of<T>(p);
  const int64_t x_block = g.reach * p.input[2] * lanes, y_vector = g.rows * p.output[2] * lanes;
  A *x, *y;

  DenseWgradJob(const Call& c, void* scratch) : call(c) { x = static_cast<A*>(scratch), y = x + g.blocks * x_block; }

  void run(int64_t job) {
    const int64_t share = job % g.shares, depth = job / g.shares % p.kernel[0],
                  first = job / g.shares / p.kernel[0] * 2;
    const int64_t vectors = least(2, g.vectors - first), taps = p.kernel[1] * p.kernel[2] * p.c * lanes;
    double* totals = static_cast<double*>(call.prepared) + (share * g.vectors + first) * g.of_vector + depth * taps;
    for (int64_t v = 0; v < vectors && !call.continues; ++v)
      for (int64_t i = 0; i < taps; ++i) totals[v * g.of_vector + i] = 0;
    const int64_t of_image = p.output[0] * g.bands, units = p.n * of_image;
    for (int64_t unit = units * share / g.shares; unit < units * (share + 1) / g.shares; ++unit) {
      const Band band = band_at(unit / of_image, unit % of_image / g.bands, unit % g.bands, depth);
      if (band.x_plane < 0 || band.x_plane >= p.input[0] || band.x_count <= 0) continue;
      read(band, first, vectors);
      if (vectors == 2)
        add<2>(band, totals);
      else
        add<1>(band, totals);
    }
  }

 private:
  Band band_at(int64_t image, int64_t z, int64_t index, int64_t depth) const {
    Band b{image, z, index * g.rows, 0, 0, 0, 0};
    b.count = least(g.rows, p.output[1] - b.first);
    b.x_plane = z * p.stride[0] + depth * p.dilation[0] - p.pad[0];
    const int64_t low = b.first * p.stride[1] - p.pad[1];
    const int64_t end = low + (b.count - 1) * p.stride[1] + (p.kernel[1] - 1) * p.dilation[1] + 1;
    b.x_first = most(low, 0), b.x_count = least(end, p.input[1]) - b.x_first;
    return b;
  }

  void read(const Band& b, int64_t first, int64_t vectors) const {
    View unused;
    const Block of_x{{b.x_plane, b.x_first, 0}, {1, b.x_count, p.input[2]}};
    for (int64_t i = 0; i < g.blocks; ++i)
      reorder_block(planes_of<const T>(call.a, b.image, i * lanes, least(lanes, p.c - i * lanes)), of_x,
                    x + i * x_block, unused);
    const Block of_y{{b.z, b.first, 0}, {1, b.count, p.output[2]}};
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t channel = (first + i) * lanes;
      reorder_block(planes_of<const T>(call.b, b.image, channel, least(lanes, p.k - channel)), of_y, y + i * y_vector,
                    unused);
    }
  }

  template <int VECTORS>
  void add(const Band& b, double* totals) const {
    for (int64_t h = 0; h < p.kernel[1]; ++h)
      for (int64_t w = 0; w < p.kernel[2]; ++w) {
        const Inside inside = inside_of(b, h, w);
        double* to = totals + (h * p.kernel[2] + w) * p.c * lanes;
        if (inside.rows <= 0 || inside.columns <= 0) continue;
        for (int64_t block = 0; block < g.blocks; ++block) {
          const A* from = inside.x + block * x_block;
          channels<VECTORS, SPREAD>(from, inside, least(lanes, p.c - block * lanes), to + block * lanes * lanes);
        }
      }
  }

  // Where a tap reads inside x: so many rows and columns of y, from y's pixel and x's on.
  struct Inside {
    int64_t rows, columns;
    const A *x, *y;
  };

  Inside inside_of(const Band& b, int64_t h, int64_t w) const {
    const int64_t down = h * p.dilation[1] - p.pad[1], across = w * p.dilation[2] - p.pad[2];
    const auto from = [](int64_t offset, int64_t stride) { return offset < 0 ? over(-offset, stride) : 0; };
    const auto to = [](int64_t offset, int64_t stride, int64_t size) {
      return size > offset ? over(size - offset, stride) : 0;
    };
    const int64_t row = most(b.first, from(down, p.stride[1])), column = from(across, p.stride[2]);
    const int64_t rows = least(b.first + b.count, to(down, p.stride[1], p.input[1])) - row;
    const int64_t columns = least(p.output[2], to(across, p.stride[2], p.input[2])) - column;
    const int64_t x_row = row * p.stride[1] + down - b.x_first, x_column = column * p.stride[2] + across;
    return {rows, columns, x + (x_row * p.input[2] + x_column) * lanes,
            y + ((row - b.first) * p.output[2] + column) * lanes};
  }

  template <int VECTORS, int COUNT>
  void channels(const A* from, const Inside& inside, int64_t count, double* to) const {
    for (; count >= COUNT; count -= COUNT, from += COUNT, to += COUNT * lanes) tile<VECTORS, COUNT>(from, inside, to);
    if constexpr (COUNT > 1)
      if (count > 0) channels<VECTORS, COUNT / 2>(from, inside, count, to);
  }

  template <int VECTORS, int COUNT>
  CONVEXT_INLINE void tile(const A* from, const Inside& inside, double* to) const {
    Vector<A> sums[COUNT][VECTORS];
    unrolled<COUNT>(CONVEXT_EACH(c) { unrolled<VECTORS>(CONVEXT_EACH(v) { sums[c.value][v.value] = Vector<A>{}; }); });
    const int64_t step = p.stride[2] * lanes;
    for (int64_t r = 0; r < inside.rows; ++r) {
      const A* pixel = from + r * p.stride[1] * p.input[2] * lanes;
      const A* gradient = inside.y + r * p.output[2] * lanes;
      for (int64_t i = 0; i < inside.columns; ++i, pixel += step, gradient += lanes) {
        Vector<A> ys[VECTORS];
        unrolled<VECTORS>(CONVEXT_EACH(v) { ys[v.value] = held(load(gradient + v.value * y_vector)); });
        unrolled<COUNT>(CONVEXT_EACH(c) {
          const Vector<A> value = held(broadcast(pixel[c.value]));
          unrolled<VECTORS>(CONVEXT_EACH(v) { sums[c.value][v.value] += value * ys[v.value]; });
        });
      }
    }
    unrolled<COUNT>(CONVEXT_EACH(c) {
      unrolled<VECTORS>(
          CONVEXT_EACH(v) { add_to<A>(to + v.value * g.of_vector + c.value * lanes, sums[c.value][v.value]); });
    });
  }
};

template <class T>
void dense_wgrad_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  DenseWgradJob<T> thread(call, scratch);
  for (int64_t job = first; job < last; ++job) thread.run(job);
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
