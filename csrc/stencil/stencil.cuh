// Depthwise fprop and dgrad with compile-time taps, in one, two and three dimensions (csrc/stencil/geometry.cuh has the
// picture). One thread computes COLUMNS x CHANNELS x `rows` results of one plane; weights, accumulators and the window
// stay in registers (for vectors of channels, the weights of a block's channels lie in shared memory).
#pragma once
#include "shared/epilogue.cuh"
#include "stencil/launch.h"
#include "stencil/tile.cuh"

namespace convext {

constexpr int STENCIL_THREADS = 128;
constexpr int CHANNEL_LANES = 16;  // most threads of a block that lie along the channels

struct StencilArguments {
  View source, weight, result;
  const void* bias;
  Ending ending;
  int source_size[AXES], result_size[AXES], pad[AXES], depth_stride, depth_dilation;
  int rows;                     // result rows of a thread
  int row_shift, column_shift;  // by how much the first tile begins before the tensor, so that phases line up
  int channels;
  unsigned items;      // threads' worth of work; for vectors of channels, of one group of lanes
  bool channel_first;  // neighbouring threads take neighbouring channels, not columns
  int lanes;           // for vectors of channels: threads along them
  Divisor by_channel, by_column, by_strip, by_depth;
};

// The piece of the result that one thread computes.
struct StencilItem {
  int n, channel, depth, first_row, first_column;
};

// Takes the tile's place in its plane, innermost first, out of `index`.
template <class Tile>
__device__ __forceinline__ void take_tile(const StencilArguments& p, unsigned& index, StencilItem& item) {
  item.first_column = p.by_column.take(index) * Tile::COLUMNS - p.column_shift;
  item.first_row = p.by_strip.take(index) * p.rows - p.row_shift;
  item.depth = p.by_depth.take(index);
}

template <class Tile>
__device__ __forceinline__ bool find_item(const StencilArguments& p, StencilItem& item) {
  constexpr bool LANES = Tile::CHANNELS > 1;
  const unsigned thread = blockIdx.x * (STENCIL_THREADS / p.lanes) + threadIdx.x / p.lanes;
  unsigned index = thread;
  if (LANES) item.channel = (blockIdx.y * p.lanes + threadIdx.x % p.lanes) * Tile::CHANNELS;
  if (!LANES && p.channel_first) item.channel = p.by_channel.take(index);
  take_tile<Tile>(p, index, item);
  if (!LANES && !p.channel_first) item.channel = p.by_channel.take(index);
  item.n = static_cast<int>(index);
  return thread < p.items && item.channel < p.channels;
}

// Bytes of shared memory that `Weights` takes.
template <class Tile, class Taps>
__host__ __device__ constexpr int weight_bytes(int lanes) {
  return Tile::CHANNELS > 1 ? int(sizeof(float)) * (Taps::COUNT + 1) * lanes * Tile::CHANNELS : 0;
}

// One channel's weights and its bias, in registers.
template <class Tile, class Taps, bool CHANNEL_VECTORS = (Tile::CHANNELS > 1)>
struct Weights {
  float value[Taps::COUNT], bias;

  __device__ void stage(const StencilArguments&, const unsigned char*, int) {}

  __device__ void read(const StencilArguments& p, const unsigned char*, int channel) {
    using T = typename Tile::T;
    bias = p.bias ? to_float(static_cast<const T*>(p.bias)[channel]) : 0;
    const T* from = static_cast<const T*>(p.weight.data) + channel * p.weight.stride[0];
    CONVEXT_UNROLL
    for (int tap = 0; tap < Taps::COUNT; ++tap)
      value[tap] = to_float(
          from[tap / Taps::WIDTH / Taps::HEIGHT * p.weight.stride[2] +
               tap / Taps::WIDTH % Taps::HEIGHT * p.weight.stride[3] + tap % Taps::WIDTH * p.weight.stride[4]]);
  }

  __device__ void get(int tap, float (&weight)[1]) const { weight[0] = value[tap]; }
  __device__ void get_bias(float (&to)[1]) const { to[0] = bias; }
};

// Those of all channels of a block in shared memory, float [taps + 1][lanes * CHANNELS]; the last row is the bias.
template <class Tile, class Taps>
struct Weights<Tile, Taps, true> {
  static constexpr int PART = Tile::CHANNELS < 4 ? Tile::CHANNELS : 4;  // floats of one access to shared memory

  const float* own;
  int pitch;

