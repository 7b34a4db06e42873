// Integer and floating-point arithmetic, and comparisons, a lane at a time (PTX ISA 9.7.1 to 9.7.7).
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "instructions/numbers.h"
#include "instructions/types.h"

namespace emulator {
namespace {

// .ftz: a float32 that is subnormal counts as zero, with its sign.
template <class Op>
struct Flushed {
  static float zero(float a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a; }
  template <class... T>
  static float of(T... operands) {
    return zero(Op::of(zero(operands)...));
  }
};

// Two float32 side by side in 64 bits.
template <class Op>
struct Paired {
  template <class... T>
  static uint64_t of(T... pairs) {
    const auto half = [](uint64_t pair, int i) { return bits_as<float>(uint32_t(pair >> (32 * i))); };
    const uint32_t low = bits_as<uint32_t>(float(Op::of(half(pairs, 0)...)));
    const uint32_t high = bits_as<uint32_t>(float(Op::of(half(pairs, 1)...)));
    return uint64_t(high) << 32 | low;
  }
};

// ------------------------------------------------------------------ operations

struct Add {
  template <class T>
  static T of(T a, T b) {
    return T(a + b);
  }
};
struct Subtract {
  template <class T>
  static T of(T a, T b) {
    return T(a - b);
  }
};
struct MultiplyLow {
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_same_v<T, uint16_t>) return T(uint32_t(a) * b);  // int would overflow
    return T(a * b);
  }
};
template <class Wide>
struct MultiplyWide {
  template <class T>
  static Wide of(T a, T b) {
    return Wide(a) * Wide(b);
  }
};
template <class Wide>
struct MultiplyAddWide {
  template <class T>
  static Wide of(T a, T b, Wide c) {
    return Wide(std::make_unsigned_t<Wide>(Wide(a) * Wide(b)) + std::make_unsigned_t<Wide>(c));
  }
};
struct MultiplyHigh {
  template <class T>
  static T of(T a, T b) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return T((Wide(a) * Wide(b)) >> (8 * sizeof(T)));
  }
};
struct MultiplyAddLow {
  template <class T>
  static T of(T a, T b, T c) {
    return T(MultiplyLow::of(a, b) + c);
  }
};
struct FusedMultiplyAdd {
  static float of(float a, float b, float c) { return std::fma(a, b, c); }
  static double of(double a, double b, double c) { return std::fma(a, b, c); }
};
// .bf16 and .f16: in float64, rounded once.
template <class Op, bool bfloat16>
struct Narrow {
  template <class... T>
  static uint16_t of(T... operands) {
    const double exact = Op::of(double(bfloat16 ? from_bfloat16(operands) : from_half(operands))...);
    return bfloat16 ? to_bfloat16(between(exact)) : to_half(exact);
  }
};
// .f32.bf16 and .f32.f16: narrow factors or terms, a float32 sum.
template <float from(uint16_t)>
struct MixedAdd {
  static float of(uint16_t a, float c) { return from(a) + c; }
};
template <float from(uint16_t)>
struct MixedMultiplyAdd {
  static float of(uint16_t a, uint16_t b, float c) { return std::fma(from(a), from(b), c); }
};

// Division by zero is unspecified in PTX: all ones, as GPUs give. The quotient that overflows wraps.
struct Divide {
  template <class T>
  static T of(T a, T b) {
    if (b == 0) return T(-1);
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return T(0 - std::make_unsigned_t<T>(a));
    }
    return T(a / b);
  }
};
struct DivideFloats {  // div.rn, and div.full, which may err by two units in the last place
  static float of(float a, float b) {
    const float quotient = a / b;
    return std::isnan(quotient) ? bits_as<float>(0x7fffffffu) : quotient;
  }
  static double of(double a, double b) { return a / b; }
};
// .approx.ftz may err by 2^-22; these round, and take subnormal numbers for zeros.
inline float flushed(float a) {
  return std::fabs(a) < 0x1p-126f ? std::copysign(0.0f, a) : a;
}
struct Exponential {
  static float of(float a) { return flushed(float(std::exp2(double(flushed(a))))); }
};
struct Reciprocal {
  static float of(float a) { return flushed(1.0f / flushed(a)); }
};
struct Remainder {
  template <class T>
  static T of(T a, T b) {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return 0;
    }
    return T(a % b);
  }
};

