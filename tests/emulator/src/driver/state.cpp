// The devices there are, and what calls of the driver share.
#include "driver/state.h"

#include <cstdarg>
#include <cstdio>

namespace emulator {

// From the vendor's tables of compute capabilities and data sheets.
static const Device DEVICES[] = {
    {80, "Emulated A100", 108, 163, 164, 40, 1410000, 1215000, 5120, 2048},
    {90, "Emulated H100", 132, 227, 228, 50, 1980000, 2619000, 5120, 2048},
    {120, "Emulated RTX 5090", 170, 99, 100, 96, 2407000, 14001000, 512, 1536},
};

const Device* device_of(int arch) {
  for (const Device& device : DEVICES) {
    if (device.arch == arch) return &device;
  }
  return nullptr;
}

State& state() {
  static State the_state;
  return the_state;
}

CUresult failed(CUresult code, const std::string& reason) {
  state().code = code;
  state().reason = reason.substr(0, 900);  // callers copy it into 1024 bytes, behind words of their own
  return code;
}

CUresult failed(CUresult code, const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return failed(code, std::string(buffer));
}

GlobalMemory memory_of_device() {
  GlobalMemory memory;
  for (const auto& [begin, bytes] : state().allocated_bytes) {
    memory.add({begin, begin + bytes, text("the allocation at 0x%llx", (unsigned long long)begin), 0, false});
  }
  for (const auto& tensor : state().tensors) memory.add(tensor);
  return memory;
}

}  // namespace emulator