  // `first`: the block's first channel.
  __device__ void stage(const StencilArguments& p, unsigned char* shared, int first) {
    float* staged = reinterpret_cast<float*>(shared);
    pitch = p.lanes * Tile::CHANNELS;
    using T = typename Tile::T;
    const T *from = static_cast<const T*>(p.weight.data), *bias = static_cast<const T*>(p.bias);
    for (int i = threadIdx.x; i < (Taps::COUNT + 1) * pitch; i += STENCIL_THREADS) {
      const int tap = i / pitch, channel = first + i % pitch;
      if (channel >= p.channels) continue;
      if (tap == Taps::COUNT)
        staged[i] = bias ? to_float(bias[channel]) : 0;
      else
        staged[i] = to_float(
            from[channel * p.weight.stride[0] + tap / Taps::WIDTH / Taps::HEIGHT * p.weight.stride[2] +
                 tap / Taps::WIDTH % Taps::HEIGHT * p.weight.stride[3] + tap % Taps::WIDTH * p.weight.stride[4]]);
    }
    __syncthreads();
  }

  __device__ void read(const StencilArguments& p, const unsigned char* shared, int) {
    own = reinterpret_cast<const float*>(shared) + threadIdx.x % p.lanes * Tile::CHANNELS;
  }

  __device__ void get(int tap, float (&weight)[Tile::CHANNELS]) const {
    CONVEXT_UNROLL
    for (int i = 0; i < Tile::CHANNELS; i += PART) {
      float part[PART];
      load<float, PART>(own + tap * pitch + i, part);
      CONVEXT_UNROLL
      for (int j = 0; j < PART; ++j) weight[i + j] = part[j];
    }
  }

  __device__ void get_bias(float (&bias)[Tile::CHANNELS]) const { get(Taps::COUNT, bias); }
};

// The source plane that tap kd of the depth reads for result plane `depth`, or -1.
template <bool TRANSPOSED>
__device__ __forceinline__ int source_plane(const StencilArguments& p, int depth, int kd) {
  int plane;
  if (TRANSPOSED) {
    const int scaled = depth + p.pad[0] - kd * p.depth_dilation;
    if (scaled < 0 || scaled % p.depth_stride != 0) return -1;
    plane = scaled / p.depth_stride;
  } else {
    plane = depth * p.depth_stride + kd * p.depth_dilation - p.pad[0];
  }
  return plane < p.source_size[0] ? plane : -1;
}

// Adds what row `phase` of a step, seen through tap plane kd, gives to every accumulator.
template <class Tile, class Taps, bool TRANSPOSED, class Accumulator>
__device__ __forceinline__ void accumulate(Accumulator& sum, const float (&window)[Tile::WINDOW][Tile::CHANNELS],
                                           const Weights<Tile, Taps>& weights, int kd, int phase) {
  using Shape = Rows<Taps, TRANSPOSED>;
  CONVEXT_UNROLL
  for (int slot = 0; slot < Shape::SLOTS; ++slot) {
    const int a = Shape::tap(slot, phase);
    if (a < 0) continue;
    CONVEXT_UNROLL
    for (int b = 0; b < Taps::WIDTH; ++b) {
      float weight[Tile::CHANNELS];
      weights.get((kd * Taps::HEIGHT + a) * Taps::WIDTH + b, weight);
      CONVEXT_UNROLL
      for (int v = 0; v < Tile::COLUMNS; ++v) {
        const int j = Tile::Geometry::element(v, b);
        if (j < 0) continue;
        CONVEXT_UNROLL
        for (int channel = 0; channel < Tile::CHANNELS; ++channel)
          sum[slot][v][channel] += weight[channel] * window[j][channel];
      }
    }
  }
}

// What else there is to a walk down a strip than sums: here what follows them, in csrc/stencil/backward.cuh the
// weights' gradient.
template <class Tile>
struct Finish {
  using T = typename Tile::T;

  float2* kept;  // where this block's threads keep sums meanwhile

  __device__ void next_rows(int, int) {}
  template <class Window>
  __device__ void see(const Window&, int, int) {}