// Of a number and NaN the number; -0 lies below +0.
struct Minimum {
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(a) && std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
      if (std::isnan(a)) return b;
      if (std::isnan(b)) return a;
      if (a == b) return std::signbit(a) ? a : b;
    }
    return a < b ? a : b;
  }
};
struct Maximum {
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(a) && std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
      if (std::isnan(a)) return b;
      if (std::isnan(b)) return a;
      if (a == b) return std::signbit(a) ? b : a;
    }
    return a > b ? a : b;
  }
};
struct Negate {
  template <class T>
  static T of(T a) {
    if constexpr (std::is_floating_point_v<T>)
      return -a;
    else
      return T(0 - std::make_unsigned_t<T>(a));
  }
};
struct Absolute {
  template <class T>
  static T of(T a) {
    if constexpr (std::is_floating_point_v<T>)
      return std::fabs(a);
    else
      return a < 0 ? Negate::of(a) : a;
  }
};

// ------------------------------------------------------------------ comparisons

// For floats: eq ... ge are false where a NaN takes part, equ ... geu are true.
#define COMPARISON(name, expression)  \
  struct name {                       \
    template <class T>                \
    static uint32_t of(T a, T b) {    \
      return (expression) ? ~0u : 0u; \
    }                                 \
  };
COMPARISON(Equal, a == b)
COMPARISON(NotEqual, a<b || a> b)
COMPARISON(Less, a < b)
COMPARISON(LessEqual, a <= b)
COMPARISON(Greater, a > b)
COMPARISON(GreaterEqual, a >= b)
COMPARISON(EqualOrNan, !(a < b || a > b))
COMPARISON(NotEqualOrNan, !(a == b))
COMPARISON(LessOrNan, !(a >= b))
COMPARISON(LessEqualOrNan, !(a > b))
COMPARISON(GreaterOrNan, !(a <= b))
COMPARISON(GreaterEqualOrNan, !(a < b))
COMPARISON(Numbers, a == a && b == b)
COMPARISON(AnyNan, a != a || b != b)
#undef COMPARISON

template <class Op>
Execute comparing(const std::string& type, bool floats) {
  if (floats && type == "f32") return each_lane<Op, uint32_t, float, float>;
  if (floats && type == "f64") return each_lane<Op, uint32_t, double, double>;
  if (type == "s16") return each_lane<Op, uint32_t, int16_t, int16_t>;
  if (type == "s32") return each_lane<Op, uint32_t, int32_t, int32_t>;
  if (type == "s64") return each_lane<Op, uint32_t, int64_t, int64_t>;
  if (type == "u16" || type == "b16") return each_lane<Op, uint32_t, uint16_t, uint16_t>;
  if (type == "u32" || type == "b32") return each_lane<Op, uint32_t, uint32_t, uint32_t>;
  if (type == "u64" || type == "b64") return each_lane<Op, uint32_t, uint64_t, uint64_t>;
  return nullptr;
}

void decode_compare(Decoder& D) {
  const std::string type = D.take_type();
  const bool floats = is_float(type), bits = type[0] == 'b';
  D.expect(3);
  D.I.d[0] = D.destination(D.operand(0), 4);
  for (size_t i = 0; i < 2; i++) D.I.s[i] = D.source(D.operand(i + 1), type_size(type));
  if (D.take("eq"))
    D.I.run = comparing<Equal>(type, floats);
  else if (D.take("ne"))
    D.I.run = comparing<NotEqual>(type, floats);
  else if (bits)
    D.refuse("bits are only compared by eq and ne");
  else if (D.take("lt") || (type[0] == 'u' && D.take("lo")))
    D.I.run = comparing<Less>(type, floats);
  else if (D.take("le") || (type[0] == 'u' && D.take("ls")))
    D.I.run = comparing<LessEqual>(type, floats);
  else if (D.take("gt") || (type[0] == 'u' && D.take("hi")))
    D.I.run = comparing<Greater>(type, floats);
  else if (D.take("ge") || (type[0] == 'u' && D.take("hs")))
    D.I.run = comparing<GreaterEqual>(type, floats);
  else if (!floats)
    D.refuse("it has no comparison that is known");
  else if (D.take("equ"))
    D.I.run = comparing<EqualOrNan>(type, true);
  else if (D.take("neu"))
    D.I.run = comparing<NotEqualOrNan>(type, true);
  else if (D.take("ltu"))
    D.I.run = comparing<LessOrNan>(type, true);
  else if (D.take("leu"))
    D.I.run = comparing<LessEqualOrNan>(type, true);
  else if (D.take("gtu"))
    D.I.run = comparing<GreaterOrNan>(type, true);
  else if (D.take("geu"))
    D.I.run = comparing<GreaterEqualOrNan>(type, true);
  else if (D.take("num"))
    D.I.run = comparing<Numbers>(type, true);
  else if (D.take("nan"))
    D.I.run = comparing<AnyNan>(type, true);
  if (!D.I.run) D.refuse("." + type + " is not compared here");
}

