// The rules of cuTensorMapEncodeTiled, as the manual of the driver API has them.
#include "driver/tensor_map.h"

#include <cstring>

#include "driver/state.h"

namespace emulator {
namespace {

constexpr int TFLOAT32 = 11;

int bytes_of(int type) {  // CUtensorMapDataType; 0 for those that are not emulated, which flush subnormal numbers
  constexpr int bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 0, 4, 0};
  return type >= 0 && type < int(sizeof bytes / sizeof *bytes) ? bytes[type] : 0;
}

// The first rule of the manual that the arguments break. That each stride be a multiple of the one before is not held:
// drivers take tensors whose axes are in any order.
std::string broken_rule(int type, unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
                        const uint32_t* box, const uint32_t* steps, int swizzle, int promotion, int fill) {
  const auto number = [](uint64_t value) { return (unsigned long long)value; };
  const int element = bytes_of(type);
  if (!element) return text("data type %d is not emulated", type);
  if (rank < 1 || rank > 5) return text("rank %u is not 1 to 5", rank);
  if (address % 16) return text("address 0x%llx is not aligned to 16 bytes", number(address));
  for (unsigned i = 0; i < rank; i++) {
    if (sizes[i] < 1 || sizes[i] > uint64_t(1) << 32)
      return text("size %llu of axis %u is not 1 to 2^32", number(sizes[i]), i);
    if (box[i] < 1 || box[i] > 256) return text("box size %u of axis %u is not 1 to 256", box[i], i);
    if (steps[i] < 1 || steps[i] > 8) return text("element stride %u of axis %u is not 1 to 8", steps[i], i);
    if (steps[i] != 1) return text("element stride %u of axis %u is not emulated", steps[i], i);
  }
  for (unsigned i = 0; i + 1 < rank; i++) {
    if (strides[i] % 16) return text("stride %llu of axis %u is no multiple of 16 bytes", number(strides[i]), i + 1);
    if (strides[i] >= uint64_t(1) << 40)
      return text("stride %llu of axis %u is not below 2^40", number(strides[i]), i + 1);
  }
  const unsigned inner = box[0] * unsigned(element);
  constexpr unsigned widths[] = {0, 32, 64, 128};
  if (inner % 16) return text("the box is %u bytes wide, no multiple of 16", inner);
  if (swizzle < 0 || swizzle > 3) return text("swizzle %d is not emulated", swizzle);
  if (swizzle && inner > widths[swizzle])
    return text("the box is %u bytes wide, more than its swizzle of %u", inner, widths[swizzle]);
  if (promotion < 0 || promotion > 3) return text("L2 promotion %d is not 0 to 3", promotion);
  const bool floats = type >= 6;
  if (fill < 0 || fill > 1 || (fill == 1 && !floats)) return text("fill %d for data type %d", fill, type);
  return "";
}

}  // namespace

std::string encode(int type, unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
                   const uint32_t* box, const uint32_t* steps, int swizzle, int promotion, int fill, TensorMap& made) {
  const std::string broken = broken_rule(type, rank, address, sizes, strides, box, steps, swizzle, promotion, fill);
  if (!broken.empty()) return broken;
  made.address = address;
  made.rank = uint8_t(rank);
  made.element = uint8_t(bytes_of(type));
  made.swizzle = uint8_t(swizzle ? 16 << swizzle : 16);
  made.nan_fill = fill == 1;
  made.to_tf32 = type == TFLOAT32;
  made.strides[0] = made.element;
  for (unsigned i = 0; i < rank; i++) {
    made.sizes[i] = sizes[i];
    made.box[i] = uint16_t(box[i]);
    if (i > 0) made.strides[i] = strides[i - 1];
  }
  return "";
}

}  // namespace emulator

using namespace emulator;

EXPORTED CUresult cuTensorMapEncodeTiled(CUtensorMap* map, int type, uint32_t rank, void* address,
                                         const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                                         const uint32_t* steps, int interleave, int swizzle, int promotion, int fill) {
  const Lock lock(state().mutex);
  if (state().device->arch < 90) return failed(CUDA_ERROR_NOT_SUPPORTED, "tensor maps need compute capability 9.0");
  if (interleave != 0) return failed(CUDA_ERROR_NOT_SUPPORTED, "interleave %d is not emulated", interleave);
  if (reinterpret_cast<uint64_t>(map) % 64) {
    return failed(CUDA_ERROR_INVALID_VALUE, "tensor map: the map is not aligned to 64 bytes");
  }
  TensorMap made;
  const std::string broken = encode(type, rank, reinterpret_cast<uint64_t>(address), sizes, strides, box, steps,
                                    swizzle, promotion, fill, made);
  if (!broken.empty()) return failed(CUDA_ERROR_INVALID_VALUE, "tensor map: " + broken);
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &made, sizeof made);
  return CUDA_SUCCESS;
}
