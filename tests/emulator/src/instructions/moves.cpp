// mov, selp, cvt and cvta: what changes where a value lies or how it is written (PTX ISA 9.7.9).
#include <cmath>
#include <cstring>
#include <limits>

#include "instructions/numbers.h"
#include "text/decode.h"

namespace emulator {
namespace {

struct Same {
  template <class T>
  static T of(T a) {
    return a;
  }
};
struct Select {
  template <class T>
  static T of(T a, T b, uint32_t p) {
    return p ? a : b;
  }
};

// ------------------------------------------------------------------ mov

// {%rs1, %rs2} side by side into one register; I.width bytes each, the first lowest.
void pack(Warp& warp, const Instruction& I, Mask mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    uint64_t value = 0;
    for (size_t i = 0; i < I.al.size(); i++) {
      std::memcpy(reinterpret_cast<uint8_t*>(&value) + size_t(I.width) * i, warp.registers + I.al[i] + I.width * lane,
                  size_t(I.width));
    }
    std::memcpy(warp.registers + I.d[0] + I.register_width * lane, &value, size_t(I.register_width));
  }
}

void unpack(Warp& warp, const Instruction& I, Mask mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    uint64_t value = 0;
    std::memcpy(&value, warp.registers + I.s[0] + I.register_width * lane, size_t(I.register_width));
    for (size_t i = 0; i < I.dl.size(); i++) {
      if (I.dl[i] < 0) continue;
      std::memcpy(warp.registers + I.dl[i] + I.width * lane, reinterpret_cast<uint8_t*>(&value) + size_t(I.width) * i,
                  size_t(I.width));
    }
  }
}

Execute moving(int size) {
  switch (size) {
    case 2:
      return each_lane<Same, uint16_t, uint16_t>;
    case 4:
      return each_lane<Same, uint32_t, uint32_t>;
    case 8:
      return each_lane<Same, uint64_t, uint64_t>;
    default:
      return nullptr;
  }
}

void decode_move(Decoder& D) {
  const std::string type = D.take_type();
  const int size = type_size(type);
  D.expect(2);
  const Operand &to = D.operand(0), &from = D.operand(1);
  const bool packing = from.kind == Operand::LIST, unpacking = to.kind == Operand::LIST;
  if (packing || unpacking) {
    const size_t count = (packing ? from : to).parts.size();
    if (type[0] != 'b' || (count != 2 && count != 4) || size / int(count) < 2 || (packing && unpacking)) {
      D.refuse("only .b32 and .b64 are put together, of 2 or 4 registers");
    }
    D.I.width = size / int(count);
    D.I.register_width = size;
    if (packing) {
      D.I.d[0] = D.destination(to, size);
      D.I.al = D.sources(from, D.I.width, count);
      D.I.run = pack;
    } else {
      D.I.s[0] = D.source(from, size);
      for (const auto& part : to.parts) {
        D.I.dl.push_back(part.text == "_" ? -1 : D.destination(part, D.I.width));
      }
      D.I.run = unpack;
    }
    return;
  }
  D.I.d[0] = D.destination(to, size);
  D.I.s[0] = type == "pred" ? D.predicate(from) : D.source(from, size);
  D.I.run = moving(size);
  if (!D.I.run) D.refuse("." + type + " is not moved here");
}

void decode_select(Decoder& D) {
  const std::string type = D.take_type();
  const int size = type_size(type);
  D.expect(4);
  D.I.d[0] = D.destination(D.operand(0), size);
  for (size_t i = 0; i < 2; i++) D.I.s[i] = D.source(D.operand(i + 1), size);
  D.I.s[2] = D.predicate(D.operand(3));
  switch (size) {
    case 2:
      D.I.run = each_lane<Select, uint16_t, uint16_t, uint16_t, uint32_t>;
      break;
    case 4:
      D.I.run = each_lane<Select, uint32_t, uint32_t, uint32_t, uint32_t>;
      break;
    case 8:
      D.I.run = each_lane<Select, uint64_t, uint64_t, uint64_t, uint32_t>;
      break;
  }
  if (!D.I.run || type == "pred") D.refuse("." + type + " is not selected here");
}

// ------------------------------------------------------------------ cvt

// Between integers: the lower bits of what the source's type says it is. A register may be wider than its type: the
// source is then cut to the type, the result is extended from it.
template <class From>
int64_t extended(uint64_t bits) {
  return int64_t(static_cast<From>(bits));
}

int64_t as_integer(uint64_t bits, int size, bool is_signed) {
  switch (size) {
    case 1:
      return is_signed ? extended<int8_t>(bits) : extended<uint8_t>(bits);
    case 2:
      return is_signed ? extended<int16_t>(bits) : extended<uint16_t>(bits);
    case 4:
      return is_signed ? extended<int32_t>(bits) : extended<uint32_t>(bits);
    default:
      return int64_t(bits);
  }
}

// I.width and I.k: bytes of the source's type and of the result's; I.flag and I.number: whether each is signed.
void convert_integer(Warp& warp, const Instruction& I, Mask mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    uint64_t bits = 0;
    std::memcpy(&bits, warp.registers + I.s[0] + I.register_width * lane, size_t(I.register_width));
    const int64_t value = as_integer(uint64_t(as_integer(bits, I.width, I.flag)), I.k, I.number);
    std::memcpy(warp.registers + I.d[0] + I.n * lane, &value, size_t(I.n));
  }
}

