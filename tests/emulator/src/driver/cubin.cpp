#include "driver/cubin.h"

#include <cstring>
#include <vector>

namespace emulator {
namespace {

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Section {
  std::string name;
  const uint8_t* data;
  uint64_t size;
};

std::vector<Section> sections(const uint8_t* elf) {
  const auto* table = elf + read<uint64_t>(elf + 0x28);
  const int size = read<uint16_t>(elf + 0x3a), count = read<uint16_t>(elf + 0x3c), names = read<uint16_t>(elf + 0x3e);
  const auto data = [&](int i) { return elf + read<uint64_t>(table + i * size + 0x18); };
  std::vector<Section> found;
  for (int i = 0; i < count; i++) {
    const auto* name = data(names) + read<uint32_t>(table + i * size);
    found.push_back({reinterpret_cast<const char*>(name), data(i), read<uint64_t>(table + i * size + 0x20)});
  }
  return found;
}

}  // namespace

// .nv.info is a list of attributes: a format, a number, a size, and for those that are read here a symbol and a value.
Resources resources(const uint8_t* elf, const std::string& kernel) {
  constexpr uint8_t SIZED = 4, FRAME_SIZE = 0x11, REGISTER_COUNT = 0x2f;
  const uint8_t *symbols = nullptr, *strings = nullptr;
  const auto all = sections(elf);
  for (const auto& section : all) {
    if (section.name == ".symtab") symbols = section.data;
    if (section.name == ".strtab") strings = section.data;
  }
  Resources found;
  for (const auto& section : all) {
    if (section.name != ".nv.info" || !symbols || !strings) continue;
    for (uint64_t at = 0; at + 4 <= section.size;) {
      const uint8_t* entry = section.data + at;
      const bool sized = entry[0] == SIZED;
      if (sized && (entry[1] == FRAME_SIZE || entry[1] == REGISTER_COUNT)) {
        const auto* symbol = symbols + 24 * read<uint32_t>(entry + 4);
        const auto* name = reinterpret_cast<const char*>(strings + read<uint32_t>(symbol));
        const int value = read<int32_t>(entry + 8);
        if (name == kernel) (entry[1] == FRAME_SIZE ? found.local_bytes : found.registers) = value;
      }
      at += sized ? 4 + uint64_t(read<uint16_t>(entry + 2)) : 4;
    }
  }
  return found;
}

}  // namespace emulator
