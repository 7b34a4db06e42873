// Dense, dilated, pointwise, grouped and transposed convolution as one matrix product: result[row, column] = sum over
// the reduction of A * B, for each group.
//
//     face    row             column   reduction        A               B
//     fprop   pixel of y      k        tap, c           x, gathered     w [k, tap, c]
//     dgrad   pixel of x      c        tap, k           y, gathered     w [k, tap, c]
//     wgrad   k               c (tap)  pixel of y       y               x, gathered
//
// On every axis the gathered tensor is read at
//
//     row * row_step + row_offset + tap * tap_step
//
// which for fprop and wgrad is the index equation itself. dgrad with a stride s falls apart into s phases an axis, the
// inputs i with one remainder of i + pad: only every (s / gcd(s, dilation))-th tap reaches them, and the outputs that
// they read are again equally spaced. So a transposed convolution is this product once for each phase, on dense tiles.
#pragma once
#include "shared/epilogue.cuh"
#include "shared/launch.h"
#include "shared/problem.h"

namespace convext {

struct GemmAxis {
  int rows;                            // pixels along the axis
  int row_step, row_offset, tap_step;  // as above
  int size;                            // of the gathered tensor; beyond it are zeros
  int taps, first_tap, tap_stride;     // the kernel's taps that take part: first_tap + u * tap_stride
  int result_step, result_offset;      // where pixel `row` lies in the result
};

struct GemmProblem {
  View a, b, result;
  const void* bias;  // one a column, or null
  Ending ending;
  float* partial;  // wgrad: [splits, k, c / groups, taps]
  int groups, n;
  int rows, columns;      // of a group
  int channels;           // of a group, in the reduction; 1 for wgrad
  int64_t pixels;         // n * the axes' rows
  int pixels_of_a_split;  // wgrad
  GemmAxis axis[AXES];
};

// How float32 factors are multiplied; 16-bit factors are always exact.
enum class Precision : int { tf32, tf32x3 };

// `partial` holds `igemm_wgrad_splits(p)` sums [k, c / groups, taps]. `T` is float, half or bfloat16.
int igemm_wgrad_splits(const Problem& p);

template <class T>
void igemm(const Problem& p, const View& a, const View& b, const void* bias, const Ending& ending, float* partial,
           const View& result, Precision precision, Stream stream);

}  // namespace convext
