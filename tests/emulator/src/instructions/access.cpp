// Loads, stores, cp.async, ldmatrix and stmatrix (PTX ISA 9.7.9).
#include <algorithm>
#include <cstring>

#include "text/decode.h"

namespace emulator {
namespace {

// ------------------------------------------------------------------ ld and st

// Elements of memory into registers that may be wider: signed types are extended by their sign.
void put(Warp& warp, const Instruction& I, int lane, const uint8_t* from) {
  for (size_t i = 0; i < I.dl.size(); i++, from += I.width) {
    if (I.dl[i] < 0) continue;
    uint64_t value = 0;
    std::memcpy(&value, from, size_t(I.width));
    if (I.flag && I.width < 8) {
      const int shift = 64 - 8 * I.width;
      value = uint64_t(int64_t(value << shift) >> shift);
    }
    std::memcpy(warp.registers + I.dl[i] + I.register_width * lane, &value, size_t(I.register_width));
  }
}

void load_parameter(Warp& warp, const Instruction& I, Mask mask) {
  const uint8_t* parameters = warp.block->launch->parameters;
  for (int lane = 0; lane < 32; lane++) {
    if (in_mask(mask, lane)) put(warp, I, lane, parameters + I.from.offset);
  }
}

// A generic address: of shared memory where it lies in the window.
bool is_shared(const Instruction& I, uint64_t& address) {
  if (I.space == Space::SHARED) return true;
  if (I.space == Space::GLOBAL || address < SHARED_WINDOW) return false;
  address -= SHARED_WINDOW;
  return true;
}

// Of lanes whose addresses are generic, those in shared memory and the others count as two requests.
void count(Warp& warp, const Instruction& I, Mask mask, const Address& at, int bytes, bool storing) {
  Counters* counters = counters_of(warp);
  if (!counters) return;
  Request global, shared;
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    uint64_t address = address_of(warp, at, lane);
    const bool here = is_shared(I, address);
    (here ? shared : global).add(lane, address);
  }
  storing ? counters->store(global, bytes) : counters->load(global, bytes);
  storing ? counters->shared_store(shared, bytes) : counters->shared_load(shared, bytes);
}

void load(Warp& warp, const Instruction& I, Mask mask) {
  const int bytes = I.width * int(I.dl.size());
  count(warp, I, mask, I.from, bytes, false);
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    uint64_t address = address_of(warp, I.from, lane);
    const bool shared = is_shared(I, address);
    put(warp, I, lane, (shared ? shared_for_read : global_for_read)(warp, I, lane, address, bytes));
  }
}

void store(Warp& warp, const Instruction& I, Mask mask) {
  const int bytes = I.width * int(I.al.size());
  count(warp, I, mask, I.to, bytes, true);
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    uint8_t value[64];
    for (size_t i = 0; i < I.al.size(); i++) {
      std::memcpy(value + size_t(I.width) * i, warp.registers + I.al[i] + I.register_width * lane, size_t(I.width));
    }
    uint64_t address = address_of(warp, I.to, lane);
    const bool shared = is_shared(I, address);
    std::memcpy((shared ? shared_for_write : global_for_write)(warp, I, lane, address, bytes, value), value,
                size_t(bytes));
  }
}

size_t take_vector(Decoder& D) {
  const std::string vector = D.take_one({"v2", "v4"});
  return vector.empty() ? 1 : size_t(vector[1] - '0');
}

Space take_space(Decoder& D) {
  if (D.take("global")) return Space::GLOBAL;
  if (D.take("shared") || D.take("shared::cta")) return Space::SHARED;
  if (D.take("param")) return Space::PARAMETER;
  return Space::GENERIC;
}

void decode_load(Decoder& D) {
  Instruction& I = D.I;
  const std::string type = D.take_type();
  I.space = take_space(D);
  I.width = type_size(type);
  I.flag = type[0] == 's';
  I.register_width = I.width;
  D.take("nc");  // through the read-only cache: the bytes are the same
  const size_t count = take_vector(D);
  D.expect(2);
  const Operand& to = D.operand(0);
  const auto& parts = to.kind == Operand::LIST ? to.parts : std::vector<Operand>{to};
  if (parts.size() != count) D.refuse("its list has not as many registers as its vector");
  for (const auto& part : parts) {
    int size = 0;
    I.dl.push_back(D.any_destination(part, size));
    if (size) I.register_width = size;
    if (size && size < I.width) D.refuse("a register is narrower than its type");
  }
  I.from = D.address(D.operand(1));
  const Parameter* parameter = D.parameter(D.operand(1));
  if (parameter && I.space != Space::PARAMETER) D.refuse("its address is in another space");
  if (I.space == Space::PARAMETER) I.space = Space::GLOBAL;  // an address of parameters in a register
  if (parameter && I.from.offset + I.width * int(count) > parameter->offset + parameter->size) {
    D.refuse("it reads beyond its parameter");
  }
  I.run = parameter ? load_parameter : load;
}

