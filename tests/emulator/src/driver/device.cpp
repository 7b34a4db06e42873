// Calls about errors, the device and its one context.
#include <cstdio>
#include <cstring>
#include <map>

#include "driver/state.h"

using namespace emulator;

namespace {

int the_context;
CUctx_st* const CONTEXT = reinterpret_cast<CUctx_st*>(&the_context);

int attribute(const Device& d, int which, int& value) {
  switch (which) {
    case MAX_THREADS_PER_BLOCK:
    case MAX_BLOCK_DIM_X:
    case MAX_BLOCK_DIM_Y:
      value = 1024;
      break;
    case MAX_BLOCK_DIM_Z:
      value = 64;
      break;
    case MAX_GRID_DIM_X:
      value = INT32_MAX;
      break;
    case MAX_GRID_DIM_Y:
    case MAX_GRID_DIM_Z:
      value = 65535;
      break;
    case MAX_SHARED_MEMORY_PER_BLOCK:
      value = 48 << 10;
      break;
    case WARP_SIZE:
      value = 32;
      break;
    case MAX_REGISTERS_PER_BLOCK:
    case MAX_REGISTERS_PER_MULTIPROCESSOR:
      value = 65536;
      break;
    case CLOCK_RATE:
      value = d.clock_khz;
      break;
    case MULTIPROCESSOR_COUNT:
      value = d.multiprocessors;
      break;
    case MEMORY_CLOCK_RATE:
      value = d.memory_clock_khz;
      break;
    case GLOBAL_MEMORY_BUS_WIDTH:
      value = d.bus_bits;
      break;
    case L2_CACHE_SIZE:
      value = d.l2_mib << 20;
      break;
    case MAX_THREADS_PER_MULTIPROCESSOR:
      value = d.threads;
      break;
    case COMPUTE_CAPABILITY_MAJOR:
      value = d.arch / 10;
      break;
    case COMPUTE_CAPABILITY_MINOR:
      value = d.arch % 10;
      break;
    case MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      value = d.multiprocessor_kib << 10;
      break;
    case COOPERATIVE_LAUNCH:
      value = 1;
      break;
    case MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      value = d.optin_kib << 10;
      break;
    case RESERVED_SHARED_MEMORY_PER_BLOCK:
      value = 1 << 10;
      break;
    default:
      return 0;
  }
  return 1;
}

}  // namespace

EXPORTED CUresult cuGetErrorName(CUresult code, const char** name) {
  static const std::map<int, const char*> names = {{0, "CUDA_SUCCESS"},
                                                   {1, "CUDA_ERROR_INVALID_VALUE"},
                                                   {2, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                   {101, "CUDA_ERROR_INVALID_DEVICE"},
                                                   {200, "CUDA_ERROR_INVALID_IMAGE"},
                                                   {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                                                   {218, "CUDA_ERROR_INVALID_PTX"},
                                                   {400, "CUDA_ERROR_INVALID_HANDLE"},
                                                   {500, "CUDA_ERROR_NOT_FOUND"},
                                                   {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                                                   {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
                                                   {702, "CUDA_ERROR_LAUNCH_TIMEOUT"},
                                                   {716, "CUDA_ERROR_MISALIGNED_ADDRESS"},
                                                   {719, "CUDA_ERROR_LAUNCH_FAILED"},
                                                   {801, "CUDA_ERROR_NOT_SUPPORTED"}};
  const auto found = names.find(code);
  *name = found == names.end() ? nullptr : found->second;
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORTED CUresult cuGetErrorString(CUresult code, const char** text) {
  static thread_local std::string kept;
  const char* name;
  if (cuGetErrorName(code, &name) != CUDA_SUCCESS) return CUDA_ERROR_INVALID_VALUE;
  const Lock lock(state().mutex);
  kept = name;
  if (code == state().code && !state().reason.empty()) kept += ": " + state().reason;
  *text = kept.c_str();
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuInit(unsigned) {
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = 13020;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (ordinal != 0) return failed(CUDA_ERROR_INVALID_DEVICE, "there is no device %d: 1 is emulated", ordinal);
  *device = 0;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  std::snprintf(name, size_t(size), "%s", state().device->name);
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device) {
  if (device != 0) return failed(CUDA_ERROR_INVALID_DEVICE, "there is no device %d: 1 is emulated", device);
  if (attribute(*state().device, which, *value)) return CUDA_SUCCESS;
  return failed(CUDA_ERROR_INVALID_VALUE, "device attribute %d is not emulated", which);
}

EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = CONTEXT;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = CONTEXT;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxSetCurrent(CUcontext) {
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxSynchronize() {
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamSynchronize(CUstream) {
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetLimit(size_t* value, int) {
  *value = 0;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxSetLimit(int, size_t) {
  return CUDA_SUCCESS;
}
