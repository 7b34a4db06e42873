// From a problem to launches of the product: its phases, the shape of a tile, the way operands are copied.
#pragma once
#include <algorithm>
#include <numeric>

#include "igemm/igemm.cuh"
#include "shared/reduce.cuh"

namespace convext {

template <class T>
using LargeTile = GemmShape<T, 128, 128, 64, 64, 3>;
template <class T>
using SmallTile = GemmShape<T, 64, 64, 32, 32, 4>;

inline GemmProblem fprop_problem(const Problem& p, const View& x, const View& w, const void* bias, const Ending& ending,
                                 const View& y) {
  GemmProblem g{};
  g.a = x, g.b = w, g.result = y, g.bias = bias, g.ending = ending, g.groups = p.groups, g.n = p.n;
  g.columns = p.k / p.groups, g.channels = p.c / p.groups;
  for (int axis = 0; axis < AXES; ++axis)
    g.axis[axis] = {
        p.output[axis], p.stride[axis], -p.pad[axis], p.dilation[axis], p.input[axis], p.kernel[axis], 0, 1, 1, 0};
  return g;
}

// One axis of one phase: the inputs i with i + pad = `phase` modulo the stride. With s the stride and d the dilation,
// tap t of input i comes from output (i + pad - t d) / s, where that is whole.
inline GemmAxis dgrad_axis(int input, int output, int kernel, int s, int pad, int d, int phase) {
  const int tap_stride = s / std::gcd(s, d);
  int first_tap = 0;
  while (first_tap < tap_stride && first_tap * int64_t(d) % s != phase) ++first_tap;
  const bool reached = first_tap < tap_stride && first_tap < kernel;
  const int first_input = ((phase - pad) % s + s) % s;
  GemmAxis a{};
  a.rows = first_input < input ? ceil_div(input - first_input, s) : 0;
  a.row_step = 1, a.row_offset = reached ? (first_input + pad - first_tap * d) / s : 0;
  a.tap_step = -(tap_stride * d / s);
  a.size = output;
  a.taps = reached ? ceil_div(kernel - first_tap, tap_stride) : 0;
  a.first_tap = first_tap, a.tap_stride = tap_stride;
  a.result_step = s, a.result_offset = first_input;
  return a;
}

inline GemmProblem dgrad_problem(const Problem& p, const View& y, const View& w, const void* bias, const Ending& ending,
                                 const View& x, const int (&phase)[AXES]) {
  GemmProblem g{};
  g.a = y, g.b = w, g.result = x, g.bias = bias, g.ending = ending, g.groups = p.groups, g.n = p.n;
  g.columns = p.c / p.groups, g.channels = p.k / p.groups;
  for (int axis = 0; axis < AXES; ++axis)
    g.axis[axis] = dgrad_axis(p.input[axis], p.output[axis], p.kernel[axis], p.stride[axis], p.pad[axis],
                              p.dilation[axis], phase[axis]);
  return g;
}

inline GemmProblem wgrad_problem(const Problem& p, const View& x, const View& y, float* partial, int splits) {
  GemmProblem g = fprop_problem(p, x, y, nullptr, {}, View{});
  g.partial = partial;
  g.rows = p.k / p.groups, g.columns = p.c / p.groups, g.channels = 1;
  const int64_t pixels = int64_t(p.n) * p.output[0] * p.output[1] * p.output[2];
  g.pixels_of_a_split = static_cast<int>((pixels + splits - 1) / splits);
  return g;
}

template <class T, class Shape, class Reduction, class Factors, bool VECTORS>
void launch_igemm(GemmProblem p, int splits, Stream stream) {
  using TileA = OperandTile<T, Shape, Shape::BM, Reduction::A_REDUCTION_MINOR>;
  using TileB = OperandTile<T, Shape, Shape::BN, Reduction::B_REDUCTION_MINOR>;
  constexpr size_t shared = sizeof(T) * Shape::STAGES * (TileA::ELEMENTS + TileB::ELEMENTS);
  static_assert(shared <= 99 << 10, "a block's shared memory on every architecture since sm_80");
  GemmArguments g{p, {}};
  const int taps = p.axis[0].taps * p.axis[1].taps * p.axis[2].taps;
  const int rows = Reduction::PARTIAL ? p.rows : static_cast<int>(p.pixels);
  const int row_tiles = ceil_div(rows, Shape::BM), column_tiles = ceil_div(p.columns, Shape::BN);
  g.by.row_tiles = Divisor(row_tiles), g.by.column_tiles = Divisor(column_tiles);
  g.by.taps = Divisor(std::max(taps, 1));
  for (int axis = 0; axis < AXES; ++axis) g.by.rows[axis] = Divisor(p.axis[axis].rows);
  g.by.tap_height = Divisor(std::max(p.axis[1].taps, 1)), g.by.tap_width = Divisor(std::max(p.axis[2].taps, 1));
  const int64_t blocks = int64_t(p.groups) * row_tiles * column_tiles * (Reduction::PARTIAL ? taps : 1);
  const auto kernel = igemm_kernel<T, Shape, Reduction, Factors, VECTORS>;
  if (shared > 48 << 10) check_launch(allow_shared(kernel, shared), "igemm");
  check_launch(launch(kernel, grid_of(blocks, splits, "igemm"), Shape::THREADS, shared, stream, g), "igemm");
}

// Chooses how operands are copied, and a tile: a large one where there are enough of them to fill a GPU.
template <class T, class Reduction, class Factors>
void igemm_with(GemmProblem p, int a_channels, int b_channels, int splits, Stream stream) {
  constexpr int64_t MANY_TILES = 132;
  constexpr int vector = VECTOR_BYTES / sizeof(T);
  p.pixels = int64_t(p.n) * p.axis[0].rows * p.axis[1].rows * p.axis[2].rows;
  check(p.pixels < (int64_t(1) << 31), "igemm: expected fewer than 2147483648 pixels, but got ", p.pixels);
  if (p.pixels == 0) return;
  const int64_t rows = Reduction::PARTIAL ? p.rows : p.pixels;
  const int64_t large_tiles = (rows / 128) * (p.columns / 128) * p.groups * splits;
  if (!has_vectors<T>(p.a, 1, a_channels, vector) || !has_vectors<T>(p.b, 1, b_channels, vector))
    launch_igemm<T, SmallTile<T>, Reduction, Factors, false>(p, splits, stream);
  else if (large_tiles >= MANY_TILES)
    launch_igemm<T, LargeTile<T>, Reduction, Factors, true>(p, splits, stream);
  else
    launch_igemm<T, SmallTile<T>, Reduction, Factors, true>(p, splits, stream);
}

template <class T, class Factors>
void igemm_with(const Problem& p, const View& a, const View& b, const void* bias, const Ending& ending, float* partial,
                const View& result, Stream stream) {
  const int c = p.c / p.groups, k = p.k / p.groups;
  if (p.face == Face::fprop) {
    igemm_with<T, OverTaps<T, true>, Factors>(fprop_problem(p, a, b, bias, ending, result), c, c, 1, stream);
  } else if (p.face == Face::dgrad) {
    int phase[AXES];
    for (phase[0] = 0; phase[0] < p.stride[0]; ++phase[0])
      for (phase[1] = 0; phase[1] < p.stride[1]; ++phase[1])
        for (phase[2] = 0; phase[2] < p.stride[2]; ++phase[2])
          igemm_with<T, OverTaps<T, false>, Factors>(dgrad_problem(p, a, b, bias, ending, result, phase), k, c, 1,
                                                     stream);
  } else {
    const int splits = igemm_wgrad_splits(p);
    igemm_with<T, OverPixels<T>, Factors>(wgrad_problem(p, a, b, partial, splits), c, k, splits, stream);
    sum_partials<T>(p, partial, splits, result, stream);
  }
}

}  // namespace convext
