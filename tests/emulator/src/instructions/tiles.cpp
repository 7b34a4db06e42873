// cp.async.bulk.tensor: TMA brings a box of a tensor into shared memory (PTX ISA 9.7.9.27, 5.5).
#include <algorithm>
#include <cstring>

#include "driver/tensor_map.h"
#include "instructions/numbers.h"
#include "text/decode.h"

namespace emulator {
namespace {

std::shared_ptr<TensorMap> map_at(Warp& warp, const Instruction& I, int lane, uint64_t address) {
  const Launch& launch = *warp.block->launch;
  const auto begin = reinterpret_cast<uint64_t>(launch.parameters);
  const bool parameter = address >= begin && address + 128 <= begin + launch.parameter_bytes;
  if (!parameter) global_for_read(warp, I, lane, address, 64);
  if (address % 64) fail(warp, I, lane, Fault::ALIGNMENT, "a tensor map is not aligned to 64 bytes");
  auto map = std::make_shared<TensorMap>();
  std::memcpy(map.get(), reinterpret_cast<void*>(address), sizeof *map);
  if (map->magic != TensorMap::MAGIC) fail(warp, I, lane, Fault::OTHER, "its operand is no tensor map");
  if (map->rank != I.n) {
    fail(warp, I, lane, Fault::OTHER, text("a tensor map of %d axes in an instruction for %d", map->rank, I.n));
  }
  return map;
}

void load_tile(Warp& warp, const Instruction& I, Mask mask) {
  Block& block = *warp.block;
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    TileLoad load{&I, &warp,  uint32_t(address_of(warp, I.to, lane)), uint32_t(address_of(warp, I.from, lane)),
                  {}, nullptr};
    load.map = map_at(warp, I, lane, warp.at_slot<uint64_t>(I.s[0])[lane] + uint64_t(int64_t(I.number)));
    for (int i = 0; i < I.n; i++) load.at[size_t(i)] = warp.at_slot<int32_t>(I.al[size_t(i)])[lane];
    if (load.to % 128) {
      fail(warp, I, lane, Fault::ALIGNMENT, text("shared address %u is not aligned to 128 bytes", load.to));
    }
    if (!block.transaction_barriers.count(load.barrier)) {
      fail(warp, I, lane, Fault::OTHER, text("there is no mbarrier at shared byte %u", load.barrier));
    }
    shared_for_read(warp, I, lane, load.barrier, 8);
    for (uint32_t i = 0; i < load.map->box_bytes(); i += 16) {
      begin_flight(warp, I, lane, load.to + i, 16, SharedMemory::LOADING);
    }
    block.loads.push_back(std::move(load));
    if (Counters* counters = counters_of(warp)) counters->tile();
  }
  warp.knowledge.seen[size_t(warp.id)]++;
}

// float32 to the nearest TF32, ties to even; NaN and Inf stay as they are.
void round_line(uint8_t* begin, const uint8_t* end) {
  for (; begin < end; begin += 4) {
    uint32_t bits;
    std::memcpy(&bits, begin, 4);
    if ((bits >> 23 & 255) != 255) bits = round_even(bits, 13) & ~0x1fffu;
    std::memcpy(begin, &bits, 4);
  }
}

// One line of the box along the innermost axis; what lies outside of the tensor is `fill`.
void read_line(const TileLoad& load, uint64_t address, bool inside, uint8_t* line) {
  const TensorMap& map = *load.map;
  const int element = map.element, first = load.at[0];
  std::memset(line, map.nan_fill ? 0xff : 0, size_t(map.box[0]) * size_t(element));
  if (!inside) return;
  const int begin = std::max(0, -first), end = int(std::min<int64_t>(map.box[0], int64_t(map.sizes[0]) - first));
  if (Counters* counters = counters_of(*load.warp)) {
    counters->tile_line(address + uint64_t(int64_t(begin) * element), address + uint64_t(int64_t(end) * element));
  }
  for (int i = begin; i < end;) {
    const uint64_t from = address + uint64_t(int64_t(i) * element);
    const int bytes = from % 16 == 0 && (end - i) * element >= 16 ? 16 : element;
    std::memcpy(line + i * element, global_for_read(*load.warp, *load.instruction, -1, from, bytes), size_t(bytes));
    i += bytes / element;
  }
  if (map.to_tf32) round_line(line + begin * element, line + std::max(begin, end) * element);
}

void decode_load_tile(Decoder& D) {
  Instruction& I = D.I;
  const std::string rank = D.take_one({"1d", "2d", "3d", "4d", "5d"});
  const bool to_shared = D.take("shared::cta") || D.take("shared::cluster");
  if (rank.empty() || !to_shared || !D.take("global") || !D.take("mbarrier::complete_tx::bytes")) {
    D.refuse("only tiles from .global to .shared with an mbarrier are known");
  }
  D.take("tile");
  D.expect(3);
  I.n = rank[0] - '0';
  I.space = Space::SHARED;
  I.to = D.address(D.operand(0));
  const Operand& map = D.operand(1);
  if (map.kind != Operand::ADDRESS || map.parts.size() != 1) D.refuse("a tensor map and its coordinates were expected");
  Operand base;
  base.text = map.text;
  I.s[0] = D.source(base, 8);
  I.number = int(map.offset);
  I.al = D.sources(map.parts[0], 4, size_t(I.n));
  I.from = D.address(D.operand(2));
  I.run = load_tile;
}

}  // namespace

