// From a depthwise problem to a launch: which compiled taps, which tile, how many rows a thread.
#pragma once
#include <algorithm>

#include "shared/reduce.cuh"
#include "stencil/general.cuh"
#include "stencil/stencil.cuh"
#include "stencil/wgrad.cuh"

namespace convext {

// The taps that have kernels of their own, KD x KH x KW, stride, dilation, padding of the width.
template <class... Each>
struct TapsList {};
using CompiledTaps = TapsList<Taps<1, 3, 3, 1, 1, 1>, Taps<1, 3, 3, 2, 1, 1>, Taps<1, 3, 3, 1, 2, 2>,
                              Taps<1, 5, 5, 1, 1, 2>, Taps<1, 7, 7, 1, 1, 3>,                           // 2-D
                              Taps<3, 3, 3, 1, 1, 1>,                                                   // 3-D
                              Taps<1, 1, 3, 1, 1, 2>, Taps<1, 1, 4, 1, 1, 3>, Taps<1, 1, 5, 1, 1, 2>>;  // 1-D

template <class Taps>
bool has_taps(const Problem& p) {
  const auto dilated = [&p](int axis) { return p.kernel[axis] == 1 ? Taps::DILATION : p.dilation[axis]; };
  return p.k == p.c && p.kernel[0] == Taps::DEPTH && p.kernel[1] == Taps::HEIGHT && p.kernel[2] == Taps::WIDTH &&
         p.stride[1] == Taps::STRIDE && p.stride[2] == Taps::STRIDE && dilated(1) == Taps::DILATION &&
         dilated(2) == Taps::DILATION;
}

// Rows a thread walks down: many, so that each is read once, but few enough that `others` x strips fill a GPU.
inline int strip_rows(int64_t others, int rows) {
  constexpr int64_t ENOUGH_THREADS = 1 << 17;  // half of what 132 multiprocessors hold
  int strip = 32;
  while (strip > 4 && others * ceil_div(rows, strip) < ENOUGH_THREADS) strip /= 2;
  return strip;
}

// Threads along the channels: a power of two.
inline int channel_lanes(int vectors, int most) {
  int lanes = 1;
  while (lanes < vectors && lanes < most) lanes *= 2;
  return lanes;
}

inline unsigned count_items(int64_t items, const char* kernel) {
  check(items < (int64_t(1) << 31), kernel, ": expected fewer than 2147483648 tiles, but got ", items);
  return static_cast<unsigned>(items);
}

// All but `lanes`; `items` are those of one channel.
template <class Tile, class Taps, bool TRANSPOSED>
StencilArguments stencil_arguments(const Problem& p, const View& source, const View& weight, const void* bias,
                                   const Ending& ending, const View& result) {
  const int (&size)[AXES] = TRANSPOSED ? p.input : p.output;
  StencilArguments a{};
  a.source = source, a.weight = weight, a.result = result, a.bias = bias, a.ending = ending;
  for (int axis = 0; axis < AXES; ++axis) {
    a.source_size[axis] = TRANSPOSED ? p.output[axis] : p.input[axis];
    a.result_size[axis] = size[axis];
    a.pad[axis] = p.pad[axis];
  }
  a.depth_stride = p.stride[0], a.depth_dilation = p.dilation[0];
  a.channels = p.c;
  a.channel_first = result.stride[1] == 1;
  a.row_shift = TRANSPOSED ? p.pad[1] % Taps::STRIDE : 0;
  a.column_shift = TRANSPOSED ? (p.pad[2] - Tile::PAD) % Taps::STRIDE : 0;

  const int columns = ceil_div(size[2] + a.column_shift, Tile::COLUMNS);
  const int64_t others = int64_t(p.n) * size[0] * columns * (p.c / Tile::CHANNELS);
  a.rows = strip_rows(others, size[1]);
  const int strips = ceil_div(size[1] + a.row_shift, a.rows);
  a.by_channel = Divisor(p.c), a.by_column = Divisor(columns), a.by_strip = Divisor(strips);
  a.by_depth = Divisor(size[0]);
  a.items = count_items(int64_t(p.n) * size[0] * columns * strips, "stencil");
  return a;
}

template <class Tile, class Taps, bool TRANSPOSED>
void launch_stencil(const Problem& p, const View& source, const View& weight, const void* bias, const Ending& ending,
                    const View& result, Stream stream) {
  StencilArguments a = stencil_arguments<Tile, Taps, TRANSPOSED>(p, source, weight, bias, ending, result);
  const bool lanes = Tile::CHANNELS > 1;
  a.lanes = lanes ? channel_lanes(p.c / Tile::CHANNELS, CHANNEL_LANES) : 1;
  if (!lanes) a.items = count_items(int64_t(a.items) * p.c, "stencil");
  const int kept = STENCIL_THREADS * Tile::COLUMNS * Tile::CHANNELS * int(sizeof(float));
  const int shared = ending.any ? weight_bytes<Tile, Taps>(CHANNEL_LANES) + kept : weight_bytes<Tile, Taps>(a.lanes);
  const dim3 grid = grid_of((int64_t(a.items) * a.lanes + STENCIL_THREADS - 1) / STENCIL_THREADS,
                            lanes ? ceil_div(p.c / Tile::CHANNELS, a.lanes) : 1, "stencil");
  check_launch(launch(stencil_kernel<Tile, Taps, TRANSPOSED>, grid, STENCIL_THREADS, shared, stream, a), "stencil");
}

// Chooses the tile by what the strides and sizes allow.
template <class T, class Taps, bool TRANSPOSED>
bool stencil_with(const Problem& p, const View& source, const View& weight, const void* bias, const Ending& ending,
                  const View& result, Stream stream) {
  if (!has_taps<Taps>(p)) return false;
  using Row = RowTile<T, Taps, TRANSPOSED>;
  using Channel = ChannelTile<T, Taps, TRANSPOSED>;
  const auto all_have_vectors = [&](int axis, int source_length, int result_length, int elements) {
    const View& residual = ending.residual;
    return has_vectors<T>(source, axis, source_length, elements) &&
           has_vectors<T>(result, axis, result_length, elements) &&
           (!residual.data || has_vectors<T>(residual, axis, result_length, elements));
  };
  const int vector = VECTOR_BYTES / sizeof(T), width = 1 + AXES, *from = TRANSPOSED ? p.output : p.input,
            *to = TRANSPOSED ? p.input : p.output;
  if (all_have_vectors(1, p.c, p.c, vector))
    launch_stencil<Channel, Taps, TRANSPOSED>(p, source, weight, bias, ending, result, stream);
  else if (p.pad[2] == Taps::PAD && all_have_vectors(width, from[2], to[2], vector))
    launch_stencil<Row, Taps, TRANSPOSED>(p, source, weight, bias, ending, result, stream);
  else
    launch_stencil<ScalarTile<T, Taps, TRANSPOSED>, Taps, TRANSPOSED>(p, source, weight, bias, ending, result, stream);
  return true;
}

template <class T, bool TRANSPOSED, class... Each>
bool stencil_compiled(TapsList<Each...>, const Problem& p, const View& source, const View& weight, const void* bias,
                      const Ending& ending, const View& result, Stream stream) {
  return (stencil_with<T, Each, TRANSPOSED>(p, source, weight, bias, ending, result, stream) || ...);
}

template <class T>
void stencil_general(const Problem& p, const View& source, const View& weight, const void* bias, const Ending& ending,
                     const View& result, Stream stream) {
  const bool forward = p.face == Face::fprop;
  GeneralArguments a{p,  forward ? source : result, weight, forward ? result : source, bias, ending, nullptr, false,
                     p.n};
  a.channel_first = result.stride[1] == 1;
  for (int axis = 0; axis < AXES; ++axis) a.results *= forward ? p.output[axis] : p.input[axis];
  a.results *= forward ? p.k : p.c;
  const dim3 grid = grid_of((a.results + GENERAL_THREADS - 1) / GENERAL_THREADS, 1, "stencil (general)");
  const auto kernel = forward ? stencil_fprop_general_kernel<T> : stencil_dgrad_general_kernel<T>;
  check_launch(launch(kernel, grid, GENERAL_THREADS, 0, stream, a), "stencil (general)");
}

template <class T>
void stencil(const Problem& p, const View& source, const View& weight, const void* bias, const Ending& ending,
             const View& result, Stream stream) {
  const bool done = p.face == Face::fprop
                        ? stencil_compiled<T, false>(CompiledTaps(), p, source, weight, bias, ending, result, stream)
                        : stencil_compiled<T, true>(CompiledTaps(), p, source, weight, bias, ending, result, stream);
  if (!done) stencil_general<T>(p, source, weight, bias, ending, result, stream);
}

// ------------------------------------------------------------------------------------------------------------- wgrad

// The blocks that share the sums of the same channels: enough to fill a GPU, each with products enough to be worth it.
inline int wgrad_splits(const Problem& p, int channel_blocks) {
  constexpr int64_t BLOCKS = 1024, LEAST_OUTPUTS = 4096;  // of the grid; of a block
  const int64_t outputs = int64_t(p.n) * p.k * p.output[0] * p.output[1] * p.output[2];
  return static_cast<int>(std::max<int64_t>(1, std::min(BLOCKS, outputs / LEAST_OUTPUTS) / channel_blocks));
}

template <class Tile, class Taps>
void launch_stencil_wgrad(const Problem& p, const View& x, const View& y, const Allocate& allocate, const View& result,
                          Stream stream) {
  WgradArguments a{};
  a.x = x, a.y = y;
  for (int axis = 0; axis < AXES; ++axis)
    a.x_size[axis] = p.input[axis], a.y_size[axis] = p.output[axis], a.pad[axis] = p.pad[axis];
  a.depth_stride = p.stride[0], a.depth_dilation = p.dilation[0];
  const int columns = ceil_div(p.output[2], Tile::COLUMNS), vectors = ceil_div(p.c, Tile::CHANNELS);
  a.rows = strip_rows(int64_t(p.n) * p.output[0] * columns * vectors, p.output[1]);
  const int strips = ceil_div(p.output[1], a.rows);
  a.channels = p.c;
  a.lanes = x.stride[1] == 1 ? channel_lanes(vectors, WGRAD_LANES) : 1;
  a.items = count_items(int64_t(p.n) * p.output[0] * columns * strips, "stencil_wgrad");
  a.by_column = Divisor(columns), a.by_strip = Divisor(strips), a.by_depth = Divisor(p.output[0]);
  const int channel_blocks = ceil_div(vectors, a.lanes), splits = wgrad_splits(p, channel_blocks);
  a.partial = allocate(splits);
  const dim3 grid = grid_of(channel_blocks, splits, "stencil_wgrad");
  check_launch(launch(stencil_wgrad_kernel<Tile, Taps>, grid, WGRAD_THREADS, 0, stream, a), "stencil_wgrad");
  sum_partials<typename Tile::T>(p, a.partial, splits, result, stream);
}

template <class T, class Taps>
bool stencil_wgrad_with(const Problem& p, const View& x, const View& y, const Allocate& allocate, const View& result,
                        Stream stream) {
  if (!has_taps<Taps>(p)) return false;
  constexpr int channels = wgrad_channels<T, Taps>();
  const auto both_have_vectors = [&](int axis, int x_length, int y_length, int elements) {
    return has_vectors<T>(x, axis, x_length, elements) && has_vectors<T>(y, axis, y_length, elements);
  };
  const int vector = VECTOR_BYTES / sizeof(T), width = 1 + AXES;
  if (channels > 1 && both_have_vectors(1, p.c, p.c, channels))
    launch_stencil_wgrad<ChannelTile<T, Taps, false, channels>, Taps>(p, x, y, allocate, result, stream);
  else if (p.pad[2] == Taps::PAD && both_have_vectors(width, p.input[2], p.output[2], vector))
    launch_stencil_wgrad<RowTile<T, Taps, false>, Taps>(p, x, y, allocate, result, stream);
  else
    launch_stencil_wgrad<ScalarTile<T, Taps, false>, Taps>(p, x, y, allocate, result, stream);
  return true;
}

template <class T, class... Each>
bool stencil_wgrad_compiled(TapsList<Each...>, const Problem& p, const View& x, const View& y, const Allocate& allocate,
                            const View& result, Stream stream) {
  return (stencil_wgrad_with<T, Each>(p, x, y, allocate, result, stream) || ...);
}

template <class T>
void stencil_wgrad_general(const Problem& p, const View& x, const View& y, const Allocate& allocate, const View& result,
                           Stream stream) {
  const int splits = wgrad_splits(p, p.k);
  const GeneralArguments a{p, x, result, y, nullptr, {}, allocate(splits), false, 0};
  const dim3 grid = grid_of(int64_t(p.k) * taps(p), splits, "stencil_wgrad (general)");
  check_launch(launch(stencil_wgrad_general_kernel<T>, grid, GENERAL_THREADS, 0, stream, a), "stencil_wgrad (general)");
  sum_partials<T>(p, a.partial, splits, result, stream);
}

template <class T>
void stencil_wgrad(const Problem& p, const View& x, const View& y, const Allocate& allocate, const View& result,
                   Stream stream) {
  if (!stencil_wgrad_compiled<T>(CompiledTaps(), p, x, y, allocate, result, stream))
    stencil_wgrad_general<T>(p, x, y, allocate, result, stream);
}

}  // namespace convext
