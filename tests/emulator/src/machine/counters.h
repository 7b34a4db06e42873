// What kernels ask of an NVIDIA GPU's memory and tensor cores, in the units of its profilers.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <unordered_set>

#include "machine/memory.h"

namespace emulator {

// Where the lanes of a warp access memory in one instruction.
struct Request {
  int lanes = 0;
  std::array<uint64_t, 32> address;
  std::array<int, 32> lane;
  void add(int of, uint64_t at) {
    lane[size_t(lanes)] = of;
    address[size_t(lanes++)] = at;
  }
};

// Global memory moves in sectors of 32 bytes. Of those a request asks for, it uses some bytes.
struct Sectors {
  uint64_t requests = 0, asked = 0, used_bytes = 0;
};

// Shared memory has 32 banks of 4 bytes. A wavefront serves a word of each; two words of one bank take two. Requests of
// 8 bytes a lane go by half-warps, of 16 bytes by quarters. At the least: as many as their distinct words fill.
struct Wavefronts {
  uint64_t requests = 0, needed = 0, least = 0;
};

class Counters {
 public:
  void load(const Request&, int bytes);
  void store(const Request&, int bytes);
  void shared_load(const Request&, int bytes);
  void shared_store(const Request&, int bytes);
  void tile();                                   // by TMA: a box,
  void tile_line(uint64_t begin, uint64_t end);  // and a line of it that lies in the tensor
  void product(uint64_t multiply_adds) { multiply_adds_ += multiply_adds; }
  void next_block() {
    blocks_++;
    seen_.clear();
  }
  std::string lines() const;  // "name value" a line

 private:
  void reads(uint64_t begin, uint64_t end);
  Sectors loads_, stores_, tiles_;
  Wavefronts shared_loads_, shared_stores_;
  uint64_t blocks_ = 0, multiply_adds_ = 0;
  uint64_t from_l2_ = 0;               // sectors: of each block those it reads, once, as if its L1 kept them all
  std::unordered_set<uint64_t> seen_;  // of this block
};

}  // namespace emulator
