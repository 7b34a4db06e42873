// Which C++ type a PTX type is, for instructions whose operands have one type.
#pragma once
#include <string>

#include "text/decode.h"

namespace emulator {

enum class Signed { MATTERS, NO };

// The instruction of an operation on integers T x T -> T; where the sign does not matter, .sN runs as .uN.
template <class Op, int operands, Signed sign>
Execute by_integer(const std::string& type) {
  const auto of = [](auto zero) -> Execute {
    using T = decltype(zero);
    if constexpr (operands == 1) return each_lane<Op, T, T>;
    if constexpr (operands == 2) return each_lane<Op, T, T, T>;
    if constexpr (operands == 3) return each_lane<Op, T, T, T, T>;
  };
  const bool is_signed = type[0] == 's' && sign == Signed::MATTERS;
  switch (type_size(type)) {
    case 2:
      return is_signed ? of(int16_t()) : of(uint16_t());
    case 4:
      return is_signed ? of(int32_t()) : of(uint32_t());
    case 8:
      return is_signed ? of(int64_t()) : of(uint64_t());
    default:
      return nullptr;
  }
}

template <class Op, int operands>
Execute by_float(const std::string& type) {
  const auto of = [](auto zero) -> Execute {
    using T = decltype(zero);
    if constexpr (operands == 1) return each_lane<Op, T, T>;
    if constexpr (operands == 2) return each_lane<Op, T, T, T>;
    if constexpr (operands == 3) return each_lane<Op, T, T, T, T>;
  };
  return type == "f32" ? of(float()) : type == "f64" ? of(double()) : nullptr;
}

inline bool is_narrow(const std::string& type) {
  return type == "f16" || type == "bf16";
}
inline bool is_integer(const std::string& type) {
  return type[0] == 'u' || type[0] == 's';
}
inline bool is_float(const std::string& type) {
  return type == "f32" || type == "f64";
}

// Operands of one type, into a destination of the same.
inline void operands(Decoder& D, int size, size_t sources) {
  D.expect(sources + 1);
  D.I.d[0] = D.destination(D.operand(0), size);
  for (size_t i = 0; i < sources; i++) D.I.s[i] = D.source(D.operand(i + 1), size);
}

inline void need(Decoder& D, const std::string& type) {
  if (!D.I.run) D.refuse("." + type + " is not known here");
}

}  // namespace emulator