  // `to`: the row's first column in the result. The residual lies as that does, `beside` it.
  __device__ void finish(const StencilArguments& p, const T* to, int first_column,
                         float (&sum)[Tile::COLUMNS][Tile::CHANNELS]) {
    if (!p.ending.any) return;
    constexpr int STEP = Tile::TOGETHER < 2 ? 1 : 2;
    const void* residual = p.ending.residual.data;
    const intptr_t beside = static_cast<const char*>(residual) - static_cast<const char*>(p.result.data);
    const auto read = [&](int i, float (&added)[STEP]) {
      const int column = first_column + i / Tile::CHANNELS;
      if (!residual || static_cast<unsigned>(column) >= static_cast<unsigned>(p.result_size[2])) return;
      const T* own = to + column * p.result.stride[4] + i % Tile::CHANNELS;
      load<T, STEP>(reinterpret_cast<const T*>(reinterpret_cast<intptr_t>(own) + beside), added);
    };
    convext::finish<STENCIL_THREADS, Tile::TOGETHER>(p.ending.epilogue, sum, kept + this_thread(), read);
  }
};

// Computes and stores one item. Before each step, `also` learns which result rows the accumulators stand for and where
// the strip ends; then it sees each window, and finishes each row that is complete.
template <class Tile, class Taps, bool TRANSPOSED, class Also>
__device__ __forceinline__ void walk_strip(const StencilArguments& p, const StencilItem& item,
                                           const Weights<Tile, Taps>& weights, Also& also) {
  using T = typename Tile::T;
  using Shape = Rows<Taps, TRANSPOSED>;
  const T* source =
      static_cast<const T*>(p.source.data) + item.n * p.source.stride[0] + item.channel * p.source.stride[1];
  T* result = static_cast<T*>(p.result.data) + item.n * p.result.stride[0] + item.channel * p.result.stride[1] +
              item.depth * p.result.stride[2];

  // The tile's origin in the source, and the source rows of the first step. Tiles without PAD begin where the
  // padding is a multiple of the stride, so these divisions are exact.
  const int column = item.first_column + (p.pad[2] - Tile::PAD) * (TRANSPOSED ? 1 : 0);
  const int origin = TRANSPOSED ? column / Taps::STRIDE : column * Taps::STRIDE - (p.pad[2] - Tile::PAD);
  int source_row = TRANSPOSED ? (item.first_row + p.pad[1]) / Taps::STRIDE - Shape::WARM_UP
                              : item.first_row * Taps::STRIDE - p.pad[1];
  const T* planes[Taps::DEPTH];
  CONVEXT_UNROLL
  for (int kd = 0; kd < Taps::DEPTH; ++kd) {
    const int plane = source_plane<TRANSPOSED>(p, item.depth, kd);
    planes[kd] = plane < 0 ? nullptr : source + plane * p.source.stride[2];
  }
  const int start_row = TRANSPOSED ? max(item.first_row, 0) : item.first_row;
  const int end_row = min(item.first_row + p.rows, p.result_size[1]);

  float sum[Shape::SLOTS][Tile::COLUMNS][Tile::CHANNELS] = {};
  for (int row = item.first_row - Shape::WARM_UP * Shape::OUT; row < end_row; row += Shape::OUT) {
    also.next_rows(row, end_row);
    CONVEXT_UNROLL
    for (int phase = 0; phase < Shape::IN; ++phase, ++source_row) {
      if (source_row < 0 || source_row >= p.source_size[1]) continue;
      CONVEXT_UNROLL
      for (int kd = 0; kd < Taps::DEPTH; ++kd) {
        if (!planes[kd]) continue;
        float window[Tile::WINDOW][Tile::CHANNELS];
        Tile::load_window(planes[kd] + source_row * p.source.stride[3], p.source.stride[4], origin, p.source_size[2],
                          window);
        accumulate<Tile, Taps, TRANSPOSED>(sum, window, weights, kd, phase);
        also.see(window, kd, phase);
      }
    }
    CONVEXT_UNROLL
    for (int slot = 0; slot < Shape::OUT; ++slot) {
      if (row + slot < start_row || row + slot >= end_row) continue;
      float bias[Tile::CHANNELS];
      weights.get_bias(bias);
      CONVEXT_UNROLL
      for (int v = 0; v < Tile::COLUMNS; ++v) {
        CONVEXT_UNROLL
        for (int channel = 0; channel < Tile::CHANNELS; ++channel) sum[slot][v][channel] += bias[channel];
      }
      T* to = result + (row + slot) * p.result.stride[3];
      also.finish(p, to, item.first_column, sum[slot]);
      Tile::store_columns(to, p.result.stride[4], item.first_column, p.result_size[2], sum[slot]);
    }
    move_up<Shape::OUT>(sum);
  }
}

template <class Tile, class Taps, bool TRANSPOSED>
__global__ void __launch_bounds__(STENCIL_THREADS) stencil_kernel(const StencilArguments p) {
  CONVEXT_DYNAMIC_SHARED(shared);
  Weights<Tile, Taps> weights;
  weights.stage(p, shared, blockIdx.y * p.lanes * Tile::CHANNELS);
  StencilItem item;
  if (!find_item<Tile>(p, item)) return;
  weights.read(p, shared, item.channel);
  Finish<Tile> finish{reinterpret_cast<float2*>(shared + weight_bytes<Tile, Taps>(CHANNEL_LANES))};
  walk_strip<Tile, Taps, TRANSPOSED>(p, item, weights, finish);
}

}  // namespace convext