void decode_tile_copy(Decoder& D) {
  if (!D.take("tensor")) D.refuse("only the tensors of cp.async.bulk are known");
  decode_load_tile(D);
}

// All of it at once, at a moment that the scheduler chooses.
void land_tile(Block& block, TileLoad& load) {
  const TensorMap& map = *load.map;
  SharedMemory& shared = block.shared;
  const uint32_t line_bytes = uint32_t(map.box[0]) * map.element, bytes = map.box_bytes();
  const size_t agent = shared.agents() - 1;
  block.async_now++;
  std::vector<uint8_t> line(line_bytes);
  int at[5] = {0, 0, 0, 0, 0};
  for (uint32_t offset = 0; offset < bytes; offset += line_bytes) {
    bool inside = true;
    uint64_t address = map.address + uint64_t(int64_t(load.at[0]) * map.element);
    for (int axis = 1; axis < map.rank; axis++) {
      const int64_t place = int64_t(load.at[size_t(axis)]) + at[axis];
      inside &= place >= 0 && place < int64_t(map.sizes[axis]);
      address += uint64_t(place) * map.strides[axis];
    }
    read_line(load, address, inside, line.data());
    for (uint32_t i = 0; i < line_bytes; i += 16) {
      std::memcpy(shared.at(swizzled(load.to + offset + i, map.swizzle)), &line[i], 16);
    }
    for (int axis = 1; axis < map.rank; axis++) {
      if (++at[axis] < map.box[axis]) break;
      at[axis] = 0;
    }
  }
  for (uint32_t grain = load.to / GRAIN; grain * GRAIN < load.to + bytes; grain++) {
    shared.flight(grain) = SharedMemory::LANDED;
    std::fill(shared.writes(grain), shared.writes(grain) + shared.agents(), 0);
    shared.writes(grain)[agent] = block.async_now;
  }
  const auto barrier = block.transaction_barriers.find(load.barrier);
  if (barrier == block.transaction_barriers.end()) {
    fail(*load.warp, *load.instruction, -1, Fault::OTHER, "its mbarrier is gone before it has landed");
  }
  auto& known = barrier->second.knowledge;
  known.seen[agent] = known.fenced[agent] = block.async_now;
  block.progress++;
  arrive(block, barrier->second, 0, -int64_t(bytes));
}

}  // namespace emulator
