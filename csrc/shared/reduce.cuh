// The second stage of every wgrad: adds float32 partial sums, in order, so that equal inputs give equal bits.
#pragma once
#include "shared/launch.h"
#include "shared/number.cuh"
#include "shared/problem.h"

namespace convext {

constexpr int SUM_SLICES = 8, SUM_THREADS = SUM_SLICES * WARP;  // a warp takes every eighth partial of 32 weights

struct SumArguments {
  const float* partial;  // [splits, k, c / groups, taps]
  int splits, channels;  // channels: c / groups
  int64_t count;         // k * c / groups * taps
  int kernel[AXES];
  View result;
};

template <class T>
__global__ void __launch_bounds__(SUM_THREADS) sum_partials_kernel(const SumArguments p) {
  __shared__ float of_slice[SUM_SLICES][WARP];
  const int lane = threadIdx.x % WARP, slice = threadIdx.x / WARP;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * WARP + lane;
  float total = 0;
  if (i < p.count)
    for (int split = slice; split < p.splits; split += SUM_SLICES) total += p.partial[split * p.count + i];
  of_slice[slice][lane] = total;
  __syncthreads();
  if (slice > 0 || i >= p.count) return;
  for (int other = 1; other < SUM_SLICES; ++other) total += of_slice[other][lane];
  int64_t rest = i;
  int tap[AXES];
  for (int axis = AXES - 1; axis >= 0; --axis) {
    tap[axis] = static_cast<int>(rest % p.kernel[axis]);
    rest /= p.kernel[axis];
  }
  T* result =
      static_cast<T*>(p.result.data) + rest / p.channels * p.result.stride[0] + rest % p.channels * p.result.stride[1];
  for (int axis = 0; axis < AXES; ++axis) result += tap[axis] * p.result.stride[2 + axis];
  *result = from_float<T>(total);
}

template <class T>
void sum_partials(const Problem& p, const float* partial, int splits, const View& result, Stream stream) {
  SumArguments a{partial, splits, p.c / p.groups, int64_t(p.k) * (p.c / p.groups) * taps(p), {}, result};
  for (int axis = 0; axis < AXES; ++axis) a.kernel[axis] = p.kernel[axis];
  const dim3 grid = grid_of((a.count + WARP - 1) / WARP, 1, "sum_partials");
  check_launch(launch(sum_partials_kernel<T>, grid, SUM_THREADS, 0, stream, a), "sum_partials");
}

}  // namespace convext