void decode_store(Decoder& D) {
  Instruction& I = D.I;
  const std::string type = D.take_type();
  I.space = take_space(D);
  if (I.space == Space::PARAMETER) D.refuse("parameters are not written");
  I.width = type_size(type);
  D.take("wb");  // the default of caches
  const size_t count = take_vector(D);
  D.expect(2);
  I.to = D.address(D.operand(0));
  const Operand& from = D.operand(1);
  const auto& parts = from.kind == Operand::LIST ? from.parts : std::vector<Operand>{from};
  if (parts.size() != count) D.refuse("its list has not as many registers as its vector");
  I.register_width = I.width;
  for (const auto& part : parts) {  // registers of one size; immediates take it
    int size = I.width;
    if (D.is_register(part)) D.any_source(part, I.width, size);
    I.register_width = std::max(I.register_width, size);
  }
  for (const auto& part : parts) I.al.push_back(D.source(part, I.register_width));
  I.run = store;
}

// ------------------------------------------------------------------ cp.async

// Bytes that are not read are zeros. They arrive at the wait, and until then nobody may touch the destination.
void copy(Warp& warp, const Instruction& I, Mask mask) {
  Request reads, writes;
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const uint64_t from = address_of(warp, I.from, lane), to = address_of(warp, I.to, lane);
    const uint32_t read = I.s[0] < 0 ? uint32_t(I.width) : warp.at_slot<uint32_t>(I.s[0])[lane];
    if (read > uint32_t(I.width)) {
      fail(warp, I, lane, Fault::OTHER, text("cp.async of %d bytes is told to read %u", I.width, read));
    }
    if (from % uint64_t(I.width)) {
      fail(warp, I, lane, Fault::ALIGNMENT,
           text("cp.async from 0x%llx, which is not aligned to %d bytes", (unsigned long long)from, I.width));
    }
    if (read) reads.add(lane, from);
    writes.add(lane, to);
    for (uint32_t i = 0; i < read;) {  // its end may be no multiple of its alignment
      const int bytes = read - i >= 4 ? 4 : 1;
      global_for_read(warp, I, lane, from + i, bytes);
      i += uint32_t(bytes);
    }
    begin_flight(warp, I, lane, uint32_t(to), I.width, SharedMemory::COPYING);
    warp.copies.push_back({uint32_t(to), from, I.width, int(read)});
  }
  if (Counters* counters = counters_of(warp)) {
    counters->load(reads, I.width);
    counters->shared_store(writes, I.width);
  }
}

void commit_copies(Warp& warp, const Instruction&, Mask) {
  warp.copy_groups.push_back(std::move(warp.copies));
  warp.copies.clear();
}

void wait_copies(Warp& warp, const Instruction& I, Mask mask) {
  if (I.flag) commit_copies(warp, I, mask);  // wait_all
  while (warp.copy_groups.size() > size_t(I.number)) {
    land_copies(warp, warp.copy_groups.front());
    warp.copy_groups.pop_front();
  }
}

void decode_copy(Decoder& D) {
  Instruction& I = D.I;
  if (D.take("commit_group")) {
    D.expect(0);
    I.run = commit_copies;
    I.collective = true;
  } else if (D.take("wait_all") || D.take("wait_group")) {
    I.flag = D.count() == 0;
    D.expect(0, 1);
    I.number = I.flag ? 0 : int(D.integer(D.operand(0)));
    I.run = wait_copies;
    I.collective = true;
  } else {
    const std::string cache = D.take_one({"ca", "cg"});
    if (cache.empty() || !(D.take("shared") || D.take("shared::cta")) || !D.take("global")) {
      D.refuse("only .ca and .cg from .global to .shared are known");
    }
    D.take("L2::128B");  // a hint to prefetch
    D.expect(3, 4);
    I.space = Space::SHARED;
    I.to = D.address(D.operand(0));
    I.from = D.address(D.operand(1));
    I.width = int(D.integer(D.operand(2)));
    if (D.count() == 4) I.s[0] = D.source(D.operand(3), 4);
    if (I.width != 16 && (cache == "cg" || (I.width != 4 && I.width != 8))) {
      D.refuse(std::to_string(I.width) + " bytes are none of its sizes");
    }
    I.run = copy;
  }
}

