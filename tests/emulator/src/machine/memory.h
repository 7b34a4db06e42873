// Memory, and beside it the notes from which races, flights and unwritten places are seen.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace emulator {

using Mask = uint32_t;
constexpr Mask ALL_LANES = ~0u;

enum class Space : uint8_t { GENERIC, GLOBAL, SHARED, PARAMETER };

// Generic addresses of shared memory begin here, where no process has memory.
constexpr uint64_t SHARED_WINDOW = uint64_t(1) << 60;

enum class Fault { ADDRESS, ALIGNMENT, DEADLOCK, OTHER };

// Something that a kernel must not do, told in full.
struct Finding : std::runtime_error {
  Finding(Fault fault, const std::string& what) : std::runtime_error(what), fault(fault) {}
  Fault fault;
};

// Notes are kept for every GRAIN bytes: an access to one byte counts for both.
constexpr uint32_t GRAIN = 2;

struct Allocation {
  uint64_t begin, end;
  std::string name;
  int itemsize = 0;  // of elements that are all ones where nothing has been written yet; 0: always written
  bool read_only = false;
};

struct GlobalAccess {
  uint32_t block = 0, time = 0;  // blocks count from 1; 0: none
  uint8_t warp = 0, lane = 0;
};

// Who touched GRAIN bytes of global memory last.
struct GlobalNote {
  GlobalAccess write, read;
  bool read_by_others = false;  // by another block or warp than the last reader
};

class GlobalMemory {
 public:
  // Adds what kernels may touch; what overlaps becomes one allocation.
  void add(Allocation allocation);
  void clear() { allocations_.clear(); }
  const Allocation* find(uint64_t address, uint64_t bytes);
  std::string describe(uint64_t address, uint64_t bytes) const;  // for a message: the nearest allocation
  GlobalNote* notes(uint64_t address);                           // of one grain; those after it on the same page follow
  void forget_notes() {
    pages_.clear();
    last_page_ = ~uint64_t(0);
  }
  static constexpr uint64_t PAGE = 4096;  // bytes whose notes lie side by side

 private:
  std::vector<Allocation> allocations_;  // by address
  size_t last_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<GlobalNote[]>> pages_;
  uint64_t last_page_ = ~uint64_t(0);
  GlobalNote* last_notes_ = nullptr;
};

// Shared memory of one block. `agents` are its warps, and one more for TMA.
class SharedMemory {
 public:
  enum Flight : uint8_t { LANDED, COPYING, LOADING };  // by cp.async, by TMA

  void reset(size_t bytes, size_t agents);
  size_t size() const { return bytes_.size(); }
  uint8_t* at(uint32_t address) { return bytes_.data() + address; }
  uint32_t* writes(uint32_t grain) { return writes_.data() + grain * agents_; }  // time of each agent's last one
  uint32_t* reads(uint32_t grain) { return reads_.data() + grain * agents_; }
  uint32_t* generic_reads(uint32_t grain) { return generic_reads_.data() + grain * agents_; }  // but for wgmma's
  bool written(uint32_t grain) const { return written_[grain]; }
  void set_written(uint32_t grain) { written_[grain] = 1; }
  uint8_t& flight(uint32_t grain) { return flight_[grain]; }
  uint8_t& write_lane(uint32_t grain) { return write_lanes_[grain]; }  // of the last write
  uint8_t& read_lane(uint32_t grain) { return read_lanes_[grain]; }    // of the last read
  static constexpr uint8_t ANY_LANE = 32;                              // all of a warp at once, or none yet
  size_t agents() const { return agents_; }

 private:
  size_t agents_ = 0;
  std::vector<uint8_t> bytes_, written_, flight_, write_lanes_, read_lanes_;
  std::vector<uint32_t> writes_, reads_, generic_reads_;
};

}  // namespace emulator
