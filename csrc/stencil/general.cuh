// Depthwise convolution with any taps, stride, dilation and channel multiplier: one result a thread, or, for wgrad, one
// weight a block. Neighbouring threads take neighbouring memory, so accesses are coalesced, but each input is read once
// a tap. The common shapes have their own kernels (csrc/stencil/stencil.cuh, csrc/stencil/wgrad.cuh).
#pragma once
#include "shared/epilogue.cuh"
#include "shared/reduce.cuh"
#include "stencil/launch.h"

namespace convext {

constexpr int GENERAL_THREADS = 128;

struct GeneralArguments {
  Problem problem;
  View x, w, y;  // the face's operands and its result
  const void* bias;
  Ending ending;
  float* partial;  // wgrad: [splits, k, taps]
  bool channel_first;
  int64_t results;
};

// Position of one element of a tensor.
struct Index {
  int n, channel, at[AXES];
};

__device__ __forceinline__ Index unravel(int64_t i, const int (&size)[AXES], int channels, bool channel_first) {
  Index index;
  const auto take = [&i](int extent) {
    const int rest = static_cast<int>(i % extent);
    i /= extent;
    return rest;
  };
  if (channel_first) index.channel = take(channels);
  for (int axis = AXES - 1; axis >= 0; --axis) index.at[axis] = take(size[axis]);
  if (!channel_first) index.channel = take(channels);
  index.n = static_cast<int>(i);
  return index;
}

__device__ __forceinline__ int64_t offset(const View& view, int64_t n, int64_t channel, const int (&at)[AXES]) {
  int64_t result = n * view.stride[0] + channel * view.stride[1];
  for (int axis = 0; axis < AXES; ++axis) result += at[axis] * view.stride[2 + axis];
  return result;
}

__device__ __forceinline__ void tap_position(const Problem& p, int tap, int (&t)[AXES]) {
  t[2] = tap % p.kernel[2];
  t[1] = tap / p.kernel[2] % p.kernel[1];
  t[0] = tap / p.kernel[2] / p.kernel[1];
}

// The input that tap t of output o reads; false where it lies in the padding.
__device__ __forceinline__ bool find_input(const Problem& p, const int (&o)[AXES], const int (&t)[AXES],
                                           int (&i)[AXES]) {
  for (int axis = 0; axis < AXES; ++axis) {
    i[axis] = o[axis] * p.stride[axis] + t[axis] * p.dilation[axis] - p.pad[axis];
    if (i[axis] < 0 || i[axis] >= p.input[axis]) return false;
  }
  return true;
}

// The output that reads input i through tap t; false where none does.
__device__ __forceinline__ bool find_output(const Problem& p, const int (&i)[AXES], const int (&t)[AXES],
                                            int (&o)[AXES]) {
  for (int axis = 0; axis < AXES; ++axis) {
    const int scaled = i[axis] + p.pad[axis] - t[axis] * p.dilation[axis];
    if (scaled < 0 || scaled % p.stride[axis] != 0) return false;
    o[axis] = scaled / p.stride[axis];
    if (o[axis] >= p.output[axis]) return false;
  }
  return true;
}

// What follows a sum, and its place in the result. The bias is added last: each term that a large one is added to would
// be rounded to its last place.
template <class T>
__device__ __forceinline__ void finish(const GeneralArguments& a, const View& result, const Index& index, float sum) {
  if (a.bias) sum += to_float(static_cast<const T*>(a.bias)[index.channel]);
  if (a.ending.any) {
    const View& residual = a.ending.residual;
    const T* from = static_cast<const T*>(residual.data);
    sum = activated(a.ending.epilogue, sum);
    if (from) sum += to_float(from[offset(residual, index.n, index.channel, index.at)]);
  }
  static_cast<T*>(result.data)[offset(result, index.n, index.channel, index.at)] = from_float<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(GENERAL_THREADS) stencil_fprop_general_kernel(const GeneralArguments a) {
  const Problem& p = a.problem;
  const int64_t result = static_cast<int64_t>(blockIdx.x) * GENERAL_THREADS + threadIdx.x;
  if (result >= a.results) return;
  const Index y = unravel(result, p.output, p.k, a.channel_first);
  const int c = y.channel / (p.k / p.c), taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
  float sum = 0;
  for (int tap = 0; tap < taps; ++tap) {
    int t[AXES], i[AXES];
    tap_position(p, tap, t);
    if (find_input(p, y.at, t, i))
      sum += to_float(static_cast<const T*>(a.w.data)[offset(a.w, y.channel, 0, t)]) *
             to_float(static_cast<const T*>(a.x.data)[offset(a.x, y.n, c, i)]);
  }
  finish<T>(a, a.y, y, sum);
}

template <class T>
__global__ void __launch_bounds__(GENERAL_THREADS) stencil_dgrad_general_kernel(const GeneralArguments a) {
  const Problem& p = a.problem;
  const int64_t result = static_cast<int64_t>(blockIdx.x) * GENERAL_THREADS + threadIdx.x;
  if (result >= a.results) return;
  const Index x = unravel(result, p.input, p.c, a.channel_first);
  const int multiplier = p.k / p.c, taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
  float sum = 0;
  for (int tap = 0; tap < taps; ++tap) {
    int t[AXES], o[AXES];
    tap_position(p, tap, t);
    if (!find_output(p, x.at, t, o)) continue;
    for (int k = x.channel * multiplier; k < (x.channel + 1) * multiplier; ++k)
      sum += to_float(static_cast<const T*>(a.w.data)[offset(a.w, k, 0, t)]) *
             to_float(static_cast<const T*>(a.y.data)[offset(a.y, x.n, k, o)]);
  }
  finish<T>(a, a.x, x, sum);
}

// One weight [k, tap] a block, over one split of the outputs.
template <class T>
__global__ void __launch_bounds__(GENERAL_THREADS) stencil_wgrad_general_kernel(const GeneralArguments a) {
  __shared__ float of_warp[GENERAL_THREADS / WARP];
  const Problem& p = a.problem;
  const int taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int k = static_cast<int>(blockIdx.x) / taps, tap = static_cast<int>(blockIdx.x) % taps, c = k / (p.k / p.c);
  int t[AXES], i[AXES];
  tap_position(p, tap, t);
  const int64_t outputs = static_cast<int64_t>(p.n) * p.output[0] * p.output[1] * p.output[2];
  float sum = 0;
  for (int64_t o = static_cast<int64_t>(blockIdx.y) * GENERAL_THREADS + threadIdx.x; o < outputs;
       o += static_cast<int64_t>(gridDim.y) * GENERAL_THREADS) {
    const Index y = unravel(o, p.output, 1, true);
    if (find_input(p, y.at, t, i))
      sum += to_float(static_cast<const T*>(a.x.data)[offset(a.x, y.n, c, i)]) *
             to_float(static_cast<const T*>(a.y.data)[offset(a.y, y.n, k, y.at)]);
  }
  for (int distance = WARP / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, distance);
  if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float total = 0;
  for (int warp = 0; warp < GENERAL_THREADS / WARP; ++warp) total += of_warp[warp];
  a.partial[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

}  // namespace convext