struct FromBfloat16 {
  static float of(uint16_t a) { return from_bfloat16(a); }
};
struct FromHalf {
  static float of(uint16_t a) { return from_half(a); }
};
struct ToBfloat16 {
  static uint16_t of(float a) { return to_bfloat16(a); }
};
struct ToHalf {
  static uint16_t of(float a) { return to_half(a); }
};
struct ToTf32 {
  static uint32_t of(float a) { return to_tf32(a); }
};
struct ToBfloat16Pair {  // the first source is the upper half
  static uint32_t of(float a, float b) { return uint32_t(to_bfloat16(a)) << 16 | to_bfloat16(b); }
};
struct ToHalfPair {
  static uint32_t of(float a, float b) { return uint32_t(to_half(a)) << 16 | to_half(b); }
};
template <class To>
struct Cast {
  template <class From>
  static To of(From a) {
    return To(a);
  }
};
struct RoundEven {  // to an integer
  static float of(float a) { return std::nearbyint(a); }
};
// Towards zero, saturated to the range; NaN becomes 0.
template <class To>
struct Truncate {
  template <class From>
  static To of(From a) {
    if (std::isnan(a)) return 0;
    const double value = std::trunc(double(a));
    if (value <= double(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (value >= double(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return To(value);
  }
};

// Every conversion that takes part of a float: rounding (none where exact), to, from -> what runs.
Execute float_conversion(const std::string& key) {
  static const std::map<std::string, Execute> all = {
      {".f32.bf16", each_lane<FromBfloat16, float, uint16_t>},
      {".f32.f16", each_lane<FromHalf, float, uint16_t>},
      {"rn.bf16.f32", each_lane<ToBfloat16, uint16_t, float>},
      {"rn.f16.f32", each_lane<ToHalf, uint16_t, float>},
      {"rna.tf32.f32", each_lane<ToTf32, uint32_t, float>},
      {".f64.f32", each_lane<Cast<double>, double, float>},
      {"rn.f32.f64", each_lane<Cast<float>, float, double>},
      {"rni.f32.f32", each_lane<RoundEven, float, float>},
      {"rn.f32.s32", each_lane<Cast<float>, float, int32_t>},
      {"rn.f32.u32", each_lane<Cast<float>, float, uint32_t>},
      {"rn.f64.s32", each_lane<Cast<double>, double, int32_t>},
      {"rn.f64.u32", each_lane<Cast<double>, double, uint32_t>},
      {"rzi.s32.f32", each_lane<Truncate<int32_t>, int32_t, float>},
      {"rzi.u32.f32", each_lane<Truncate<uint32_t>, uint32_t, float>},
  };
  const auto found = all.find(key);
  return found == all.end() ? nullptr : found->second;
}

bool is_integer(const std::string& type) {
  return type[0] == 'u' || type[0] == 's';
}

void decode_convert(Decoder& D) {
  const std::string from = D.take_type(), to = D.take_type(), rounding = D.take_one({"rn", "rna", "rni", "rzi"});
  Instruction& I = D.I;
  if (to == "bf16x2" || to == "f16x2") {
    if (from != "f32" || rounding != "rn") D.refuse("only from .f32 by .rn");
    D.expect(3);
    I.d[0] = D.destination(D.operand(0), 4);
    for (size_t i = 0; i < 2; i++) I.s[i] = D.source(D.operand(i + 1), 4);
    I.run = to == "bf16x2" ? each_lane<ToBfloat16Pair, uint32_t, float, float>
                           : each_lane<ToHalfPair, uint32_t, float, float>;
    return;
  }
  D.expect(2);
  if (is_integer(to) && is_integer(from) && rounding.empty()) {
    I.d[0] = D.any_destination(D.operand(0), I.n);
    I.s[0] = D.any_source(D.operand(1), type_size(from), I.register_width);
    I.width = type_size(from);
    I.k = type_size(to);
    if (I.register_width < I.width || I.n < I.k || I.d[0] < 0) D.refuse("a register is narrower than its type");
    I.flag = from[0] == 's';
    I.number = to[0] == 's';
    I.run = convert_integer;
    if (I.n == 8 && I.register_width == 4 && I.k == 8 && I.width == 4) {
      I.run = I.flag ? each_lane<Cast<int64_t>, int64_t, int32_t> : each_lane<Cast<uint64_t>, uint64_t, uint32_t>;
    }
    return;
  }
  I.d[0] = D.destination(D.operand(0), type_size(to));
  I.s[0] = D.source(D.operand(1), type_size(from));
  I.run = float_conversion(rounding + "." + to + "." + from);
  if (!I.run) D.refuse("that conversion is not known here");
}

// ------------------------------------------------------------------ cvta

struct ToGenericShared {
  static uint64_t of(uint64_t a) { return a + SHARED_WINDOW; }
};
struct FromGenericShared {
  static uint64_t of(uint64_t a) { return a - SHARED_WINDOW; }
};

void decode_address_conversion(Decoder& D) {
  const bool to = D.take("to"), shared = D.take("shared");
  if (!shared && !D.take("global") && !D.take("param")) D.refuse("its space is not known here");
  if (!D.take("u64")) D.refuse("only addresses of 64 bits are known");
  D.expect(2);
  D.I.d[0] = D.destination(D.operand(0), 8);
  D.I.s[0] = D.source(D.operand(1), 8);
  D.I.run = moving(8);
  if (shared)
    D.I.run = to ? each_lane<FromGenericShared, uint64_t, uint64_t> : each_lane<ToGenericShared, uint64_t, uint64_t>;
}

}  // namespace

void add_moves(Decoders& all) {
  all["mov"] = decode_move;
  all["selp"] = decode_select;
  all["cvt"] = decode_convert;
  all["cvta"] = decode_address_conversion;
}

}  // namespace emulator
