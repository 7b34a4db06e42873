// What a CUtensorMap says. The real 128 bytes are not documented; these are the emulator's own.
#pragma once
#include <cstdint>
#include <string>

namespace emulator {

struct TensorMap {
  static constexpr uint64_t MAGIC = 0x70616d726f736e74;
  uint64_t magic = MAGIC;
  uint64_t unused = 0;  // Triton clears a bit of the second word under older drivers
  uint64_t address = 0;
  uint64_t sizes[5] = {1, 1, 1, 1, 1};    // elements, innermost first
  uint64_t strides[5] = {0, 0, 0, 0, 0};  // bytes; of the innermost, an element's
  uint16_t box[5] = {1, 1, 1, 1, 1};
  uint8_t rank = 0, element = 0, swizzle = 16;  // bytes of an element and of a swizzle; 16 is none
  bool nan_fill = false;
  bool to_tf32 = false;  // elements are rounded on their way
  uint32_t box_bytes() const {
    uint32_t bytes = element;
    for (int i = 0; i < rank; i++) bytes *= box[i];
    return bytes;
  }
};
static_assert(sizeof(TensorMap) <= 128, "a CUtensorMap has 128 bytes");

// Fills `made`, or returns the first rule that the arguments of cuTensorMapEncodeTiled break.
std::string encode(int type, unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
                   const uint32_t* box, const uint32_t* steps, int swizzle, int promotion, int fill, TensorMap& made);

}  // namespace emulator
