// The numbers that tensors are made of, as vectors of the type that sums are formed in.
#pragma once
#include "cpu/shared/vector.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T>
struct Sum {
  using type = float;
};
template <>
struct Sum<double> {
  using type = double;
};

typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint16_t UnalignedHalfBits __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));

CONVEXT_INLINE Bits load_bits(const void* from) {
  return __builtin_convertvector(*static_cast<const UnalignedHalfBits*>(from), Bits);
}

CONVEXT_INLINE void store_bits(void* to, Bits bits) {
  *static_cast<UnalignedHalfBits*>(to) = __builtin_convertvector(bits, HalfBits);
}

CONVEXT_INLINE Vector<float> widen(const float* from) {
  return load(from);
}

CONVEXT_INLINE Vector<double> widen(const double* from) {
  return load(from);
}

CONVEXT_INLINE Vector<float> widen(const bfloat16* from) {
  return (Vector<float>)(load_bits(from) << 16);
}

// Exponent and mantissa move into place; a multiplication sets the exponent right, of subnormal numbers too.
CONVEXT_INLINE Vector<float> widen(const float16* from) {
  const Bits bits = load_bits(from), magnitude = (bits & 0x7fff) << 13;
  const Vector<float> scaled = (Vector<float>)magnitude * 0x1p112f;
  const Bits infinite = (Bits)(magnitude >= (0x7c00u << 13));
  return (Vector<float>)((Bits)scaled | (infinite & 0x7f800000) | (bits & 0x8000) << 16);
}

CONVEXT_INLINE void narrow(float* to, Vector<float> value) {
  store<float>(to, value);
}

CONVEXT_INLINE void narrow(double* to, Vector<double> value) {
  store<double>(to, value);
}

// To nearest, ties to even.
CONVEXT_INLINE void narrow(bfloat16* to, Vector<float> value) {
  const Bits bits = (Bits)value;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  store_bits(to, value == value ? rounded : Bits{} + 0x7fc0);
}

// To nearest, ties to even. A subnormal result is rounded by an addition that leaves its bits in the lowest places.
CONVEXT_INLINE void narrow(float16* to, Vector<float> value) {
  const Bits bits = (Bits)value, magnitude = bits & 0x7fffffff;
  const Bits nan = (Bits)(magnitude > 0x7f800000), small = (Bits)(magnitude < 0x38800000);
  const Bits over = (Bits)(magnitude >= 0x47800000);  // 65536: what rounds up to it becomes infinite by itself
  const Bits normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Bits subnormal = (Bits)((Vector<float>)magnitude + 0.5f) - 0x3f000000;
  Bits result = (small & subnormal) | (~small & normal);
  result = (over & 0x7c00) | (~over & result);
  result = (nan & 0x7e00) | (~nan & result);
  store_bits(to, result | ((bits >> 16) & 0x8000));
}

// One number.
template <class T>
CONVEXT_INLINE typename Sum<T>::type number(const T* from) {
  if constexpr (sizeof(T) == sizeof(typename Sum<T>::type)) {
    return *from;
  } else {
    T elements[Lanes<float>::count] = {*from};
    return widen(elements)[0];
  }
}

CONVEXT_INLINE float number(const bfloat16* from) {
  const uint32_t bits = uint32_t(from->bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// `count` elements, at most a vector, that lie `step` apart; zeros in the other lanes.
template <class A, class T>
CONVEXT_INLINE Vector<A> widen_few(const T* from, int64_t step, int64_t count) {
  T elements[Lanes<A>::count] = {};
  if (step == 1 && count < Lanes<A>::count)
    copy_few<A>(elements, from, count);
  else
    for (int64_t i = 0; i < count; ++i) elements[i] = from[i * step];
  return widen(elements);
}

// Writes the first `count` lanes, at most all, `step` apart.
template <class A, class T>
CONVEXT_INLINE void narrow_few(T* to, int64_t step, Vector<A> value, int64_t count) {
  T elements[Lanes<A>::count];
  narrow(elements, value);
  if (step == 1 && count < Lanes<A>::count)
    copy_few<A>(to, elements, count);
  else
    for (int64_t i = 0; i < count; ++i) to[i * step] = elements[i];
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
