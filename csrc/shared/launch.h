// What all launchers share: the stream, errors with their numbers, and the limits of a grid.
#pragma once
#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "shared/device.cuh"
#include "shared/problem.h"

namespace convext {

using Stream = cudaStream_t;

// Raises RuntimeError in Python, with the parts of the message joined, unless `condition` holds.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline void check_launch(cudaError_t error, const char* kernel) {
  check(error == cudaSuccess, kernel, ": launch failed: ", cudaGetErrorString(error));
}

// A grid of `x` blocks, by `y`: more than a grid can hold is an error with the numbers in it.
inline dim3 grid_of(int64_t x, int64_t y, const char* kernel) {
  check(x <= 0x7fffffff && y <= 65535, kernel, ": expected a grid of at most 2147483647 x 65535 blocks, but got ", x,
        " x ", y);
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), 1);
}

// Whether vectors of `elements` along axis `contiguous` can be read wherever a multiple of them begins.
template <class T>
bool has_vectors(const View& view, int contiguous, int size, int elements) {
  if (view.stride[contiguous] != 1 || size % elements) return false;
  if (reinterpret_cast<uintptr_t>(view.data) % (elements * sizeof(T))) return false;
  for (int axis = 0; axis < 2 + AXES; ++axis)
    if (axis != contiguous && view.stride[axis] % elements) return false;
  return true;
}

}  // namespace convext
