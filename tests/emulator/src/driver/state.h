// A libcuda.so.1 whose device is the emulator: one device, one context, host memory. Functions that nobody here needs
// are missing, so that their absence shows when they are looked up.
//
// Here is what its calls share: the device that was chosen, what was told and allocated, why a call failed. That stays,
// with the numbers, for cuGetErrorString; unlike a device's, the context lives on.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "driver/cubin.h"
#include "driver/driver.h"
#include "machine/machine.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

struct CUfunc_st {
  std::unique_ptr<emulator::Kernel> kernel;
  emulator::Resources resources;
  int dynamic_limit = 48 << 10;
};

namespace emulator {

struct Device {
  int arch;
  const char* name;
  int multiprocessors, optin_kib, multiprocessor_kib, l2_mib, clock_khz, memory_clock_khz, bus_bits, threads;
};

const Device* device_of(int arch);  // nullptr: there is none here

struct State {
  std::recursive_mutex mutex;
  const Device* device = device_of(90);
  uint64_t seed = 1;
  CUresult code = CUDA_SUCCESS;
  std::string reason;
  std::vector<Allocation> tensors;                           // told by the host, until it tells others
  std::map<uint64_t, std::unique_ptr<uint8_t[]>> allocated;  // by cuMemAlloc
  std::map<uint64_t, uint64_t> allocated_bytes;
  std::map<std::string, uint64_t> executed;  // warp-instructions by opcode
  uint64_t launches = 0;
  std::unique_ptr<Counters> counters;  // while somebody counts
  uint64_t most_blocks = ~uint64_t(0);
};

State& state();
using Lock = std::lock_guard<std::recursive_mutex>;

// Keeps the reason for cuGetErrorString, and returns `code`.
CUresult failed(CUresult code, const std::string& reason);
CUresult failed(CUresult code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// All that kernels may touch: what was allocated, and what was told.
GlobalMemory memory_of_device();

}  // namespace emulator
