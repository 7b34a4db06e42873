// What a thread of a stencil holds: how its vectors lie in memory.
//
//     RowTile      NCHW: vectors along the width, of 16 bytes where registers allow, one channel
//     ChannelTile  NHWC: vectors along the channels, two columns
//     ScalarTile   any strides, any width: single elements
//
// A tile loads windows of source columns (as float, zero outside the tensor) and stores result columns. Of these
// TOGETHER neighbours lie side by side in memory, and are all inside or all outside of the tensor.
#pragma once
#include "shared/number.cuh"
#include "stencil/geometry.cuh"

namespace convext {

template <class T_, class Taps, bool TRANSPOSED, int VECTOR_ = VECTOR_BYTES / sizeof(T_)>
struct RowTile {
  using T = T_;
  static constexpr int VECTOR = VECTOR_, TOGETHER = VECTOR;
  static constexpr int CHANNELS = 1, COLUMNS = TRANSPOSED ? VECTOR * Taps::STRIDE : VECTOR, PAD = Taps::PAD;
  using Geometry = Columns<Taps, TRANSPOSED, COLUMNS, PAD>;
  static constexpr int WINDOW = Geometry::WINDOW;

  // The window in whole vectors: those from the one that holds its first column to the one that holds its last.
  static constexpr int LEAD = Geometry::FIRST - floor_div(Geometry::FIRST, VECTOR) * VECTOR;
  static constexpr int CHUNKS = ceil_div(LEAD + WINDOW, VECTOR);
  static_assert(VECTOR * int(sizeof(T)) <= VECTOR_BYTES, "one access of at most 16 bytes");

  __device__ static void load_window(const T* row, int64_t, int origin, int width, float (&window)[WINDOW][1]) {
    CONVEXT_UNROLL
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const int column = origin + Geometry::FIRST - LEAD + chunk * VECTOR;
      float values[VECTOR] = {};
      if (column >= 0 && column < width) load<T, VECTOR>(row + column, values);
      CONVEXT_UNROLL
      for (int i = 0; i < VECTOR; ++i) {
        const int j = chunk * VECTOR + i - LEAD;
        if (j >= 0 && j < WINDOW) window[j][0] = values[i];
      }
    }
  }

  __device__ static void load_columns(const T* row, int64_t, int first, int width, float (&columns)[COLUMNS][1]) {
    CONVEXT_UNROLL
    for (int chunk = 0; chunk < COLUMNS; chunk += VECTOR) {
      float values[VECTOR] = {};
      if (first + chunk < width) load<T, VECTOR>(row + first + chunk, values);
      CONVEXT_UNROLL
      for (int i = 0; i < VECTOR; ++i) columns[chunk + i][0] = values[i];
    }
  }

  __device__ static void store_columns(T* row, int64_t, int first, int width, const float (&columns)[COLUMNS][1]) {
    CONVEXT_UNROLL
    for (int chunk = 0; chunk < COLUMNS; chunk += VECTOR) {
      float values[VECTOR];
      CONVEXT_UNROLL
      for (int i = 0; i < VECTOR; ++i) values[i] = columns[chunk + i][0];
      if (first + chunk < width) store<T, VECTOR>(row + first + chunk, values);
    }
  }
};

template <class T_, class Taps, bool TRANSPOSED, int CHANNELS_, int COLUMNS_>
struct StridedTile {
  using T = T_;
  static constexpr int CHANNELS = CHANNELS_, COLUMNS = COLUMNS_, PAD = 0, TOGETHER = CHANNELS;
  using Geometry = Columns<Taps, TRANSPOSED, COLUMNS, PAD>;
  static constexpr int WINDOW = Geometry::WINDOW;
  static_assert(CHANNELS * int(sizeof(T)) <= VECTOR_BYTES, "one access of at most 16 bytes");

  __device__ static void load_window(const T* row, int64_t stride, int origin, int width,
                                     float (&window)[WINDOW][CHANNELS]) {
    load_run<WINDOW>(row, stride, origin + Geometry::FIRST, width, window);
  }

  __device__ static void load_columns(const T* row, int64_t stride, int first, int width,
                                      float (&columns)[COLUMNS][CHANNELS]) {
    load_run<COLUMNS>(row, stride, first, width, columns);
  }

  __device__ static void store_columns(T* row, int64_t stride, int first, int width,
                                       const float (&columns)[COLUMNS][CHANNELS]) {
    CONVEXT_UNROLL
    for (int v = 0; v < COLUMNS; ++v) {
      const int column = first + v;
      if (column >= 0 && column < width) store<T, CHANNELS>(row + column * stride, columns[v]);
    }
  }

 private:
  template <int LENGTH>
  __device__ static void load_run(const T* row, int64_t stride, int first, int width, float (&run)[LENGTH][CHANNELS]) {
    CONVEXT_UNROLL
    for (int j = 0; j < LENGTH; ++j) {
      const int column = first + j;
      CONVEXT_UNROLL
      for (int channel = 0; channel < CHANNELS; ++channel) run[j][channel] = 0;
      if (column >= 0 && column < width) load<T, CHANNELS>(row + column * stride, run[j]);
    }
  }
};

template <class T, class Taps, bool TRANSPOSED, int CHANNELS = VECTOR_BYTES / sizeof(T)>
using ChannelTile = StridedTile<T, Taps, TRANSPOSED, CHANNELS, 2>;

template <class T, class Taps, bool TRANSPOSED>
using ScalarTile = StridedTile<T, Taps, TRANSPOSED, 1, TRANSPOSED ? Taps::STRIDE : 1>;

// Every row moves up by BY slots; the rows that become free are 0.
template <int BY, int SLOTS, int COLUMNS, int CHANNELS>
__device__ __forceinline__ void move_up(float (&rows)[SLOTS][COLUMNS][CHANNELS]) {
  CONVEXT_UNROLL
  for (int slot = 0; slot < SLOTS; ++slot) {
    CONVEXT_UNROLL
    for (int v = 0; v < COLUMNS; ++v) {
      CONVEXT_UNROLL
      for (int channel = 0; channel < CHANNELS; ++channel)
        rows[slot][v][channel] = slot + BY < SLOTS ? rows[slot + BY][v][channel] : 0;
    }
  }
}

}  // namespace convext
