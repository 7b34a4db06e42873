// Depthwise wgrad with compile-time taps: all taps of a channel in one pass over x and y, in registers.
//
// A thread walks down strips of rows of one channel (or of one vector of channels). It keeps the last SLOTS rows of y,
// reads each row of x once as a window, and adds their products to COUNT sums:
//
//      w[a, b]  +=  sum over v of  x[row, v * stride + b * dilation - pad] * y[(row + pad - a * dilation) / stride, v]
//
// A block sums its threads in a fixed order and writes one float32 partial; a second kernel adds the partials of all
// blocks of a channel, in order. There are no atomics: equal inputs give equal bits.
#pragma once
#include "stencil/launch.h"
#include "stencil/tile.cuh"

namespace convext {

constexpr int WGRAD_THREADS = 128, WGRAD_WARPS = WGRAD_THREADS / WARP;
constexpr int WGRAD_LANES = 16;       // most threads of a block that lie along the channels
constexpr int WGRAD_MOST_SUMS = 112;  // sums a thread keeps in registers

// Channels of a thread in NHWC: as many as its registers hold, at most a 16-byte vector.
template <class T, class Taps>
constexpr int wgrad_channels() {
  int channels = VECTOR_BYTES / sizeof(T);
  while (channels > 1 && channels * Taps::COUNT > WGRAD_MOST_SUMS) channels /= 2;
  return channels;
}

struct WgradArguments {
  View x, y;
  float* partial;  // [splits, channels, taps]
  int x_size[AXES], y_size[AXES], pad[AXES], depth_stride, depth_dilation;
  int rows;  // rows of y that a thread takes at a time
  int channels, lanes;
  unsigned items;  // strips of one channel
  Divisor by_column, by_strip, by_depth;
};

// Adds the products of one window of an operand with the rows of the other that it meets: of x with y, or, TRANSPOSED,
// of y with x.
template <class Tile, class Taps, bool TRANSPOSED>
__device__ __forceinline__ void correlate(
    float (&sum)[Taps::COUNT][Tile::CHANNELS], const float (&window)[Tile::WINDOW][Tile::CHANNELS],
    const float (&rows)[Rows<Taps, TRANSPOSED>::SLOTS][Tile::COLUMNS][Tile::CHANNELS], int kd, int phase) {
  using Shape = Rows<Taps, TRANSPOSED>;
  CONVEXT_UNROLL
  for (int slot = 0; slot < Shape::SLOTS; ++slot) {
    const int a = Shape::tap(slot, phase);
    if (a < 0) continue;
    CONVEXT_UNROLL
    for (int b = 0; b < Taps::WIDTH; ++b) {
      CONVEXT_UNROLL
      for (int v = 0; v < Tile::COLUMNS; ++v) {
        const int j = Tile::Geometry::element(v, b);
        if (j < 0) continue;
        CONVEXT_UNROLL
        for (int channel = 0; channel < Tile::CHANNELS; ++channel)
          sum[(kd * Taps::HEIGHT + a) * Taps::WIDTH + b][channel] += window[j][channel] * rows[slot][v][channel];
      }
    }
  }
}

// One strip of rows of y, against plane kd of the taps.
template <class Tile, class Taps>
__device__ __forceinline__ void correlate_strip(const WgradArguments& p, const typename Tile::T* x,
                                                const typename Tile::T* y, int first_row, int first_column, int kd,
                                                float (&sum)[Taps::COUNT][Tile::CHANNELS]) {
  using Shape = Rows<Taps, false>;
  const int origin = first_column * Taps::STRIDE - (p.pad[2] - Tile::PAD);
  const int end_row = min(first_row + p.rows, p.y_size[1]);
  int x_row = first_row * Taps::STRIDE - p.pad[1];
  float kept[Shape::SLOTS][Tile::COLUMNS][Tile::CHANNELS] = {};
  for (int y_row = first_row; y_row < end_row + Shape::WARM_UP; ++y_row) {
    move_up<1>(kept);
    Tile::load_columns(y + y_row * p.y.stride[3], p.y.stride[4], first_column, y_row < end_row ? p.y_size[2] : 0,
                       kept[Shape::SLOTS - 1]);
    CONVEXT_UNROLL
    for (int phase = 0; phase < Shape::IN; ++phase, ++x_row) {
      if (x_row < 0 || x_row >= p.x_size[1]) continue;
      float window[Tile::WINDOW][Tile::CHANNELS];
      Tile::load_window(x + x_row * p.x.stride[3], p.x.stride[4], origin, p.x_size[2], window);
      correlate<Tile, Taps, false>(sum, window, kept, kd, phase);
    }
  }
}

// Sums over the threads of a block that share a channel, into the block's share of `partial`: [splits, channels,
// COUNT].
template <int COUNT, int CHANNELS>
__device__ __forceinline__ void write_partial(float (&sum)[COUNT][CHANNELS], float* partial, int channels, int lanes,
                                              int channel) {
  __shared__ float of_warp[WGRAD_WARPS][COUNT * CHANNELS][WGRAD_LANES];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  CONVEXT_UNROLL
  for (int i = 0; i < COUNT * CHANNELS; ++i) {
    float value = sum[i / CHANNELS][i % CHANNELS];
    for (int distance = WARP / 2; distance >= lanes; distance /= 2)
      value += __shfl_xor_sync(FULL_WARP, value, distance);
    if (lane < lanes) of_warp[warp][i][lane] = value;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < COUNT * CHANNELS * lanes; i += WGRAD_THREADS) {
    const int which = i / lanes, source = i % lanes;
    const int owner = channel + (source - threadIdx.x % lanes) * CHANNELS + which % CHANNELS;
    if (owner >= channels) continue;
    float total = 0;
    for (int w = 0; w < WGRAD_WARPS; ++w) total += of_warp[w][which][source];
    partial[(static_cast<int64_t>(blockIdx.y) * channels + owner) * COUNT + which / CHANNELS] = total;
  }
}

template <class Tile, class Taps>
__global__ void __launch_bounds__(WGRAD_THREADS) stencil_wgrad_kernel(const WgradArguments p) {
  using T = typename Tile::T;
  const int lane = threadIdx.x % p.lanes;
  const int channel = (static_cast<int>(blockIdx.x) * p.lanes + lane) * Tile::CHANNELS;
  const unsigned step = gridDim.y * (WGRAD_THREADS / p.lanes);
  float sum[Taps::COUNT][Tile::CHANNELS] = {};
  for (unsigned item = blockIdx.y * (WGRAD_THREADS / p.lanes) + threadIdx.x / p.lanes;
       item < p.items && channel < p.channels; item += step) {
    unsigned index = item;
    const int first_column = p.by_column.take(index) * Tile::COLUMNS;
    const int first_row = p.by_strip.take(index) * p.rows;
    const int depth = p.by_depth.take(index);
    const int64_t n = index;
    const T* x = static_cast<const T*>(p.x.data) + n * p.x.stride[0] + channel * p.x.stride[1];
    const T* y = static_cast<const T*>(p.y.data) + n * p.y.stride[0] + channel * p.y.stride[1] + depth * p.y.stride[2];
    CONVEXT_UNROLL
    for (int kd = 0; kd < Taps::DEPTH; ++kd) {
      const int plane = depth * p.depth_stride + kd * p.depth_dilation - p.pad[0];
      if (plane >= 0 && plane < p.x_size[0])
        correlate_strip<Tile, Taps>(p, x + plane * p.x.stride[2], y, first_row, first_column, kd, sum);
    }
  }
  write_partial(sum, p.partial, p.channels, p.lanes, channel);
}

}  // namespace convext
