// Which tap joins which row and column of a stencil: every index below is known at compile time.
//
// A thread computes COLUMNS neighbouring columns of the result and walks down its rows. It reads each row of the source
// once, as a window of WINDOW columns, adds what that row gives to all result rows that it touches, and stores the rows
// that are then complete:
//
//      source row                 accumulators, SLOTS rows of the result
//      [ window ]  --- taps --->  [ slot 0 ]   complete: stored, and all slots move up
//                                 [ slot 1 ]
//                                 [ slot 2 ]   receives its first tap
//
// fprop gathers: a step takes STRIDE source rows and completes one. dgrad (TRANSPOSED) scatters: a step takes one
// source row and completes STRIDE. So no filter is flipped and no zeros are inserted.
#pragma once
#include "shared/device.cuh"

namespace convext {

// Compile-time taps. STRIDE and DILATION hold for height and width alike. PAD is that of the width, for tiles of
// 16-byte vectors along it, whose windows have to start at a known distance from an aligned address.
template <int KD, int KH, int KW, int STRIDE_, int DILATION_, int PAD_>
struct Taps {
  static constexpr int DEPTH = KD, HEIGHT = KH, WIDTH = KW, COUNT = KD * KH * KW;
  static constexpr int STRIDE = STRIDE_, DILATION = DILATION_, PAD = PAD_;
  static_assert(KD >= 1 && KH >= 1 && KW >= 1 && STRIDE >= 1 && DILATION >= 1 && PAD >= 0, "not a convolution");
};

template <class Taps, bool TRANSPOSED>
struct Rows {
  static constexpr int EXTENT = (Taps::HEIGHT - 1) * Taps::DILATION + 1;
  static constexpr int IN = TRANSPOSED ? 1 : Taps::STRIDE;   // source rows of a step
  static constexpr int OUT = TRANSPOSED ? Taps::STRIDE : 1;  // result rows that a step completes
  static constexpr int SLOTS = TRANSPOSED ? (EXTENT > OUT ? EXTENT : OUT) : ceil_div(EXTENT, IN);
  static constexpr int WARM_UP = ceil_div(SLOTS, OUT) - 1;  // steps before the first complete row

  // The row of taps that joins source row `phase` of a step to accumulator `slot`, or -1.
  __host__ __device__ static constexpr int tap(int slot, int phase) {
    const int distance = TRANSPOSED ? slot : (SLOTS - 1 - slot) * IN + phase;
    return distance % Taps::DILATION == 0 && distance / Taps::DILATION < Taps::HEIGHT ? distance / Taps::DILATION : -1;
  }
};

// PAD: the padding that the tile's first column still has in front of it; 0 where tiles are placed so that there is
// none.
template <class Taps, bool TRANSPOSED, int COLUMNS, int PAD>
struct Columns {
  static_assert(!TRANSPOSED || COLUMNS % Taps::STRIDE == 0, "a transposed tile holds every phase of the stride");

  // Whether tap b of result column v reads a source column, and its distance from the tile's origin.
  __host__ __device__ static constexpr bool reads(int v, int b) {
    return !TRANSPOSED || modulo(v + PAD - b * Taps::DILATION) == 0;
  }
  __host__ __device__ static constexpr int offset(int v, int b) {
    return TRANSPOSED ? floor_div(v + PAD - b * Taps::DILATION, Taps::STRIDE)
                      : v * Taps::STRIDE + b * Taps::DILATION - PAD;
  }
  __host__ __device__ static constexpr int extreme(bool last) {
    int result = last ? -(1 << 30) : 1 << 30;
    for (int v = 0; v < COLUMNS; ++v)
      for (int b = 0; b < Taps::WIDTH; ++b)
        if (reads(v, b) && (offset(v, b) > result) == last) result = offset(v, b);
    return result;
  }
  static constexpr int FIRST = extreme(false), WINDOW = extreme(true) - FIRST + 1;

  // The window's element that tap b of result column v reads, or -1.
  __host__ __device__ static constexpr int element(int v, int b) { return reads(v, b) ? offset(v, b) - FIRST : -1; }

 private:
  __host__ __device__ static constexpr int modulo(int a) { return ((a % Taps::STRIDE) + Taps::STRIDE) % Taps::STRIDE; }
};

}  // namespace convext
