// Launches: what is checked before one, and what comes of a finding.
#include <cstring>

#include "driver/state.h"

using namespace emulator;

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
