// Depthwise dgrad and wgrad in one kernel, with compile-time taps: what a training step wants of an fprop. `y` is the
// gradient of the output. Both gradients multiply the same elements of it:
//
//      x'[i]  =  sum over t of  w[t] * y[(i + pad - t * dilation) / stride]
//      w'[t]  =  sum over i of  x[i] * y[(i + pad - t * dilation) / stride]
//
// A thread walks down strips of x' as in csrc/stencil/stencil.cuh. Beside the accumulators of SLOTS rows of x' it keeps
// the same rows of x; each window of y, read once, meets both:
//
//                         w      [ x' slot 0 ]   complete: stored, and all slots move up
//      y  [ window ]  ------->   [ x' slot 1 ]
//              |                 [ x' slot 2 ]   receives its first tap
//              |          x
//              +------------->   w'[t], all taps     until the block's last strip
//
// So three tensors cross the bus, y and x in and x' out; dgrad (y, x') and wgrad (x, y) move four. Of x a thread reads
// its own positions alone: rows beyond its strip count as 0, and each product is formed by one thread. As in
// csrc/stencil/wgrad.cuh a block serves the same channels throughout and writes one float32 partial of w'.
#pragma once
#include "stencil/stencil.cuh"
#include "stencil/wgrad.cuh"

namespace convext {

struct BackwardArguments {
  StencilArguments dgrad;  // source y, result x'; `items` are those of one group of lanes, `by_channel` is not used
  View x;
  float* partial;  // [splits, channels, taps]
};

// Of the floats that a thread keeps; addresses and conversions take up to 50 registers more.
constexpr int BACKWARD_MOST_FLOATS = 170;

// For each channel the sums of w', a row of x' and one of x for each slot, a window; and the weights, where they are
// not in shared memory.
template <class Tile, class Taps>
constexpr int backward_floats() {
  return Tile::CHANNELS * (Taps::COUNT + 2 * Rows<Taps, true>::SLOTS * Tile::COLUMNS + Tile::WINDOW) +
         (Tile::CHANNELS > 1 ? 0 : Taps::COUNT);
}

// Elements of a tile's vectors: 16 bytes, or as much as registers allow.
template <template <class, class, bool, int> class Tile, class T, class Taps, int VECTOR = VECTOR_BYTES / sizeof(T)>
constexpr int backward_vector() {
  static_assert(VECTOR > 1, "these taps leave no vectors");
  if constexpr (backward_floats<Tile<T, Taps, true, VECTOR>, Taps>() <= BACKWARD_MOST_FLOATS)
    return VECTOR;
  else
    return backward_vector<Tile, T, Taps, VECTOR / 2>();
}

// The sums of w' that a thread forms from the windows of y which dgrad reads.
template <class Tile, class Taps>
struct WeightSums {
  using T = typename Tile::T;
  using Shape = Rows<Taps, true>;

  const StencilArguments& dgrad;
  const View& x;
  const T* plane;
  int first_row, first_column;
  float sum[Taps::COUNT][Tile::CHANNELS];
  float rows[Shape::SLOTS][Tile::COLUMNS][Tile::CHANNELS];  // of x, where dgrad accumulates x'

  __device__ void start(const StencilItem& item) {
    plane =
        static_cast<const T*>(x.data) + item.n * x.stride[0] + item.channel * x.stride[1] + item.depth * x.stride[2];
    first_row = max(item.first_row, 0), first_column = item.first_column;
    move_up<Shape::SLOTS>(rows);  // all 0
  }

  __device__ void next_rows(int row, int end_row) {
    move_up<Shape::OUT>(rows);
    CONVEXT_UNROLL
    for (int slot = Shape::SLOTS - Shape::OUT; slot < Shape::SLOTS; ++slot) {
      const bool own = row + slot >= first_row && row + slot < end_row;
      Tile::load_columns(plane + (row + slot) * x.stride[3], x.stride[4], first_column, own ? dgrad.result_size[2] : 0,
                         rows[slot]);
    }
  }

  __device__ void see(const float (&window)[Tile::WINDOW][Tile::CHANNELS], int kd, int phase) {
    correlate<Tile, Taps, true>(sum, window, rows, kd, phase);
  }

  __device__ void finish(const StencilArguments&, const T*, int, float (&)[Tile::COLUMNS][Tile::CHANNELS]) {}
};

template <class Tile, class Taps>
__global__ void __launch_bounds__(WGRAD_THREADS, 2) stencil_backward_kernel(const BackwardArguments p) {
  CONVEXT_DYNAMIC_SHARED(shared);
  const StencilArguments& dgrad = p.dgrad;
  const int first_channel = blockIdx.x * dgrad.lanes * Tile::CHANNELS;
  Weights<Tile, Taps> weights;
  weights.stage(dgrad, shared, first_channel);

  WeightSums<Tile, Taps> sums{dgrad, p.x};
  StencilItem item;
  item.channel = first_channel + threadIdx.x % dgrad.lanes * Tile::CHANNELS;
  if (item.channel < dgrad.channels) {
    weights.read(dgrad, shared, item.channel);
    const unsigned together = WGRAD_THREADS / dgrad.lanes;
    for (unsigned i = blockIdx.y * together + threadIdx.x / dgrad.lanes; i < dgrad.items; i += gridDim.y * together) {
      unsigned index = i;
      take_tile<Tile>(dgrad, index, item);
      item.n = static_cast<int>(index);
      sums.start(item);
      walk_strip<Tile, Taps, true>(dgrad, item, weights, sums);
    }
  }
  write_partial(sums.sum, p.partial, dgrad.channels, dgrad.lanes, item.channel);
}

}  // namespace convext
