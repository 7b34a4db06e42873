// From a depthwise dgrad, and the x whose wgrad is wanted too, to one launch: which compiled taps, which tile.
#pragma once
#include "stencil/backward.cuh"
#include "stencil/launch.cuh"

namespace convext {

template <class Tile, class Taps>
void launch_stencil_backward(const Problem& p, const View& y, const View& w, const View& x, const Allocate& allocate,
                             const View& dx, const View& dw, Stream stream) {
  BackwardArguments a{stencil_arguments<Tile, Taps, true>(p, y, w, nullptr, {}, dx), x, nullptr};
  const int vectors = ceil_div(p.c, Tile::CHANNELS);
  a.dgrad.lanes = dx.stride[1] == 1 ? channel_lanes(vectors, WGRAD_LANES) : 1;
  const int channel_blocks = ceil_div(vectors, a.dgrad.lanes), splits = wgrad_splits(p, channel_blocks);
  a.partial = allocate(splits);
  const size_t shared = weight_bytes<Tile, Taps>(a.dgrad.lanes);
  const dim3 grid = grid_of(channel_blocks, splits, "stencil_backward");
  check_launch(launch(stencil_backward_kernel<Tile, Taps>, grid, WGRAD_THREADS, shared, stream, a), "stencil_backward");
  sum_partials<typename Tile::T>(p, a.partial, splits, dw, stream);
}

// Chooses the tile by what the strides and sizes allow.
template <class T, class Taps>
bool stencil_backward_with(const Problem& p, const View& y, const View& w, const View& x, const Allocate& allocate,
                           const View& dx, const View& dw, Stream stream) {
  if (!has_taps<Taps>(p)) return false;
  constexpr int channels = backward_vector<ChannelTile, T, Taps>(), columns = backward_vector<RowTile, T, Taps>();
  const auto all_have_vectors = [&](int axis, int y_length, int x_length, int elements) {
    return has_vectors<T>(y, axis, y_length, elements) && has_vectors<T>(x, axis, x_length, elements) &&
           has_vectors<T>(dx, axis, x_length, elements);
  };
  const int width = 1 + AXES;
  if (all_have_vectors(1, p.c, p.c, channels))
    launch_stencil_backward<ChannelTile<T, Taps, true, channels>, Taps>(p, y, w, x, allocate, dx, dw, stream);
  else if (p.pad[2] == Taps::PAD && all_have_vectors(width, p.output[2], p.input[2], columns))
    launch_stencil_backward<RowTile<T, Taps, true, columns>, Taps>(p, y, w, x, allocate, dx, dw, stream);
  else
    launch_stencil_backward<ScalarTile<T, Taps, true>, Taps>(p, y, w, x, allocate, dx, dw, stream);
  return true;
}

template <class T, class... Each>
bool stencil_backward_compiled(TapsList<Each...>, const Problem& p, const View& y, const View& w, const View& x,
                               const Allocate& allocate, const View& dx, const View& dw, Stream stream) {
  return (stencil_backward_with<T, Each>(p, y, w, x, allocate, dx, dw, stream) || ...);
}

template <class T>
bool stencil_backward(const Problem& p, const View& y, const View& w, const View& x, const Allocate& allocate,
                      const View& dx, const View& dw, Stream stream) {
  return stencil_backward_compiled<T>(CompiledTaps(), p, y, w, x, allocate, dx, dw, stream);
}

}  // namespace convext
