// What ptxas says of a kernel, read from its machine code, which the emulator does not run.
#pragma once
#include <cstdint>
#include <string>

namespace emulator {

struct Resources {
  int registers = 0, local_bytes = 0;  // a thread; 0 where nothing is known
};

// `elf` points to an ELF file as ptxas writes it.
Resources resources(const uint8_t* elf, const std::string& kernel);

}  // namespace emulator
