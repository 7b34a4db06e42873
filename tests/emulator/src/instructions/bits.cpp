// Logic, shifts, and fields of bits and bytes, a lane at a time (PTX ISA 9.7.1, 9.7.8 and 9.7.9.7).
#include <algorithm>
#include <type_traits>

#include "instructions/types.h"

namespace emulator {
namespace {

struct And {
  template <class T>
  static T of(T a, T b) {
    return T(a & b);
  }
};
struct Or {
  template <class T>
  static T of(T a, T b) {
    return T(a | b);
  }
};
struct Xor {
  template <class T>
  static T of(T a, T b) {
    return T(a ^ b);
  }
};
struct Not {
  template <class T>
  static T of(T a) {
    return T(~a);
  }
};

// Shifts by more than the register's bits are as by all of them.
struct ShiftLeft {
  template <class T>
  static T of(T a, uint32_t by) {
    return by >= 8 * sizeof(T) ? T(0) : T(std::make_unsigned_t<T>(a) << by);
  }
};
struct ShiftRight {
  template <class T>
  static T of(T a, uint32_t by) {
    constexpr uint32_t bits = 8 * sizeof(T);
    if (by >= bits) return a < 0 ? T(-1) : T(0);
    return T(a >> by);
  }
};
template <bool left, bool wrap>
struct FunnelShift {
  static uint32_t of(uint32_t low, uint32_t high, uint32_t by) {
    by = wrap ? by & 31 : std::min(by, 32u);
    const uint64_t both = uint64_t(high) << 32 | low;
    return left ? uint32_t(by == 32 ? low : (both << by) >> 32) : uint32_t(both >> by);
  }
};

// `length` bits from `from` on; a signed field that reaches beyond the register is filled with its sign.
template <class T>
struct ExtractBits {
  static T of(T a, uint32_t from, uint32_t length) {
    constexpr uint32_t bits = 8 * sizeof(T);
    from &= 255, length &= 255;
    using Unsigned = std::make_unsigned_t<T>;
    if (length == 0) return 0;
    const uint32_t last = std::min(from + length - 1, bits - 1);
    const bool negative = std::is_signed_v<T> && (Unsigned(a) >> last & 1);
    Unsigned result = 0;
    for (uint32_t i = 0; i < bits; i++) {
      const bool inside = i < length && from + i < bits;
      if (inside ? Unsigned(a) >> (from + i) & 1 : negative) result |= Unsigned(1) << i;
    }
    return T(result);
  }
};

struct InsertBits {
  template <class T>
  static T of(T a, T b, uint32_t at, uint32_t length) {
    constexpr uint32_t bits = 8 * sizeof(T);
    at &= 255, length &= 255;
    for (uint32_t i = 0; i < length && at + i < bits; i++) {
      const T bit = T(1) << (at + i);
      b = (a >> i & 1) ? b | bit : b & ~bit;
    }
    return b;
  }
};

struct Permute {
  static uint32_t of(uint32_t a, uint32_t b, uint32_t selectors) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
      const uint32_t selector = selectors >> (4 * i) & 15;
      uint32_t byte = uint32_t(bytes >> (8 * (selector & 7))) & 255;
      if (selector & 8) byte = byte & 128 ? 255 : 0;  // its sign
      result |= byte << (8 * i);
    }
    return result;
  }
};

template <class Op, int sources>
void decode_logic(Decoder& D) {
  const std::string type = D.take_type();
  D.expect(sources + 1);
  D.I.d[0] = D.destination(D.operand(0), type_size(type));
  for (size_t i = 0; i < sources; i++) {
    const Operand& o = D.operand(i + 1);
    D.I.s[i] = type == "pred" ? D.predicate(o) : D.source(o, type_size(type));
  }
  if (type[0] == 'b' || type == "pred") D.I.run = by_integer<Op, sources, Signed::NO>(type);
  need(D, type);
}

