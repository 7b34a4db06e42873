// What runs: kernels as decoded instructions, and the warps, blocks and launches that run them.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "machine/counters.h"
#include "machine/memory.h"
#include "text/ptx.h"

namespace emulator {

struct Warp;
struct Instruction;
using Execute = void (*)(Warp&, const Instruction&, Mask);

// Where the bytes of an address operand come from: a register and a constant.
struct Address {
  int slot = -1;  // -1: the constant alone
  bool wide = false;
  int64_t offset = 0;
};

// Registers are slots of a warp's file: the byte at which 32 lanes lie side by side. A predicate is 32 bits a lane, all
// of them its value. An immediate is a slot too, which nothing writes.
struct Instruction {
  enum Flow : uint8_t { NEXT, BRANCH, RETURN, BARRIER, POLL } flow = NEXT;
  Execute run = nullptr;
  int guard = -1;
  bool guard_negated = false;
  bool collective = false;  // every lane of the warp has to execute it together
  std::array<int, 2> d{-1, -1};
  std::array<int, 4> s{-1, -1, -1, -1};
  std::vector<int> dl, al, bl, cl;  // destinations, and up to three lists of sources
  Address to, from;
  Space space = Space::GENERIC;
  int width = 0;             // bytes of an element in memory, or of a piece of a register
  int register_width = 0;    // bytes of the register that holds it
  int n = 0;                 // of a vector; columns of a product
  int k = 0;                 // depth of a product; kind of a collective
  bool flag = false;         // sign extension, transposition, negation
  int number = 0;            // a constant of the instruction
  int target = -1;           // of a branch
  int opcode = 0;            // index into the kernel's names
  std::vector<int> touched;  // every register slot it names, for what wgmma still uses
  Statement const* source = nullptr;
};

struct Kernel {
  Entry entry;
  std::vector<Instruction> code;
  std::vector<std::string> opcodes;
  int register_bytes = 0;
  std::vector<std::pair<int, std::vector<uint8_t>>> constants;  // slot, 32 lanes of it
  std::map<std::string, int> specials;                          // %tid.x, ... -> slot
  std::vector<std::pair<int, int>> parameter_addresses;         // slot, offset among the parameters
  int static_shared = 0;
  int dynamic_shared_at = 0;
  bool uses_wgmma = false;
  std::map<int, std::string> files;
  std::vector<uint64_t> executed;  // warp-instructions by opcode, over all launches
};

// Turns a parsed entry into a kernel. Throws InvalidPtx for an opcode, modifier or operand that is not known.
std::unique_ptr<Kernel> decode(const Module& module, const Entry& entry);

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

// When what: of each agent (a warp, or the one that stands for TMA) the last moment that an observer knows to be over.
// `fenced` counts what a proxy fence followed, too: what the asynchronous proxy (wgmma, TMA) may then read.
struct Knowledge {
  std::vector<uint32_t> seen, fenced;
  void join(const Knowledge& other);
};

struct Copy {  // by cp.async
  uint32_t to;
  uint64_t from;
  int bytes, read;
};

struct Barrier {  // bar.sync, by its number
  int waiting = 0;
  Knowledge knowledge;
};

struct TransactionBarrier {  // mbarrier, by its address
  uint32_t expected = 0, pending = 0;
  int64_t bytes = 0;
  bool phase = false;
  Knowledge knowledge;
};

struct TensorMap;
struct TileLoad {  // by TMA
  const Instruction* instruction;
  Warp* warp;
  uint32_t to, barrier;
  std::array<int32_t, 5> at;
  std::shared_ptr<TensorMap> map;
};

struct Product {  // by wgmma: what it reads of shared memory, and its registers
  std::vector<std::pair<uint32_t, uint32_t>> reads;
  std::vector<int> registers;
};

struct Block;
struct Warp {
  enum State : uint8_t { READY, AT_BARRIER, POLLING, DONE } state = READY;
  Block* block = nullptr;
  int id = 0;
  std::vector<uint8_t> storage;
  uint8_t* registers = nullptr;
  Mask active = ALL_LANES, alive = ALL_LANES;
  int at = 0, next_at = 0;  // of the active lanes, and of those that come next
  bool diverged = false;
  std::array<int, 32> lane_at{};
  int barrier = 0, barrier_warps = 0;
  bool arriving_only = false;
  uint64_t polled = 0;
  Knowledge knowledge;
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> copy_groups;
  std::vector<Product> products;
  std::deque<std::vector<Product>> product_groups;
  std::vector<uint64_t> written;  // by slot / 64: the instruction that wrote it last, where wgmma is used
  uint64_t count = 0, fence = 0;

