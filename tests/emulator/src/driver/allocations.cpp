// Calls about memory, which is the host's.
#include <cstring>
#include <new>

#include "driver/state.h"

using namespace emulator;

EXPORTED CUresult cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
  const Lock lock(state().mutex);
  if (bytes == 0) return failed(CUDA_ERROR_INVALID_VALUE, "an allocation of 0 bytes");
  auto memory = std::unique_ptr<uint8_t[]>(new (std::nothrow) uint8_t[bytes + 256]);
  if (!memory) return failed(CUDA_ERROR_OUT_OF_MEMORY, "an allocation of %zu bytes", bytes);
  *pointer = (reinterpret_cast<uint64_t>(memory.get()) + 255) / 256 * 256;
  std::memset(reinterpret_cast<void*>(*pointer), 0xff, bytes);
  state().allocated[*pointer] = std::move(memory);
  state().allocated_bytes[*pointer] = bytes;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuMemFree_v2(CUdeviceptr pointer) {
  const Lock lock(state().mutex);
  if (!state().allocated.erase(pointer)) return failed(CUDA_ERROR_INVALID_VALUE, "0x%llx was not allocated", pointer);
  state().allocated_bytes.erase(pointer);
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  std::memcpy(to, reinterpret_cast<void*>(from), bytes);
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuPointerGetAttribute(void* value, int which, CUdeviceptr pointer) {
  constexpr int DEVICE_POINTER = 3;
  const Lock lock(state().mutex);
  if (which != DEVICE_POINTER) return failed(CUDA_ERROR_INVALID_VALUE, "pointer attribute %d is not emulated", which);
  if (!memory_of_device().find(pointer, 1)) {
    return failed(CUDA_ERROR_INVALID_VALUE, "0x%llx is no memory of the device", pointer);
  }
  std::memcpy(value, &pointer, sizeof pointer);
  return CUDA_SUCCESS;
}