template <class Op>
void decode_shift(Decoder& D) {
  const std::string type = D.take_type();
  D.expect(3);
  D.I.d[0] = D.destination(D.operand(0), type_size(type));
  D.I.s[0] = D.source(D.operand(1), type_size(type));
  D.I.s[1] = D.source(D.operand(2), 4);
  const bool is_signed = type[0] == 's';
  switch (is_float(type) ? 0 : type_size(type)) {
    case 2:
      D.I.run = is_signed ? each_lane<Op, int16_t, int16_t, uint32_t> : each_lane<Op, uint16_t, uint16_t, uint32_t>;
      break;
    case 4:
      D.I.run = is_signed ? each_lane<Op, int32_t, int32_t, uint32_t> : each_lane<Op, uint32_t, uint32_t, uint32_t>;
      break;
    case 8:
      D.I.run = is_signed ? each_lane<Op, int64_t, int64_t, uint32_t> : each_lane<Op, uint64_t, uint64_t, uint32_t>;
      break;
  }
  need(D, type);
}

void decode_funnel(Decoder& D) {
  const std::string type = D.take_type(), side = D.take_one({"l", "r"}), mode = D.take_one({"wrap", "clamp"});
  if (type != "b32" || side.empty() || mode.empty()) D.refuse("only .l and .r, .wrap and .clamp of .b32 are known");
  operands(D, 4, 3);
  using U = uint32_t;
  if (side == "l")
    D.I.run = mode == "wrap" ? each_lane<FunnelShift<true, true>, U, U, U, U>
                             : each_lane<FunnelShift<true, false>, U, U, U, U>;
  else
    D.I.run = mode == "wrap" ? each_lane<FunnelShift<false, true>, U, U, U, U>
                             : each_lane<FunnelShift<false, false>, U, U, U, U>;
}

void decode_extract(Decoder& D) {
  const std::string type = D.take_type();
  D.expect(4);
  D.I.d[0] = D.destination(D.operand(0), type_size(type));
  D.I.s[0] = D.source(D.operand(1), type_size(type));
  for (size_t i = 1; i < 3; i++) D.I.s[i] = D.source(D.operand(i + 1), 4);
  if (type == "u32") D.I.run = each_lane<ExtractBits<uint32_t>, uint32_t, uint32_t, uint32_t, uint32_t>;
  if (type == "s32") D.I.run = each_lane<ExtractBits<int32_t>, int32_t, int32_t, uint32_t, uint32_t>;
  if (type == "u64") D.I.run = each_lane<ExtractBits<uint64_t>, uint64_t, uint64_t, uint32_t, uint32_t>;
  if (type == "s64") D.I.run = each_lane<ExtractBits<int64_t>, int64_t, int64_t, uint32_t, uint32_t>;
  need(D, type);
}

void decode_insert(Decoder& D) {
  const std::string type = D.take_type();
  D.expect(5);
  D.I.d[0] = D.destination(D.operand(0), type_size(type));
  for (size_t i = 0; i < 4; i++) D.I.s[i] = D.source(D.operand(i + 1), i < 2 ? type_size(type) : 4);
  if (type == "b32") D.I.run = each_lane<InsertBits, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>;
  if (type == "b64") D.I.run = each_lane<InsertBits, uint64_t, uint64_t, uint64_t, uint32_t, uint32_t>;
  need(D, type);
}

void decode_permute(Decoder& D) {
  const std::string type = D.take_type();
  operands(D, 4, 3);
  if (type == "b32") D.I.run = each_lane<Permute, uint32_t, uint32_t, uint32_t, uint32_t>;
  need(D, type);
}

}  // namespace

void add_bits(Decoders& all) {
  all["and"] = decode_logic<And, 2>;
  all["or"] = decode_logic<Or, 2>;
  all["xor"] = decode_logic<Xor, 2>;
  all["not"] = decode_logic<Not, 1>;
  all["shl"] = decode_shift<ShiftLeft>;
  all["shr"] = decode_shift<ShiftRight>;
  all["shf"] = decode_funnel;
  all["bfe"] = decode_extract;
  all["bfi"] = decode_insert;
  all["prmt"] = decode_permute;
}

}  // namespace emulator
