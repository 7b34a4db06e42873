// The emulator's own calls: which device, which seed, which memory, what to count.
#include <cstring>

#include "driver/state.h"

using namespace emulator;

// Chooses the device: compute capability times ten. Modules that are loaded stay.
EXPORTED CUresult emulator_set_arch(int arch) {
  const Lock lock(state().mutex);
  const Device* device = device_of(arch);
  if (!device) {
    return failed(CUDA_ERROR_INVALID_DEVICE, "there is no device of compute capability %d.%d here", arch / 10,
                  arch % 10);
  }
  state().device = device;
  return CUDA_SUCCESS;
}

EXPORTED void emulator_set_seed(uint64_t seed) {
  state().seed = seed;
}

// Host memory that kernels may touch from now on, beside what is told until emulator_forget. Elements of `itemsize`
// bytes that are all ones are taken for unwritten; 0: none are.
EXPORTED void emulator_tell(uint64_t begin, uint64_t end, const char* name, int itemsize) {
  const Lock lock(state().mutex);
  state().tensors.push_back({begin, end, name, itemsize, false});
}

EXPORTED void emulator_forget() {
  const Lock lock(state().mutex);
  state().tensors.clear();
}

// "opcode count" a line, of everything that has run; returns the bytes it takes.
EXPORTED size_t emulator_executed(char* into, size_t size) {
  const Lock lock(state().mutex);
  std::string lines;
  for (const auto& [opcode, count] : state().executed) lines += opcode + " " + std::to_string(count) + "\n";
  if (into && size > lines.size()) std::memcpy(into, lines.c_str(), lines.size() + 1);
  return lines.size() + 1;
}

// From now on launches are counted, and of each at most `most_blocks` blocks run, chosen by the seed: 0 for all. What
// the others would have written stays as it is.
EXPORTED void emulator_count(uint64_t most_blocks) {
  const Lock lock(state().mutex);
  state().counters = std::make_unique<Counters>();
  state().most_blocks = most_blocks ? most_blocks : ~uint64_t(0);
}

// Ends that. "name value" a line; returns the bytes it takes.
EXPORTED size_t emulator_counted(char* into, size_t size) {
  const Lock lock(state().mutex);
  const std::string lines = state().counters ? state().counters->lines() : "";
  if (!into || size <= lines.size()) return lines.size() + 1;
  std::memcpy(into, lines.c_str(), lines.size() + 1);
  state().counters.reset();
  state().most_blocks = ~uint64_t(0);
  return lines.size() + 1;
}

EXPORTED uint64_t emulator_launches() {
  return state().launches;
}