// ------------------------------------------------------------------ decoders

template <class Op, class... T>
Execute narrow(const std::string& type) {
  return type == "bf16" ? each_lane<Narrow<Op, true>, uint16_t, T...> : each_lane<Narrow<Op, false>, uint16_t, T...>;
}

template <class Op>
void decode_sum(Decoder& D) {
  const std::string type = D.take_type();
  const bool rounded = D.take("rn");
  if (type == "f32x2") {
    operands(D, 8, 2);
    D.I.run = each_lane<Paired<Op>, uint64_t, uint64_t, uint64_t>;
  } else if (is_narrow(type) && D.take("f32")) {  // add.rn.f32.bf16: a float32 and one of these
    if (!std::is_same_v<Op, Add> || !rounded) D.refuse("." + type + " is not known here");
    D.expect(3);
    D.I.d[0] = D.destination(D.operand(0), 4);
    D.I.s[0] = D.source(D.operand(1), 2);
    D.I.s[1] = D.source(D.operand(2), 4);
    D.I.run = type == "bf16" ? each_lane<MixedAdd<from_bfloat16>, float, uint16_t, float>
                             : each_lane<MixedAdd<from_half>, float, uint16_t, float>;
  } else {
    operands(D, type_size(type), 2);
    if (is_float(type)) D.I.run = by_float<Op, 2>(type);
    if (is_narrow(type)) D.I.run = narrow<Op, uint16_t, uint16_t>(type);
    if (is_integer(type) && !rounded) D.I.run = by_integer<Op, 2, Signed::NO>(type);
    need(D, type);
  }
}

void decode_multiply(Decoder& D) {
  const std::string type = D.take_type(), part = D.take_one({"lo", "hi", "wide"});
  const int size = type_size(type);
  if (part == "wide") {
    D.expect(3);
    D.I.d[0] = D.destination(D.operand(0), 2 * size);
    for (size_t i = 0; i < 2; i++) D.I.s[i] = D.source(D.operand(i + 1), size);
    if (type == "s32") D.I.run = each_lane<MultiplyWide<int64_t>, int64_t, int32_t, int32_t>;
    if (type == "u32") D.I.run = each_lane<MultiplyWide<uint64_t>, uint64_t, uint32_t, uint32_t>;
    if (type == "s16") D.I.run = each_lane<MultiplyWide<int32_t>, int32_t, int16_t, int16_t>;
    if (type == "u16") D.I.run = each_lane<MultiplyWide<uint32_t>, uint32_t, uint16_t, uint16_t>;
  } else if (part.empty()) {
    D.take("rn");
    operands(D, size, 2);
    if (type == "f32x2")
      D.I.run = each_lane<Paired<MultiplyLow>, uint64_t, uint64_t, uint64_t>;
    else
      D.I.run = is_narrow(type) ? narrow<MultiplyLow, uint16_t, uint16_t>(type) : by_float<MultiplyLow, 2>(type);
  } else {
    operands(D, size, 2);
    if (is_integer(type)) {
      D.I.run = part == "lo" ? by_integer<MultiplyLow, 2, Signed::NO>(type)
                             : by_integer<MultiplyHigh, 2, Signed::MATTERS>(type);
    }
  }
  need(D, type);
}

void decode_multiply_add(Decoder& D) {
  const std::string type = D.take_type(), part = D.take_one({"lo", "wide"});
  const int size = type_size(type), wide = part == "wide" ? 2 * size : size;
  D.expect(4);
  D.I.d[0] = D.destination(D.operand(0), wide);
  for (size_t i = 0; i < 2; i++) D.I.s[i] = D.source(D.operand(i + 1), size);
  D.I.s[2] = D.source(D.operand(3), wide);
  if (part == "lo" && is_integer(type)) D.I.run = by_integer<MultiplyAddLow, 3, Signed::NO>(type);
  if (part == "wide" && type == "s32")
    D.I.run = each_lane<MultiplyAddWide<int64_t>, int64_t, int32_t, int32_t, int64_t>;
  if (part == "wide" && type == "u32")
    D.I.run = each_lane<MultiplyAddWide<uint64_t>, uint64_t, uint32_t, uint32_t, uint64_t>;
  need(D, type);
}

