// Tensor cores: mma.sync (PTX ISA 9.7.14) and wgmma.mma_async (9.7.15).
//
// Products and sums are float64, rounded once at the end to float32: better than a tensor core, whose way of adding is
// not documented. TF32 operands are cut to their upper 19 bits.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "instructions/numbers.h"
#include "text/decode.h"

namespace emulator {
namespace {

enum Format { BFLOAT16, HALF, TF32, DOUBLE };

Format format_of(Decoder& D, const std::string& type) {
  if (type == "bf16") return BFLOAT16;
  if (type == "f16") return HALF;
  if (type == "tf32") return TF32;
  if (type == "f64") return DOUBLE;
  D.refuse("operands of ." + type + " are not known here");
}

// Elements in 32 bits, or the one in 64.
int per_register(Format format) {
  return format == BFLOAT16 || format == HALF ? 2 : 1;
}

double element_of(uint32_t bits, Format format, int half) {
  if (format == TF32) return truncated_tf32(bits);
  const auto piece = uint16_t(bits >> (16 * half));
  return format == BFLOAT16 ? from_bfloat16(piece) : from_half(piece);
}

// ------------------------------------------------------------------ fragments
//
// Lane l = 4 g + t. A register of A, the i-th, holds row g, or g + 8 where i is odd, and column(s) t * per + the
// halves' own number, 4 per columns further for every second i. One of B holds the same of B transposed, without the
// + 8.

void gather(Warp& warp, const std::vector<int>& slots, Format format, int rows, double* into, int k) {
  const int per = per_register(format), row_step = rows == 16 ? 2 : 1;
  for (size_t i = 0; i < slots.size(); i++) {
    const int row = rows == 16 ? 8 * int(i % 2) : 0, column = 4 * per * (int(i) / row_step);
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane / 4, t = lane % 4;
      for (int half = 0; half < per; half++) {
        into[(row + g) * k + column + t * per + half] =
            format == DOUBLE ? warp.at_slot<double>(slots[i])[lane]
                             : element_of(warp.at_slot<uint32_t>(slots[i])[lane], format, half);
      }
    }
  }
}

// Element i of an accumulator: row g, or g + 8 for i % 4 >= 2; column 2 t + i % 2, 8 further for every 4.
int accumulator_place(int lane, int i, int columns) {
  const int g = lane / 4, t = lane % 4;
  return (g + 8 * (i / 2 % 2)) * columns + 8 * (i / 4) + 2 * t + i % 2;
}

template <class T>
void read_accumulators(Warp& warp, const std::vector<int>& slots, double* c, int columns) {
  for (size_t i = 0; i < slots.size(); i++) {
    for (int lane = 0; lane < 32; lane++) c[accumulator_place(lane, int(i), columns)] = warp.at_slot<T>(slots[i])[lane];
  }
}

template <class T>
void write_accumulators(Warp& warp, const std::vector<int>& slots, const double* c, int columns) {
  for (size_t i = 0; i < slots.size(); i++) {
    for (int lane = 0; lane < 32; lane++)
      warp.at_slot<T>(slots[i])[lane] = T(c[accumulator_place(lane, int(i), columns)]);
  }
}

// c [rows, n] += a [rows, k] b [n, k], summed in order of k.
void multiply(const double* a, const double* b, double* c, int rows, int n, int k) {
  std::vector<double> by_k(size_t(n * k));
  for (int j = 0; j < n; j++) {
    for (int l = 0; l < k; l++) by_k[size_t(l * n + j)] = b[j * k + l];
  }
  for (int i = 0; i < rows; i++) {
    for (int l = 0; l < k; l++) {
      const double factor = a[i * k + l];
      const double* row = &by_k[size_t(l * n)];
      double* sum = c + i * n;
      for (int j = 0; j < n; j++) sum[j] += factor * row[j];
    }
  }
}

// ------------------------------------------------------------------ mma.sync

// I.width: rows, I.n: columns (8), I.k: depth, I.number: format.
void mma(Warp& warp, const Instruction& I, Mask) {
  const auto format = Format(I.number);
  double a[16 * 16], b[8 * 16], c[16 * 8];
  if (Counters* counters = counters_of(warp)) counters->product(uint64_t(I.width * 8 * I.k));
  gather(warp, I.al, format, I.width, a, I.k);
  gather(warp, I.bl, format, 8, b, I.k);
  if (format == DOUBLE) {
    read_accumulators<double>(warp, I.cl, c, 8);
    multiply(a, b, c, I.width, 8, I.k);
    write_accumulators<double>(warp, I.dl, c, 8);
  } else {
    read_accumulators<float>(warp, I.cl, c, 8);
    multiply(a, b, c, I.width, 8, I.k);
    write_accumulators<float>(warp, I.dl, c, 8);
  }
}

// "m16n8k16"
void take_shape(Decoder& D, int& m, int& n, int& k) {
  const std::string shape = D.take_starting("m");
  if (std::sscanf(shape.c_str(), "m%dn%dk%d", &m, &n, &k) != 3) D.refuse("it has no shape");
}

void decode_mma(Decoder& D) {
  Instruction& I = D.I;
  if (!D.take("sync") || !D.take("aligned") || !D.take("row") || !D.take("col"))
    D.refuse("only .sync.aligned and .row.col are known");
  int m, n, k;
  take_shape(D, m, n, k);
  const std::string sum = D.take_type(), b = D.take_type(), a = D.take_type(), result = D.take_type();
  const Format format = format_of(D, a);
  const std::string wanted = format == DOUBLE ? "f64" : "f32";
  if (a != b || sum != wanted || result != wanted) D.refuse("its mixture of types is not known");
  const int depths = format == DOUBLE ? (m == 8 ? 4 : 4 | 8 | 16) : format == TF32 ? 4 | 8 : 8 | 16;
  if (n != 8 || (m != 16 && !(m == 8 && format == DOUBLE)) || !(k & depths) || (k & (k - 1)))
    D.refuse("its shape is not known");
  const int per = per_register(format), size = format == DOUBLE ? 8 : 4;
  I.width = m, I.n = n, I.k = k, I.number = format;
  I.collective = true;
  D.expect(4);
  I.dl = D.destinations(D.operand(0), size, size_t(m * n / 32));
  I.al = D.sources(D.operand(1), size, size_t(m * k / (32 * per)));
  I.bl = D.sources(D.operand(2), size, size_t(n * k / (32 * per)));
  I.cl = D.sources(D.operand(3), size, size_t(m * n / 32));
  I.run = mma;
}

// ------------------------------------------------------------------ wgmma: operands in shared memory
//
// A matrix descriptor: the address, two strides between blocks of it, each divided by 16, and the swizzle. Its layouts,
// in elements of T bytes, with w = swizzle bytes / T (16 / T without a swizzle):
//
//   k innermost:    rows of w elements along k, 8 of them below each other; `stride` bytes to the next 8. Without a
//                   swizzle a product reaches over two such blocks, `leading` bytes apart.
//   m/n innermost:  w elements along m, 8 of them (along k) below each other; `leading` bytes to the next w along m,
//                   `stride` to the next 8 along k. Without a swizzle the two change places.
//
// A swizzle exchanges the 16-byte pieces of an address' 128, 64 or 32 bytes by XOR with the bits from 7 on.

struct Descriptor {
  uint64_t bits;
  uint32_t start() const { return uint32_t(bits & 0x3fff) << 4; }
  uint32_t leading() const { return uint32_t(bits >> 16 & 0x3fff) << 4; }
  uint32_t stride() const { return uint32_t(bits >> 32 & 0x3fff) << 4; }
  uint32_t base_offset() const { return uint32_t(bits >> 49 & 7); }
  uint32_t swizzle() const {  // bytes; 16 is none
    constexpr uint32_t bytes[4] = {16, 128, 64, 32};
    return bytes[bits >> 62];
  }
  // Where the 16 bytes lie that begin with element (outer, k) of T bytes.
  uint32_t address(uint32_t outer, uint32_t k, uint32_t T, bool k_innermost) const {
    const uint32_t w = swizzle() / T, width = swizzle();
    const bool plain = width == 16;
    uint32_t offset;
    if (k_innermost)
      offset = outer % 8 * width + outer / 8 * stride() + k % w * T + k / w * leading();
    else
      offset = k % 8 * width + outer % w * T + outer / w * (plain ? stride() : leading()) +
               k / 8 * (plain ? leading() : stride());
    return swizzled(start() + offset, width);
  }
};

// Reads an operand [outer, k] into doubles, in pieces of 16 bytes, and notes which bytes it read.
void read_operand(Warp& warp, const Instruction& I, uint64_t bits, int first, int outer, bool k_innermost,
                  Format format, double* into, Product& product) {
  const Descriptor descriptor{bits};
  if (descriptor.base_offset())
    fail(warp, I, -1, Fault::OTHER, "a matrix descriptor with a base offset is not emulated");
  const int T = format == TF32 ? 4 : 2, piece = 16 / T;
  const int outer_step = k_innermost ? 1 : piece, k_step = k_innermost ? piece : 1;
  for (int o = 0; o < outer; o += outer_step) {
    for (int k = 0; k < I.k; k += k_step) {
      const uint32_t address = descriptor.address(uint32_t(first + o), uint32_t(k), uint32_t(T), k_innermost);
      const uint8_t* bytes = shared_for_product(warp, I, address, 16);
      auto& reads = product.reads;
      if (!reads.empty() && reads.back().second == address) {
        reads.back().second += 16;
      } else {
        reads.emplace_back(address, address + 16);
      }
      for (int i = 0; i < piece; i++) {
        uint32_t element = 0;
        std::memcpy(&element, bytes + i * T, size_t(T));
        const int at_o = k_innermost ? o : o + i, at_k = k_innermost ? k + i : k;
        into[at_o * I.k + at_k] = element_of(element, format, 0);
      }
    }
  }
}

// There has to be a wgmma.fence, and registers that the product uses must not have changed since, but by other
// products.
void check_fenced(Warp& warp, const Instruction& I, const std::vector<int>& slots) {
  if (warp.fence == 0) fail(warp, I, -1, Fault::OTHER, "comes before any wgmma.fence");
  for (const int slot : slots) {
    if (warp.written[size_t(slot / 64)] > warp.fence) {
      fail(warp, I, -1, Fault::OTHER, "uses a register that was written after the last wgmma.fence");
    }
  }
}

// Four warps compute 16 of the 64 rows each. I.flag, I.register_width: whether A and B have m or n innermost.
void wgmma(Warp& warp, const Instruction& I, Mask) {
  const auto format = Format(I.number);
  static thread_local std::vector<double> a, b, c;
  a.assign(size_t(16 * I.k), 0);
  b.assign(size_t(I.n * I.k), 0);
  c.assign(size_t(16 * I.n), 0);
  Product product;
  if (Counters* counters = counters_of(warp)) counters->product(uint64_t(16 * I.n * I.k));
  if (I.s[0] < 0) {
    check_fenced(warp, I, I.al);
    gather(warp, I.al, format, 16, a.data(), I.k);
  } else {
    read_operand(warp, I, warp.at_slot<uint64_t>(I.s[0])[0], 16 * (warp.id % 4), 16, !I.flag, format, a.data(),
                 product);
  }
  read_operand(warp, I, warp.at_slot<uint64_t>(I.s[1])[0], 0, I.n, !I.register_width, format, b.data(), product);
  check_fenced(warp, I, I.dl);
  if (warp.at_slot<uint32_t>(I.s[2])[0]) read_accumulators<float>(warp, I.dl, c.data(), I.n);
  multiply(a.data(), b.data(), c.data(), 16, I.n, I.k);
  write_accumulators<float>(warp, I.dl, c.data(), I.n);
  product.registers = I.dl;
  product.registers.insert(product.registers.end(), I.al.begin(), I.al.end());
  warp.products.push_back(std::move(product));
  warp.block->products_in_flight = true;
}

void fence(Warp& warp, const Instruction&, Mask) {
  warp.fence = warp.count;
}

void commit(Warp& warp, const Instruction&, Mask) {
  warp.product_groups.push_back(std::move(warp.products));
  warp.products.clear();
}

void wait(Warp& warp, const Instruction& I, Mask) {
  while (warp.product_groups.size() > size_t(I.number)) {
    finish_products(warp, warp.product_groups.front());
    warp.product_groups.pop_front();
  }
}

void decode_async_product(Decoder& D) {
  Instruction& I = D.I;
  int m, n, k;
  take_shape(D, m, n, k);
  const std::string b = D.take_type(), a = D.take_type(), result = D.take_type();
  const Format format = format_of(D, a);
  if (a != b || result != "f32" || format == DOUBLE) D.refuse("its mixture of types is not known");
  if (m != 64 || n % 8 || n < 8 || n > 256 || k != (format == TF32 ? 8 : 16)) D.refuse("its shape is not known");
  I.n = n, I.k = k, I.number = format;
  I.dl = D.destinations(D.operand(0), 4, size_t(n / 2));
  const bool in_registers = D.operand(1).kind == Operand::LIST;
  if (in_registers)
    I.al = D.sources(D.operand(1), 4, 4);
  else
    I.s[0] = D.source(D.operand(1), 8);
  I.s[1] = D.source(D.operand(2), 8);
  I.s[2] = D.predicate(D.operand(3));
  for (size_t i = 4; i < 6; i++) {
    if (D.integer(D.operand(i)) != 1) D.refuse("operands are not negated here");
  }
  const size_t transposable = format == TF32 ? 0 : in_registers ? 1 : 2;
  D.expect(6 + transposable);
  if (transposable == 2) I.flag = D.integer(D.operand(6)) != 0;
  if (transposable >= 1) I.register_width = D.integer(D.operand(5 + transposable)) != 0;
  I.run = wgmma;
}

void decode_wgmma(Decoder& D) {
  Instruction& I = D.I;
  if (!D.take("sync") || !D.take("aligned")) D.refuse("only .sync.aligned is known");
  I.collective = true;
  if (D.take("mma_async")) return decode_async_product(D);
  if (D.take("fence"))
    I.run = fence;
  else if (D.take("commit_group"))
    I.run = commit;
  else if (D.take("wait_group"))
    I.run = wait;
  else
    D.refuse("it is not known");
  D.expect(I.run == wait ? 1 : 0);
  if (I.run == wait) I.number = int(D.integer(D.operand(0)));
}

}  // namespace

void add_products(Decoders& all) {
  all["mma"] = decode_mma;
  all["wgmma"] = decode_wgmma;
}

}  // namespace emulator