  template <class T>
  T* at_slot(int slot) {
    return reinterpret_cast<T*>(registers + slot);
  }
  uint32_t now() const { return knowledge.seen[size_t(id)]; }
};

struct Launch;
struct Block {
  Launch* launch = nullptr;
  Dim3 index;
  uint32_t number = 0;  // from 1 on, in the order in which blocks run
  SharedMemory shared;
  std::vector<Warp> warps;
  std::map<int, Barrier> barriers;
  std::map<uint32_t, TransactionBarrier> transaction_barriers;
  std::vector<TileLoad> loads;
  uint64_t progress = 0;
  uint32_t began = 0;      // a moment before everything in this block
  uint32_t async_now = 0;  // the clock of TMA
  bool products_in_flight = false;
};

struct Launch {
  Kernel* kernel = nullptr;
  Dim3 grid, threads;
  int shared_bytes = 0;           // static and dynamic
  uint8_t* parameters = nullptr;  // aligned as TMA's descriptors among them have to be
  size_t parameter_bytes = 0;
  std::vector<uint8_t> parameter_storage;
  GlobalMemory* global = nullptr;
  uint64_t seed = 0;
  std::mt19937_64 random;
  uint64_t instructions = 0;
  uint64_t most_blocks = ~uint64_t(0);  // a random choice of so many runs
  Counters* counters = nullptr;         // where there is somebody who wants to know

  void set_parameters(const std::vector<uint8_t>& values);
};

// Runs every block, or a choice of them. Throws Finding for whatever a kernel must not do.
void run(Launch& launch);

// Throws a Finding that says where: kernel, line, block, warp, lane.
[[noreturn]] void fail(const Warp& warp, const Instruction& instruction, int lane, Fault fault,
                       const std::string& what);

// printf into a string.
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ------------------------------------------------------------------ what instructions share

inline uint64_t address_of(Warp& warp, const Address& a, int lane) {
  if (a.slot < 0) return uint64_t(a.offset);
  if (a.wide) return warp.at_slot<uint64_t>(a.slot)[lane] + uint64_t(a.offset);
  return uint32_t(warp.at_slot<uint32_t>(a.slot)[lane] + uint32_t(a.offset));
}

// Where TMA and wgmma find the 16-byte piece of shared memory that lies at `address` before the swizzle of 32, 64 or
// 128 bytes: bits 4 and up are XORed with those from 7 on.
inline uint32_t swizzled(uint32_t address, uint32_t bytes) {
  const uint32_t pieces = bytes / 16 - 1;  // 0 without a swizzle
  return address ^ (address >> 3 & pieces << 4);
}

inline bool in_mask(Mask mask, int lane) {
  return mask >> lane & 1;
}

inline Counters* counters_of(const Warp& warp) {
  return warp.block->launch->counters;
}

Mask mask_of(Warp& warp, int predicate_slot, bool negated);

// Bounds, alignment and races of one lane's access; returns where its bytes are.
uint8_t* shared_for_read(Warp&, const Instruction&, int lane, uint64_t address, int bytes);
uint8_t* shared_for_write(Warp&, const Instruction&, int lane, uint64_t address, int bytes, const void* value);
uint8_t* global_for_read(Warp&, const Instruction&, int lane, uint64_t address, int bytes);
uint8_t* global_for_write(Warp&, const Instruction&, int lane, uint64_t address, int bytes, const void* value);

// Reads of the asynchronous proxy: every write has to lie before a proxy fence that the warp knows of.
const uint8_t* shared_for_product(Warp&, const Instruction&, uint64_t address, int bytes);

// A copy that has been issued owns its destination until it has landed.
void begin_flight(Warp&, const Instruction&, int lane, uint32_t address, int bytes, SharedMemory::Flight);
void land_copies(Warp&, std::vector<Copy>&);
void land_tile(Block&, TileLoad&);

// Ends of what is waited for.
void arrive(Block&, TransactionBarrier&, uint32_t arrivals, int64_t bytes);
void finish_products(Warp&, std::vector<Product>&);

}  // namespace emulator
