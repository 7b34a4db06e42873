// Numbers as the machine's registers hold them, and the roundings between their formats.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float from_bfloat16(uint16_t bits) {
  return bits_as<float>(uint32_t(bits) << 16);
}

// Rounds bits away below `kept`, to nearest even. Carries run into the exponent, as they should.
inline uint32_t round_even(uint32_t bits, int dropped) {
  const uint32_t half = (1u << (dropped - 1)) - 1;
  return bits + half + ((bits >> dropped) & 1);
}

// To nearest even; NaN becomes the one that the PTX manual names, 0x7fff.
inline uint16_t to_bfloat16(float value) {
  if (std::isnan(value)) return 0x7fff;
  return uint16_t(round_even(bits_as<uint32_t>(value), 16) >> 16);
}

// The float32 that any narrower format rounds as it would `value`: where it lies between two, the one with an odd last
// bit.
inline float between(double value) {
  const auto nearest = float(value);
  if (std::isnan(value) || std::isinf(nearest) || double(nearest) == value) return nearest;
  const float nearer_zero = std::fabs(double(nearest)) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
  return bits_as<float>(bits_as<uint32_t>(nearer_zero) | 1);
}

inline float from_half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const uint32_t sign = uint32_t(bits & 0x8000) << 16;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * float(fraction) * 0x1p-24f;
  const uint32_t wide = exponent == 31 ? 255 : uint32_t(exponent - 15 + 127);
  return bits_as<float>(sign | wide << 23 | uint32_t(fraction) << 13);
}

// To nearest even; NaN becomes 0x7fff.
inline uint16_t to_half(double value) {
  if (std::isnan(value)) return 0x7fff;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (magnitude >= 65520.0) return sign | 0x7c00;
  int exponent;
  std::frexp(magnitude, &exponent);                                   // magnitude = [0.5, 1) * 2^exponent
  const double unit = std::ldexp(1.0, std::max(exponent - 11, -24));  // the last place of its binade
  const double rounded = std::nearbyint(magnitude / unit) * unit;
  if (rounded < 0x1p-14) return sign | uint16_t(rounded * 0x1p24);
  std::frexp(rounded, &exponent);
  const auto fraction = uint16_t(std::ldexp(rounded, 11 - exponent) - 1024);
  return sign | uint16_t(exponent + 14) << 10 | fraction;
}

// The upper 19 bits of a float32: what a tensor core reads of a TF32 operand.
inline float truncated_tf32(uint32_t bits) {
  return bits_as<float>(bits & ~0x1fffu);
}

// cvt.rna.tf32: to nearest, ties away from zero.
inline uint32_t to_tf32(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  if (std::isnan(value)) return 0x7fffffff;
  return std::isinf(value) ? bits : (bits + 0x1000) & ~0x1fffu;
}

}  // namespace emulator
