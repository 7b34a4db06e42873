// A libcuda.so.1 whose device is the emulator: one device, one context, host memory. Functions that nobody here needs
// are missing, so that their absence shows when they are looked up.
//
// A call that fails leaves its reason, with the numbers, for cuGetErrorString. Unlike a device's, its context lives on.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "driver/cubin.h"
#include "driver/driver.h"
#include "driver/tensor_map.h"
#include "machine/machine.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace emulator;

struct CUfunc_st {
  std::unique_ptr<Kernel> kernel;
  Resources resources;
  int dynamic_limit = 48 << 10;
};

struct CUmod_st {
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

namespace {

// ------------------------------------------------------------------ the device

struct Device {
  int arch;
  const char* name;
  int multiprocessors, optin_kib, multiprocessor_kib, l2_mib, clock_khz, memory_clock_khz, bus_bits, threads;
};

// From the vendor's tables of compute capabilities and data sheets.
const Device DEVICES[] = {
    {80, "Emulated A100", 108, 163, 164, 40, 1410000, 1215000, 5120, 2048},
    {90, "Emulated H100", 132, 227, 228, 50, 1980000, 2619000, 5120, 2048},
    {120, "Emulated RTX 5090", 170, 99, 100, 96, 2407000, 14001000, 512, 1536},
};

struct State {
  std::recursive_mutex mutex;
  const Device* device = &DEVICES[1];
  uint64_t seed = 1;
  CUresult code = CUDA_SUCCESS;
  std::string reason;
  std::vector<Allocation> tensors;                           // told by the host, until it tells others
  std::map<uint64_t, std::unique_ptr<uint8_t[]>> allocated;  // by cuMemAlloc
  std::map<uint64_t, uint64_t> allocated_bytes;
  std::map<std::string, uint64_t> executed;  // warp-instructions by opcode
  uint64_t launches = 0;
  std::unique_ptr<Counters> counters;  // while somebody counts
  uint64_t most_blocks = ~uint64_t(0);
};

State& state() {
  static State the_state;
  return the_state;
}

int the_context;
CUctx_st* const CONTEXT = reinterpret_cast<CUctx_st*>(&the_context);

CUresult failed(CUresult code, const std::string& reason) {
  state().code = code;
  state().reason = reason.substr(0, 900);  // callers copy it into 1024 bytes, behind words of their own
  return code;
}

CUresult failed(CUresult code, const char* format, ...) __attribute__((format(printf, 2, 3)));
CUresult failed(CUresult code, const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return failed(code, std::string(buffer));
}

using Lock = std::lock_guard<std::recursive_mutex>;

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

// ------------------------------------------------------------------ the emulator's own calls

// Chooses the device: compute capability times ten. Modules that are loaded stay.
EXPORTED CUresult emulator_set_arch(int arch) {
  const Lock lock(state().mutex);
  for (const Device& device : DEVICES) {
    if (device.arch != arch) continue;
    state().device = &device;
    return CUDA_SUCCESS;
  }
  return failed(CUDA_ERROR_INVALID_DEVICE, "there is no device of compute capability %d.%d here", arch / 10, arch % 10);
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

// ------------------------------------------------------------------ errors, device, context

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

// ------------------------------------------------------------------ memory

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

namespace {

GlobalMemory memory_of_device() {
  GlobalMemory memory;
  for (const auto& [begin, bytes] : state().allocated_bytes) {
    memory.add({begin, begin + bytes, text("the allocation at 0x%llx", (unsigned long long)begin), 0, false});
  }
  for (const auto& tensor : state().tensors) memory.add(tensor);
  return memory;
}

}  // namespace

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

// ------------------------------------------------------------------ modules and functions

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

// ------------------------------------------------------------------ launches

namespace {

CUresult check_size(const CUfunc_st& function, const Dim3& grid, const Dim3& block, unsigned shared) {
  const Entry& entry = function.kernel->entry;
  const char* name = entry.name.c_str();
  if (!grid.count() || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) {
    return failed(CUDA_ERROR_INVALID_VALUE, "%s: a grid of (%u, %u, %u): 1 to (2147483647, 65535, 65535) are possible",
                  name, grid.x, grid.y, grid.z);
  }
  if (!block.count() || block.count() > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64) {
    return failed(CUDA_ERROR_INVALID_VALUE, "%s: a block of (%u, %u, %u) threads: 1 to 1024 are possible", name,
                  block.x, block.y, block.z);
  }
  const auto threads = int(block.count());
  if (threads > entry.most_threads || (entry.required_threads && threads != entry.required_threads)) {
    return failed(CUDA_ERROR_INVALID_VALUE, "%s: a block of %d threads, compiled for %d", name, threads,
                  entry.required_threads ? entry.required_threads : entry.most_threads);
  }
  if (int64_t(shared) > function.dynamic_limit) {
    return failed(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of dynamic shared memory, %d are allowed", name, shared,
                  function.dynamic_limit);
  }
  const int registers = (function.resources.registers + 7) / 8 * 8 * threads;
  if (registers > 65536) {
    return failed(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "%s: %d registers for %d threads, a block has 65536", name,
                  registers, threads);
  }
  return CUDA_SUCCESS;
}

// As an array of pointers, or as one buffer of known size.
CUresult read_parameters(const Entry& entry, void** parameters, void** extra, std::vector<uint8_t>& into) {
  constexpr auto BUFFER_POINTER = uintptr_t(1), BUFFER_SIZE = uintptr_t(2);
  into.assign(size_t(entry.parameter_bytes), 0);
  if (extra) {
    const void* buffer = nullptr;
    size_t bytes = 0;
    for (; *extra; extra += 2) {
      if (reinterpret_cast<uintptr_t>(extra[0]) == BUFFER_POINTER) buffer = extra[1];
      if (reinterpret_cast<uintptr_t>(extra[0]) == BUFFER_SIZE) bytes = *static_cast<size_t*>(extra[1]);
    }
    if (!buffer || bytes < into.size()) {
      return failed(CUDA_ERROR_INVALID_VALUE, "%s takes %d bytes of arguments, and got %zu", entry.name.c_str(),
                    entry.parameter_bytes, bytes);
    }
    std::memcpy(into.data(), buffer, into.size());
    return CUDA_SUCCESS;
  }
  for (size_t i = 0; i < entry.parameters.size(); i++) {
    const Parameter& p = entry.parameters[i];
    if (!parameters || !parameters[i]) {
      return failed(CUDA_ERROR_INVALID_VALUE, "%s takes %zu arguments, and argument %zu is missing", entry.name.c_str(),
                    entry.parameters.size(), i + 1);
    }
    std::memcpy(into.data() + p.offset, parameters[i], size_t(p.size));
  }
  return CUDA_SUCCESS;
}

CUresult code_of(Fault fault) {
  switch (fault) {
    case Fault::ADDRESS:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case Fault::ALIGNMENT:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case Fault::DEADLOCK:
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    case Fault::OTHER:
      break;
  }
  return CUDA_ERROR_LAUNCH_FAILED;
}

}  // namespace

EXPORTED CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  const Lock lock(state().mutex);
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION || attribute.id == ATTRIBUTE_CLUSTER_SCHEDULING)
      continue;
    const auto& cluster = attribute.value.clusterDim;
    if (attribute.id == ATTRIBUTE_CLUSTER_DIMENSION && cluster.x * cluster.y * cluster.z == 1) continue;
    return failed(CUDA_ERROR_NOT_SUPPORTED, "launch attribute %d is not emulated", attribute.id);
  }
  Launch launch;
  launch.kernel = function->kernel.get();
  launch.grid = {config->gridDimX, config->gridDimY, config->gridDimZ};
  launch.threads = {config->blockDimX, config->blockDimY, config->blockDimZ};
  launch.shared_bytes = launch.kernel->static_shared + int(config->sharedMemBytes);
  launch.seed = state().seed;
  launch.counters = state().counters.get();
  launch.most_blocks = state().most_blocks;
  if (const CUresult code = check_size(*function, launch.grid, launch.threads, config->sharedMemBytes)) return code;
  std::vector<uint8_t> values;
  if (const CUresult code = read_parameters(launch.kernel->entry, parameters, extra, values)) return code;
  launch.set_parameters(values);
  GlobalMemory memory = memory_of_device();
  const auto at = reinterpret_cast<uint64_t>(launch.parameters);
  memory.add({at, at + values.size(), "the parameters", 0, true});
  launch.global = &memory;
  const auto before = launch.kernel->executed;
  CUresult code = CUDA_SUCCESS;
  try {
    run(launch);
  } catch (const Finding& finding) {
    code = failed(code_of(finding.fault), std::string(finding.what()));
  }
  for (size_t i = 0; i < before.size(); i++) {
    state().executed[launch.kernel->opcodes[i]] += launch.kernel->executed[i] - before[i];
  }
  state().launches++;
  return code;
}

EXPORTED CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                 unsigned bz, unsigned shared, CUstream stream, void** parameters, void** extra) {
  const CUlaunchConfig config{gx, gy, gz, bx, by, bz, shared, stream, nullptr, 0};
  return cuLaunchKernelEx(&config, function, parameters, extra);
}

EXPORTED CUresult cuOccupancyMaxActiveClusters(int*, CUfunction, const CUlaunchConfig*) {
  return failed(CUDA_ERROR_NOT_SUPPORTED, "clusters are not emulated");
}

// ------------------------------------------------------------------ tensor maps

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
