// What all launchers share: the stream, errors with their numbers, and the limits of a grid.
#pragma once
#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "device.cuh"

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

}  // namespace convext
