// What no GPU checks: bounds, alignment, unwritten memory, data in flight, races.
//
// Two accesses of two warps, or of two lanes, race where neither knows that the other is over, one of them writes, and
// the bytes change: writing what is there already harms nobody. Each warp has a clock, which advances when it lets
// others know of its past (at a barrier, an arrival), and notes what it knows of the others' clocks: the vector clocks
// of Lamport and Mattern.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "machine/machine.h"

namespace emulator {

std::string text(const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

void fail(const Warp& warp, const Instruction& instruction, int lane, Fault fault, const std::string& what) {
  const Block& block = *warp.block;
  const Kernel& kernel = *block.launch->kernel;
  const Statement& source = *instruction.source;
  const auto file = kernel.files.find(source.file);
  std::string path = file == kernel.files.end() ? "?" : file->second;
  path = path.substr(path.rfind('/') + 1);
  const Dim3& index = block.index;
  std::string where = text("%s, %s:%d, block (%u, %u, %u), warp %d", kernel.entry.name.c_str(), path.c_str(),
                           source.line, index.x, index.y, index.z, warp.id);
  if (lane >= 0) where += text(", lane %d", lane);
  const std::string shown = source.text.substr(0, 160);
  throw Finding(fault, where + ": " + what +
                           text("\n  in: %s\n  seed %llu", shown.c_str(), (unsigned long long)block.launch->seed));
}

namespace {

std::string warps_in(const Block& block, const uint32_t* times, const std::vector<uint32_t>& known) {
  std::string list;
  for (size_t i = 0; i < known.size(); i++) {
    if (times[i] <= known[i]) continue;
    list += (list.empty() ? "" : ", ") + (i < block.warps.size() ? "warp " + std::to_string(i) : std::string("TMA"));
  }
  return list;
}

bool any_unknown(const uint32_t* times, const uint32_t* known, size_t agents) {
  bool any = false;
  for (size_t i = 0; i < agents; i++) any |= times[i] > known[i];
  return any;
}

void check_shared_place(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes) {
  const size_t size = warp.block->shared.size();
  if (address % uint64_t(bytes)) {
    fail(warp, I, lane, Fault::ALIGNMENT,
         text("shared address %llu is not aligned to %d bytes", (unsigned long long)address, bytes));
  }
  if (address + uint64_t(bytes) > size) {
    fail(warp, I, lane, Fault::ADDRESS,
         text("shared address %llu, %d bytes, is outside of %zu bytes of shared memory", (unsigned long long)address,
              bytes, size));
  }
}

void check_flight(Warp& warp, const Instruction& I, int lane, uint32_t grain, const char* what) {
  const auto flight = warp.block->shared.flight(grain);
  if (flight == SharedMemory::LANDED) return;
  fail(warp, I, lane, Fault::OTHER,
       text("%s shared byte %u, which %s is still writing", what, grain * GRAIN,
            flight == SharedMemory::COPYING ? "a cp.async that nobody has waited for" : "TMA"));
}

// A product of wgmma that has not been waited for reads its operands at any moment.
void check_products(Warp& warp, const Instruction& I, int lane, uint32_t begin, uint32_t end) {
  for (const Warp& other : warp.block->warps) {
    const auto check = [&](const std::vector<Product>& products) {
      for (const auto& product : products) {
        for (const auto& [from, to] : product.reads) {
          if (begin >= to || from >= end) continue;
          fail(
              warp, I, lane, Fault::OTHER,
              text("writes shared byte %u, which a wgmma of warp %d in flight reads", std::max(begin, from), other.id));
        }
      }
    };
    check(other.products);
    for (const auto& group : other.product_groups) check(group);
  }
}

// Two lanes of a warp race too, unless a barrier of the block or of the warp came in between: its clock has moved then.
bool races_with_lane(const Warp& warp, uint8_t other, uint32_t time, int lane) {
  return time == warp.now() && other != SharedMemory::ANY_LANE && other != uint8_t(lane);
}

constexpr const char* LANES_RACE = "races: %s shared byte %u, which lane %d %s, with no barrier of the warp in between";

void note_read(Warp& warp, const Instruction& I, int lane, uint32_t grain, bool by_product) {
  Block& block = *warp.block;
  SharedMemory& shared = block.shared;
  check_flight(warp, I, lane, grain, "reads");
  const char* unwritten = "reads shared byte %u, which nothing has written";
  if (!shared.written(grain)) fail(warp, I, lane, Fault::OTHER, text(unwritten, grain * GRAIN));
  const uint32_t* writes = shared.writes(grain);
  const auto& known = warp.knowledge.seen;
  if (any_unknown(writes, known.data(),
                  known.size())) {  // harmless where a write of the same value is known: see the head of this file
    bool one_known = false;
    for (size_t i = 0; i < known.size(); i++) one_known |= writes[i] > block.began && writes[i] <= known[i];
    if (!one_known) {
      fail(warp, I, lane, Fault::OTHER,
           text("races: reads shared byte %u, which %s wrote, with no barrier in between", grain * GRAIN,
                warps_in(block, writes, known).c_str()));
    }
  }
  const uint8_t writer = shared.write_lane(grain);
  if (lane >= 0 && races_with_lane(warp, writer, writes[warp.id], lane)) {
    fail(warp, I, lane, Fault::OTHER, text(LANES_RACE, "reads", grain * GRAIN, writer, "wrote"));
  }
  const auto& fenced = warp.knowledge.fenced;  // of warps: what TMA wrote needs no fence
  if (by_product && any_unknown(writes, fenced.data(), fenced.size() - 1)) {
    fail(warp, I, lane, Fault::OTHER,
         text("reads shared byte %u by the asynchronous proxy, which %s wrote, with no fence.proxy.async in between",
              grain * GRAIN, warps_in(block, writes, fenced).c_str()));
  }
  shared.reads(grain)[warp.id] = warp.now();
  if (!by_product) shared.generic_reads(grain)[warp.id] = warp.now();
  shared.read_lane(grain) = I.collective || lane < 0 ? SharedMemory::ANY_LANE : uint8_t(lane);
}

// `same`: the bytes that are there already are written.
void note_write(Warp& warp, const Instruction& I, int lane, uint32_t grain, bool same, size_t agent, uint32_t now) {
  Block& block = *warp.block;
  SharedMemory& shared = block.shared;
  check_flight(warp, I, lane, grain, "writes");
  uint32_t* writes = shared.writes(grain);
  const auto& known = warp.knowledge.seen;
  if (!(same && shared.written(grain))) {
    const uint32_t* reads = shared.reads(grain);
    for (const auto& [times, verb] : {std::pair<const uint32_t*, const char*>(writes, "wrote"), {reads, "read"}}) {
      if (!any_unknown(times, known.data(), known.size())) continue;
      fail(warp, I, lane, Fault::OTHER,
           text("races: writes shared byte %u, which %s %s, with no barrier in between", grain * GRAIN,
                warps_in(block, times, known).c_str(), verb));
    }
    const uint8_t writer = shared.write_lane(grain), reader = shared.read_lane(grain);
    const bool rewrites = races_with_lane(warp, writer, writes[warp.id], lane);
    if (rewrites || races_with_lane(warp, reader, reads[warp.id], lane)) {
      fail(warp, I, lane, Fault::OTHER,
           text(LANES_RACE, "writes", grain * GRAIN, rewrites ? writer : reader, rewrites ? "wrote" : "read"));
    }
    std::fill(writes, writes + shared.agents(), 0);
  }
  // Of lanes that write the same, the first since a barrier: who wrote before that is over.
  if (!(same && shared.written(grain)) || writes[warp.id] != warp.now())
    shared.write_lane(grain) = I.collective ? SharedMemory::ANY_LANE : uint8_t(lane);
  writes[agent] = now;
  shared.set_written(grain);
}

std::string global_place(Warp& warp, uint64_t address, int bytes) {
  return text("address 0x%llx, ", (unsigned long long)address) +
         warp.block->launch->global->describe(address, uint64_t(bytes));
}

const Allocation& check_global_place(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes) {
  if (address % uint64_t(bytes)) {
    fail(warp, I, lane, Fault::ALIGNMENT,
         text("not aligned to %d bytes: ", bytes) + global_place(warp, address, bytes));
  }
  const Allocation* found = warp.block->launch->global->find(address, uint64_t(bytes));
  if (!found) {
    fail(warp, I, lane, Fault::ADDRESS, text("%d bytes out of bounds: ", bytes) + global_place(warp, address, bytes));
  }
  return *found;
}

bool is_poison(const uint8_t* bytes, int size, int itemsize) {
  for (int item = 0; item + itemsize <= size; item += itemsize) {
    if (std::all_of(bytes + item, bytes + item + itemsize, [](uint8_t b) { return b == 0xff; })) return true;
  }
  return false;
}

void check_global_races(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes, const void* value) {
  Block& block = *warp.block;
  const auto& known = warp.knowledge.seen;
  const auto over = [&](const GlobalAccess& access) {  // whether it is known to be over
    return access.block == 0 || (access.block == block.number && access.time <= known[access.warp]);
  };
  const auto by_lane = [&](const GlobalAccess& access) {
    return access.block == block.number && access.warp == warp.id &&
           races_with_lane(warp, access.lane, access.time, lane);
  };
  const auto whose = [&](const GlobalAccess& access) {
    if (by_lane(access)) return text("lane %d (with no barrier of the warp in between)", access.lane);
    return text("block %u (in the order of the schedule; this is block %u)", access.block, block.number);
  };
  const bool same = value && std::memcmp(reinterpret_cast<void*>(address), value, size_t(bytes)) == 0;
  // two lanes may each have a byte of a grain
  const uint8_t by = bytes < int(GRAIN) ? SharedMemory::ANY_LANE : uint8_t(lane);
  const GlobalAccess now{block.number, warp.now(), uint8_t(warp.id), by};
  GlobalNote* note = block.launch->global->notes(address);
  for (int i = 0; i < (bytes + int(GRAIN) - 1) / int(GRAIN); i++, note++) {
    const auto check = [&](const GlobalAccess& before, bool others, const char* wrote_or_read) {
      if (!others && over(before) && !by_lane(before)) return;
      fail(warp, I, lane, Fault::OTHER,
           text("races: %s what %s %s: ", value ? "writes" : "reads", whose(before).c_str(), wrote_or_read) +
               global_place(warp, address, bytes));
    };
    if (!same) check(note->write, false, "wrote");
    if (value && !same) check(note->read, note->read_by_others, "read");
    if (value) {
      *note = GlobalNote{now, {}, false};
    } else {
      note->read_by_others |= !over(note->read);
      note->read = now;
    }
  }
}

}  // namespace

uint8_t* shared_for_read(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes) {
  check_shared_place(warp, I, lane, address, bytes);
  const auto begin = uint32_t(address);
  for (uint32_t grain = begin / GRAIN; grain * GRAIN < begin + uint32_t(bytes); grain++) {
    note_read(warp, I, lane, grain, false);
  }
  return warp.block->shared.at(begin);
}

const uint8_t* shared_for_product(Warp& warp, const Instruction& I, uint64_t address, int bytes) {
  check_shared_place(warp, I, -1, address, bytes);
  const auto begin = uint32_t(address);
  for (uint32_t grain = begin / GRAIN; grain * GRAIN < begin + uint32_t(bytes); grain++) {
    note_read(warp, I, -1, grain, true);
  }
  return warp.block->shared.at(begin);
}

uint8_t* shared_for_write(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes, const void* value) {
  check_shared_place(warp, I, lane, address, bytes);
  SharedMemory& shared = warp.block->shared;
  const auto begin = uint32_t(address), end = begin + uint32_t(bytes);
  if (warp.block->products_in_flight) check_products(warp, I, lane, begin, end);
  const auto* now = shared.at(begin);
  for (uint32_t grain = begin / GRAIN; grain * GRAIN < end; grain++) {
    const uint32_t from = std::max(grain * GRAIN, begin) - begin, to = std::min((grain + 1) * GRAIN, end) - begin;
    const bool same = value && std::equal(now + from, now + to, static_cast<const uint8_t*>(value) + from);
    note_write(warp, I, lane, grain, same, size_t(warp.id), warp.now());
  }
  return shared.at(begin);
}

uint8_t* global_for_read(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes) {
  const Allocation& in = check_global_place(warp, I, lane, address, bytes);
  auto* at = reinterpret_cast<uint8_t*>(address);
  if (in.itemsize && is_poison(at, bytes, in.itemsize)) {
    fail(warp, I, lane, Fault::OTHER, "reads what nothing has written: " + global_place(warp, address, bytes));
  }
  if (!in.read_only) check_global_races(warp, I, lane, address, bytes, nullptr);
  return at;
}

uint8_t* global_for_write(Warp& warp, const Instruction& I, int lane, uint64_t address, int bytes, const void* value) {
  const Allocation& in = check_global_place(warp, I, lane, address, bytes);
  if (in.read_only) {
    fail(warp, I, lane, Fault::ADDRESS, "writes what is read only: " + global_place(warp, address, bytes));
  }
  check_global_races(warp, I, lane, address, bytes, value);
  return reinterpret_cast<uint8_t*>(address);
}

// What TMA overwrites was read, or written, through the generic proxy: a fence has to lie in between.
static void check_overwritten(Warp& warp, const Instruction& I, int lane, uint32_t address, int bytes) {
  SharedMemory& shared = warp.block->shared;
  const auto& fenced = warp.knowledge.fenced;
  for (uint32_t grain = address / GRAIN; grain * GRAIN < address + uint32_t(bytes); grain++) {
    for (const auto& [times, verb] : {std::pair<const uint32_t*, const char*>(shared.generic_reads(grain), "read"),
                                      {shared.writes(grain), "wrote"}}) {
      if (!any_unknown(times, fenced.data(), fenced.size() - 1)) continue;
      fail(
          warp, I, lane, Fault::OTHER,
          text("overwrites shared byte %u by the asynchronous proxy, which %s %s, with no fence.proxy.async in between",
               grain * GRAIN, warps_in(*warp.block, times, fenced).c_str(), verb));
    }
  }
}

void begin_flight(Warp& warp, const Instruction& I, int lane, uint32_t address, int bytes, SharedMemory::Flight kind) {
  if (kind == SharedMemory::LOADING) check_overwritten(warp, I, lane, address, bytes);
  uint8_t* at = shared_for_write(warp, I, lane, address, bytes, nullptr);
  std::fill(at, at + bytes, 0xff);
  for (uint32_t grain = address / GRAIN; grain * GRAIN < address + uint32_t(bytes); grain++) {
    warp.block->shared.flight(grain) = kind;
  }
}

void land_copies(Warp& warp, std::vector<Copy>& copies) {
  SharedMemory& shared = warp.block->shared;
  for (const Copy& copy : copies) {
    std::memcpy(shared.at(copy.to), reinterpret_cast<void*>(copy.from), size_t(copy.read));
    std::memset(shared.at(copy.to) + copy.read, 0, size_t(copy.bytes - copy.read));
    for (uint32_t grain = copy.to / GRAIN; grain * GRAIN < copy.to + uint32_t(copy.bytes); grain++) {
      shared.flight(grain) = SharedMemory::LANDED;
      shared.writes(grain)[warp.id] = warp.now();
    }
  }
}

void finish_products(Warp& warp, std::vector<Product>& products) {
  SharedMemory& shared = warp.block->shared;
  for (const Product& product : products) {
    for (const auto& [from, to] : product.reads) {
      for (uint32_t grain = from / GRAIN; grain * GRAIN < to; grain++) shared.reads(grain)[warp.id] = warp.now();
    }
  }
}

}  // namespace emulator