void decode_fused_multiply_add(Decoder& D) {
  const std::string type = D.take_type();
  if (!D.take("rn")) D.refuse("only rounding to nearest is known");
  if (is_narrow(type) && D.take("f32")) {
    D.expect(4);
    D.I.d[0] = D.destination(D.operand(0), 4);
    for (size_t i = 0; i < 3; i++) D.I.s[i] = D.source(D.operand(i + 1), i < 2 ? 2 : 4);
    D.I.run = type == "bf16" ? each_lane<MixedMultiplyAdd<from_bfloat16>, float, uint16_t, uint16_t, float>
                             : each_lane<MixedMultiplyAdd<from_half>, float, uint16_t, uint16_t, float>;
    return;
  }
  operands(D, type_size(type), 3);
  if (is_narrow(type))
    D.I.run = narrow<FusedMultiplyAdd, uint16_t, uint16_t, uint16_t>(type);
  else if (type == "f32" && D.take("ftz"))
    D.I.run = each_lane<Flushed<FusedMultiplyAdd>, float, float, float, float>;
  else
    D.I.run = type == "f32x2" ? each_lane<Paired<FusedMultiplyAdd>, uint64_t, uint64_t, uint64_t, uint64_t>
                              : by_float<FusedMultiplyAdd, 3>(type);
  need(D, type);
}

void decode_full_quotient(Decoder& D) {
  if (D.take_type() != "f32") D.refuse("only .full of .f32 is known");
  operands(D, 4, 2);
  D.I.run = each_lane<DivideFloats, float, float, float>;
}

template <class Op>
void decode_approximation(Decoder& D) {
  const bool flushing = D.take("approx") && D.take("ftz");
  if (!flushing || D.take_type() != "f32") D.refuse("only .approx.ftz of .f32 is known");
  operands(D, 4, 1);
  D.I.run = each_lane<Op, float, float>;
}

void decode_quotient(Decoder& D) {
  if (D.take("full")) return decode_full_quotient(D);
  const std::string type = D.take_type();
  const bool rounded = D.take("rn");
  operands(D, type_size(type), 2);
  if (is_integer(type) && !rounded) D.I.run = by_integer<Divide, 2, Signed::MATTERS>(type);
  if (is_float(type) && rounded) D.I.run = by_float<DivideFloats, 2>(type);
  need(D, type);
}

void decode_remainder(Decoder& D) {
  const std::string type = D.take_type();
  operands(D, type_size(type), 2);
  if (is_integer(type)) D.I.run = by_integer<Remainder, 2, Signed::MATTERS>(type);
  need(D, type);
}

template <class Op>
void decode_extreme(Decoder& D) {
  const std::string type = D.take_type();
  operands(D, type_size(type), 2);
  D.I.run = is_float(type)     ? by_float<Op, 2>(type)
            : is_integer(type) ? by_integer<Op, 2, Signed::MATTERS>(type)
                               : nullptr;
  need(D, type);
}

template <class Op>
void decode_sign(Decoder& D) {
  const std::string type = D.take_type();
  operands(D, type_size(type), 1);
  if (type == "f32" && D.take("ftz"))
    D.I.run = each_lane<Flushed<Op>, float, float>;
  else
    D.I.run = is_float(type)   ? by_float<Op, 1>(type)
              : type[0] == 's' ? by_integer<Op, 1, Signed::MATTERS>(type)
                               : nullptr;
  need(D, type);
}

}  // namespace

void add_arithmetic(Decoders& all) {
  all["add"] = decode_sum<Add>;
  all["sub"] = decode_sum<Subtract>;
  all["mul"] = decode_multiply;
  all["mad"] = decode_multiply_add;
  all["fma"] = decode_fused_multiply_add;
  all["div"] = decode_quotient;
  all["rem"] = decode_remainder;
  all["min"] = decode_extreme<Minimum>;
  all["max"] = decode_extreme<Maximum>;
  all["neg"] = decode_sign<Negate>;
  all["abs"] = decode_sign<Absolute>;
  all["ex2"] = decode_approximation<Exponential>;
  all["rcp"] = decode_approximation<Reciprocal>;
  all["setp"] = decode_compare;
}

}  // namespace emulator
