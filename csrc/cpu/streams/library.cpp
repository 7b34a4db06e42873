// Where streams' steps meet Python: the function of an instruction set, called by its address.
#include <cstring>

#include "cpu/streams/program.h"

// Null for an instruction set that this library was not built for. Whether the machine has it, convext_cpu::supports
// tells.
extern "C" __attribute__((visibility("default"))) convext::cpu::Steps convext_stream_steps(const char* isa) {
  using namespace convext::cpu;
#ifdef CONVEXT_X86
  if (std::strcmp(isa, "avx512") == 0) return steps_avx512;
  if (std::strcmp(isa, "avx2") == 0) return steps_avx2;
#endif
  return std::strcmp(isa, "generic") == 0 ? steps_generic : nullptr;
}
