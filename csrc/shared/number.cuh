// Elements and vectors of them: arithmetic is in float, memory is in T.
#pragma once
#include <cstring>

#include "shared/device.cuh"

namespace convext {

__device__ __forceinline__ float to_float(float value) {
  return value;
}
__device__ __forceinline__ float to_float(half value) {
  return __half2float(value);
}
__device__ __forceinline__ float to_float(bfloat16 value) {
  return __bfloat162float(value);
}

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ half from_float<half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// The register type that one load or store of this many bytes moves.
template <int BYTES>
struct Register;
template <>
struct Register<16> {
  using Type = uint4;
};
template <>
struct Register<8> {
  using Type = uint2;
};
template <>
struct Register<4> {
  using Type = unsigned;
};
template <>
struct Register<2> {
  using Type = unsigned short;
};

// Reads N elements at an address that is a multiple of their size, as one access.
template <class T, int N>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  using Raw = typename Register<N * sizeof(T)>::Type;
  const Raw raw = *reinterpret_cast<const Raw*>(from);
  T element[N];
  memcpy(static_cast<void*>(element), &raw, sizeof raw);
  CONVEXT_UNROLL
  for (int i = 0; i < N; ++i) to[i] = to_float(element[i]);
}

// Writes N elements as one access: an intrinsic, because the compiler takes plain stores of a vector apart.
template <class T, int N>
__device__ __forceinline__ void store(T* to, const float (&from)[N]) {
  using Raw = typename Register<N * sizeof(T)>::Type;
  T element[N];
  CONVEXT_UNROLL
  for (int i = 0; i < N; ++i) element[i] = from_float<T>(from[i]);
  Raw raw;
  memcpy(&raw, static_cast<const void*>(element), sizeof raw);
  __stwb(reinterpret_cast<Raw*>(to), raw);
}

// Division of an index below 2^31 by a number that the host knows: a multiplication and a shift.
struct Divisor {
  unsigned value = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(unsigned divisor) : value(divisor) {
    while ((1ull << shift) < divisor) ++shift;
    multiplier = static_cast<unsigned>(((1ull << 32) * ((1ull << shift) - divisor)) / divisor + 1);
  }
  __device__ __forceinline__ unsigned quotient(unsigned index) const {
    return (__umulhi(index, multiplier) + index) >> shift;
  }
  // Takes the remainder out of `index`, which becomes the quotient.
  __device__ __forceinline__ int take(unsigned& index) const {
    const unsigned whole = quotient(index), rest = index - whole * value;
    index = whole;
    return static_cast<int>(rest);
  }
};

}  // namespace convext
