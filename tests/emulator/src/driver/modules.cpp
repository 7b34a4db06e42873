// Calls about modules and functions.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "driver/state.h"

using namespace emulator;

struct CUmod_st {
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

namespace {

// What a target asks of a device: "sm_90a" runs on 9.0 alone, "sm_80" on 8.0 and later.
CUresult check_target(const Module& module) {
  const std::string& target = module.target;
  const int wanted = target.rfind("sm_", 0) == 0 ? std::atoi(target.c_str() + 3) : 0, here = state().device->arch;
  const bool alone = !target.empty() && (target.back() == 'a' || target.back() == 'f');
  if (wanted && (alone ? wanted == here : wanted <= here)) return CUDA_SUCCESS;
  return failed(CUDA_ERROR_NO_BINARY_FOR_GPU, "PTX for %s does not run on compute capability %d.%d",
                target.empty() ? "no target" : target.c_str(), here / 10, here % 10);
}

// Where the text says so in its last line, the machine code that ptxas made of it follows behind its end.
const uint8_t* machine_code(const char* ptx, size_t length) {
  static const std::string mark = "// machine code follows\n";
  if (length < mark.size() || mark != ptx + length - mark.size()) return nullptr;
  return reinterpret_cast<const uint8_t*>(ptx) + length + 1;
}

}  // namespace

EXPORTED CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  const Lock lock(state().mutex);
  const auto* ptx = static_cast<const char*>(image);
  if (std::memcmp(ptx,
                  "\x7f"
                  "ELF",
                  4) == 0)
    return failed(CUDA_ERROR_INVALID_IMAGE, "machine code is not emulated: PTX is");
  try {
    const size_t length = std::strlen(ptx);
    const Module parsed = parse(std::string(ptx, length));
    if (const CUresult code = check_target(parsed)) return code;
    auto made = std::make_unique<CUmod_st>();
    for (const Entry& entry : parsed.entries) {
      auto function = std::make_unique<CUfunc_st>();
      function->kernel = decode(parsed, entry);
      if (const uint8_t* elf = machine_code(ptx, length)) function->resources = resources(elf, entry.name);
      made->functions[entry.name] = std::move(function);
    }
    *module = made.release();
  } catch (const InvalidPtx& error) {
    return failed(CUDA_ERROR_INVALID_PTX, std::string(error.what()));
  }
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuModuleUnload(CUmodule module) {
  delete module;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const auto found = module->functions.find(name);
  if (found == module->functions.end()) return failed(CUDA_ERROR_NOT_FOUND, "the module has no kernel %s", name);
  *function = found->second.get();
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncGetAttribute(int* value, int which, CUfunction function) {
  const Entry& entry = function->kernel->entry;
  switch (which) {
    case MAX_THREADS:
      *value = entry.required_threads ? entry.required_threads : entry.most_threads;
      break;
    case SHARED_SIZE_BYTES:
      *value = function->kernel->static_shared;
      break;
    case CONST_SIZE_BYTES:
      *value = 0;
      break;
    case LOCAL_SIZE_BYTES:
      *value = function->resources.local_bytes;
      break;
    case NUM_REGS:
      *value = function->resources.registers;
      break;
    case PTX_VERSION:
    case BINARY_VERSION:
      *value = state().device->arch;
      break;
    case MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = function->dynamic_limit;
      break;
    default:
      return failed(CUDA_ERROR_INVALID_VALUE, "function attribute %d is not emulated", which);
  }
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncSetAttribute(CUfunction function, int which, int value) {
  const int most = (state().device->optin_kib << 10) - function->kernel->static_shared;
  if (which == PREFERRED_SHARED_MEMORY_CARVEOUT || which == NON_PORTABLE_CLUSTER_SIZE_ALLOWED) return CUDA_SUCCESS;
  if (which != MAX_DYNAMIC_SHARED_SIZE_BYTES)
    return failed(CUDA_ERROR_INVALID_VALUE, "function attribute %d is not emulated", which);
  if (value < 0 || value > most) {
    return failed(CUDA_ERROR_INVALID_VALUE, "%d bytes of dynamic shared memory: a block of %s may have %d", value,
                  function->kernel->entry.name.c_str(), most);
  }
  function->dynamic_limit = value;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncSetCacheConfig(CUfunction, int) {
  return CUDA_SUCCESS;
}
