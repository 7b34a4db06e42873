// The operands of the product: where the elements of a tile lie in memory. The main loop (csrc/igemm/igemm.cuh) is one;
// a family is a choice of two of these.
//
//     GatheredRows     A of fprop and dgrad: a row is a pixel, the reduction is taps x channels
//     Weights          B of fprop and dgrad
//     PixelReduction   A and B of wgrad: the reduction is pixels
//
// For each major index of its tile an operand makes a `Cursor` once, and from it the address of the elements at each
// step of the reduction; null where they are zeros.
#pragma once
#include "igemm/problem.h"
#include "shared/number.cuh"

namespace convext {

struct GemmDivisors {
  Divisor row_tiles, column_tiles, taps;  // of the block index
  Divisor rows[AXES];                     // of a pixel
  Divisor tap_height, tap_width;          // of a tap, wgrad
};

struct GemmArguments {
  GemmProblem problem;
  GemmDivisors by;
};

// Where the block's tile is.
struct BlockTile {
  int group, first_row, first_column, split;
  int tap[AXES];  // wgrad: the one whose weights the block sums
};

// A position in the reduction of fprop and dgrad: u-th tap of each axis, channel.
struct TapStep {
  int tap[AXES] = {0, 0, 0}, channel = 0;

  __device__ void advance(const GemmProblem& p, int step) {
    channel += step;
    if (channel < p.channels) return;
    channel = 0;
    for (int axis = AXES - 1; axis >= 0; --axis) {
      if (++tap[axis] < p.axis[axis].taps) return;
      tap[axis] = 0;
    }
  }
};

// A position in the reduction of wgrad.
struct PixelStep {
  int64_t pixel = 0;

  __device__ void advance(const GemmProblem&, int step) { pixel += step; }
};

__device__ __forceinline__ int find_pixel(const GemmArguments& g, unsigned index, int (&row)[AXES]) {
  for (int axis = AXES - 1; axis >= 0; --axis) row[axis] = g.by.rows[axis].take(index);
  return static_cast<int>(index);  // n
}

template <class T>
struct GatheredRows {
  struct Cursor {
    const T* image;  // null beyond the last pixel
    int origin[AXES];
  };
  const GemmArguments& g;
  const BlockTile& block;

  __device__ int64_t minor_stride() const { return g.problem.a.stride[1]; }
  __device__ int minor_end() const { return g.problem.channels; }

  __device__ Cursor begin(int major) const {
    const GemmProblem& p = g.problem;
    Cursor cursor{nullptr, {0, 0, 0}};
    const int64_t pixel = int64_t(block.first_row) + major;
    if (pixel >= p.pixels) return cursor;
    int row[AXES];
    const int n = find_pixel(g, static_cast<unsigned>(pixel), row);
    for (int axis = 0; axis < AXES; ++axis)
      cursor.origin[axis] = row[axis] * p.axis[axis].row_step + p.axis[axis].row_offset;
    cursor.image =
        static_cast<const T*>(p.a.data) + n * p.a.stride[0] + int64_t(block.group) * p.channels * p.a.stride[1];
    return cursor;
  }

  __device__ const T* find(const Cursor& cursor, int, int minor, const TapStep& step) const {
    const T* address = cursor.image;
    for (int axis = 0; axis < AXES; ++axis) {
      const int at = cursor.origin[axis] + step.tap[axis] * g.problem.axis[axis].tap_step;
      if (at < 0 || at >= g.problem.axis[axis].size) return nullptr;
      address += at * g.problem.a.stride[2 + axis];
    }
    return cursor.image ? address + (step.channel + minor) * minor_stride() : nullptr;
  }

  __device__ int minor_position(int minor, const TapStep& step) const { return step.channel + minor; }
};

// w [k, c / groups, taps], read along c. For fprop its rows are the product's columns, for dgrad the reduction.
template <class T, bool REDUCTION_MINOR>
struct Weights2d {
  struct Cursor {
    int k;  // negative: beyond the last column
  };
  const GemmArguments& g;
  const BlockTile& block;

  __device__ int64_t minor_stride() const { return g.problem.b.stride[1]; }
  __device__ int minor_end() const { return REDUCTION_MINOR ? g.problem.channels : g.problem.columns; }

  __device__ Cursor begin(int major) const {
    const GemmProblem& p = g.problem;
    const int k = REDUCTION_MINOR ? block.first_column + major : major;
    const int group = block.group * (REDUCTION_MINOR ? p.columns : p.channels);
    const bool inside = !REDUCTION_MINOR || k < p.columns;
    return {inside ? group + k : -1};
  }

  __device__ const T* find(const Cursor& cursor, int major, int minor, const TapStep& step) const {
    const GemmProblem& p = g.problem;
    if (cursor.k < 0 || (!REDUCTION_MINOR && step.channel + major >= p.channels)) return nullptr;
    const int64_t k = cursor.k + (REDUCTION_MINOR ? 0 : step.channel);
    const T* address =
        static_cast<const T*>(p.b.data) + k * p.b.stride[0] + minor_position(minor, step) * minor_stride();
    for (int axis = 0; axis < AXES; ++axis)
      address += (p.axis[axis].first_tap + step.tap[axis] * p.axis[axis].tap_stride) * p.b.stride[2 + axis];
    return address;
  }

  __device__ int minor_position(int minor, const TapStep& step) const {
    return REDUCTION_MINOR ? step.channel + minor : block.first_column + minor;
  }
};

// A pixel of y (the rows k), or what tap `block.tap` of it reads in x (the columns c).
template <class T, bool GATHERED>
struct PixelReduction {
  struct Cursor {};
  const GemmArguments& g;
  const BlockTile& block;

  __device__ const View& view() const { return GATHERED ? g.problem.a : g.problem.b; }
  __device__ int64_t minor_stride() const { return view().stride[1]; }
  __device__ int minor_end() const { return GATHERED ? g.problem.columns : g.problem.rows; }

  __device__ Cursor begin(int) const { return {}; }

  __device__ const T* find(const Cursor&, int major, int minor, const PixelStep& step) const {
    const GemmProblem& p = g.problem;
    const int64_t pixel = step.pixel + major;
    const int64_t end = min(p.pixels, (int64_t(block.split) + 1) * p.pixels_of_a_split);
    if (pixel >= end) return nullptr;
    int row[AXES];
    const int n = find_pixel(g, static_cast<unsigned>(pixel), row);
    const int64_t channel = int64_t(block.group) * minor_end() + minor_position(minor, step);
    const T* address = static_cast<const T*>(view().data) + n * view().stride[0] + channel * view().stride[1];
    for (int axis = 0; axis < AXES; ++axis) {
      const GemmAxis& a = p.axis[axis];
      const int at = GATHERED ? row[axis] * a.row_step + a.row_offset + block.tap[axis] * a.tap_step : row[axis];
      if (at < 0 || (GATHERED && at >= a.size)) return nullptr;
      address += at * view().stride[2 + axis];
    }
    return address;
  }

  __device__ int minor_position(int minor, const PixelStep&) const {
    return (GATHERED ? block.first_column : block.first_row) + minor;
  }
};

}  // namespace convext