// ------------------------------------------------------------------ matrices of 8 x 8 elements of 16 bits

// Lane 8 i + r holds the address of row r of matrix i. Lane l gets, or gives, columns 2 (l % 4) and the next of row
// l / 4; transposed, rows and columns change places.
struct Element {
  int row, byte;
};
Element element(int lane, int half, bool transposed) {
  const int across = 2 * (lane % 4) + half, along = lane / 4;
  return transposed ? Element{across, 2 * along} : Element{along, 2 * across};
}

void load_matrices(Warp& warp, const Instruction& I, Mask) {
  const uint8_t* rows[32];
  Request request;
  for (int lane = 0; lane < 8 * I.n; lane++) {
    rows[lane] = shared_for_read(warp, I, lane, address_of(warp, I.from, lane), 16);
    request.add(lane, address_of(warp, I.from, lane));
  }
  if (Counters* counters = counters_of(warp)) counters->shared_load(request, 16);
  uint32_t found[4][32];
  for (int i = 0; i < I.n; i++) {
    for (int lane = 0; lane < 32; lane++) {
      uint16_t halves[2];
      for (int half = 0; half < 2; half++) {
        const Element e = element(lane, half, I.flag);
        std::memcpy(&halves[half], rows[8 * i + e.row] + e.byte, 2);
      }
      found[i][lane] = uint32_t(halves[1]) << 16 | halves[0];
    }
  }
  for (int i = 0; i < I.n; i++) std::memcpy(warp.registers + I.dl[size_t(i)], found[i], sizeof found[i]);
}

void store_matrices(Warp& warp, const Instruction& I, Mask) {
  Request request;
  for (int i = 0; i < I.n; i++) {
    uint8_t rows[8][16];
    const uint32_t* values = warp.at_slot<uint32_t>(I.al[size_t(i)]);
    for (int lane = 0; lane < 32; lane++) {
      for (int half = 0; half < 2; half++) {
        const Element e = element(lane, half, I.flag);
        const auto value = uint16_t(values[lane] >> (16 * half));
        std::memcpy(rows[e.row] + e.byte, &value, 2);
      }
    }
    for (int row = 0; row < 8; row++) {
      const int lane = 8 * i + row;
      std::memcpy(shared_for_write(warp, I, lane, address_of(warp, I.to, lane), 16, rows[row]), rows[row], 16);
      request.add(lane, address_of(warp, I.to, lane));
    }
  }
  if (Counters* counters = counters_of(warp)) counters->shared_store(request, 16);
}

void decode_matrices(Decoder& D, bool loading) {
  Instruction& I = D.I;
  if (!D.take("sync") || !D.take("aligned") || !D.take("m8n8") || !D.take("b16")) {
    D.refuse("only .sync.aligned.m8n8 of .b16 is known");
  }
  const std::string count = D.take_one({"x1", "x2", "x4"});
  if (count.empty() || !(D.take("shared") || D.take("shared::cta")))
    D.refuse("only .x1, .x2 and .x4 in .shared are known");
  I.n = count[1] - '0';
  I.flag = D.take("trans");
  I.space = Space::SHARED;
  I.collective = true;
  D.expect(2);
  if (loading) {
    I.dl = D.destinations(D.operand(0), 4, size_t(I.n));
    I.from = D.address(D.operand(1));
    I.run = load_matrices;
  } else {
    I.to = D.address(D.operand(0));
    I.al = D.sources(D.operand(1), 4, size_t(I.n));
    I.run = store_matrices;
  }
}

}  // namespace

// cp begins cp.async and the copies of TMA: tiles.cpp has the latter.
void decode_tile_copy(Decoder& D);

void add_memory(Decoders& all) {
  all["ld"] = decode_load;
  all["st"] = decode_store;
  all["cp"] = [](Decoder& D) {
    if (!D.take("async")) D.refuse("only cp.async is known");
    D.take("bulk") ? decode_tile_copy(D) : decode_copy(D);
  };
  all["ldmatrix"] = [](Decoder& D) { decode_matrices(D, true); };
  all["stmatrix"] = [](Decoder& D) { decode_matrices(D, false); };
}

}  // namespace emulator
