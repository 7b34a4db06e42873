// The CUDA runtime's calls that the code of nvcc makes, on the emulator's driver: kernels are registered with the
// addresses of their stubs, and launched by them. By crt/host_runtime.h, whose names these are. Of a fat binary the PTX
// is read, which has to be there as text (nvcc --no-compress).
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

// ------------------------------------------------------------------ the driver

extern "C" {
int cuModuleLoadData(void** module, const void* image);
int cuModuleGetFunction(void** function, void* module, const char* name);
int cuFuncSetAttribute(void* function, int attribute, int value);
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** parameters, void** extra);
int cuGetErrorString(int code, const char** text);
}

namespace {

struct Dim3 {
  unsigned x, y, z;
};

// ------------------------------------------------------------------ fat binaries

struct Wrapper {  // __fatBinC_Wrapper_t of fatbinary_section.h
  int magic, version;
  const uint8_t* data;
  void* unused;
};

struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // of all entries
};

struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
};

constexpr uint16_t PTX = 1;

// The text of the first PTX in it; "" where there is none, or it is compressed.
std::string ptx_of(const Wrapper& wrapper) {
  Header header;
  std::memcpy(&header, wrapper.data, sizeof header);
  const uint8_t *at = wrapper.data + header.header_bytes, *end = at + header.bytes;
  while (at < end) {
    Entry entry;
    std::memcpy(&entry, at, sizeof entry);
    const auto* text = reinterpret_cast<const char*>(at + entry.header_bytes);
    if (entry.kind == PTX) {
      const std::string found(text, strnlen(text, entry.bytes));
      return found.find(".version") == std::string::npos ? "" : found;
    }
    at += entry.header_bytes + entry.bytes;
  }
  return "";
}

// ------------------------------------------------------------------ what is registered

struct Binary {
  std::string ptx;
  void* module = nullptr;  // loaded with the first kernel that is launched
};

struct Kernel {
  Binary* binary;
  std::string name;
  void* function = nullptr;
};

struct Call {
  Dim3 grid, block;
  size_t shared;
  void* stream;
};

std::map<const void*, Kernel>& kernels() {
  static std::map<const void*, Kernel> the_kernels;
  return the_kernels;
}

constexpr int INVALID_DEVICE_FUNCTION = 98;
thread_local std::vector<Call> calls;  // configured by <<<>>>, and not launched yet
thread_local int last_error = 0;

int remembered(int code) {
  if (code) last_error = code;
  return code;
}

int loaded(Kernel& kernel) {
  if (kernel.function) return 0;
  if (!kernel.binary->module) {
    if (const int code = cuModuleLoadData(&kernel.binary->module, kernel.binary->ptx.c_str())) return code;
  }
  return cuModuleGetFunction(&kernel.function, kernel.binary->module, kernel.name.c_str());
}

}  // namespace

EXPORTED void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(new Binary{ptx_of(*static_cast<const Wrapper*>(wrapper))});
}
EXPORTED void __cudaRegisterFatBinaryEnd(void**) {}
EXPORTED void __cudaUnregisterFatBinary(void**) {}

EXPORTED void __cudaRegisterFunction(void** binary, const char* stub, char*, const char* name, int, void*, void*, void*,
                                     void*, int*) {
  kernels()[stub] = {reinterpret_cast<Binary*>(binary), name};
}

// Nothing on the host reads or writes a kernel's variables by their stubs.
EXPORTED void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

// ------------------------------------------------------------------ launches

EXPORTED unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) {
  calls.push_back({grid, block, shared, stream});
  return 0;
}

EXPORTED int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void* stream) {
  const Call call = calls.back();
  calls.pop_back();
  *grid = call.grid, *block = call.block, *shared = call.shared;
  std::memcpy(stream, &call.stream, sizeof call.stream);
  return 0;
}

EXPORTED int __cudaGetKernel(void** kernel, const void* stub) {
  const auto found = kernels().find(stub);
  *kernel = found == kernels().end() ? nullptr : &found->second;
  return remembered(*kernel ? 0 : INVALID_DEVICE_FUNCTION);
}

EXPORTED int __cudaLaunchKernel(void* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared, void* stream) {
  auto& launched = *static_cast<Kernel*>(kernel);
  if (const int code = loaded(launched)) return remembered(code);
  return remembered(cuLaunchKernel(launched.function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                   unsigned(shared), stream, arguments, nullptr));
}

EXPORTED int cudaLaunchKernel(const void* stub, Dim3 grid, Dim3 block, void** arguments, size_t shared, void* stream) {
  void* kernel;
  if (const int code = __cudaGetKernel(&kernel, stub)) return code;
  return __cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

EXPORTED int cudaFuncSetAttribute(const void* stub, int attribute, int value) {
  void* kernel;
  if (const int code = __cudaGetKernel(&kernel, stub)) return code;
  auto& changed = *static_cast<Kernel*>(kernel);
  if (const int code = loaded(changed)) return remembered(code);
  return remembered(cuFuncSetAttribute(changed.function, attribute, value));
}

// ------------------------------------------------------------------ errors, whose numbers are the driver's

EXPORTED int cudaGetLastError() {
  const int code = last_error;
  last_error = 0;
  return code;
}

EXPORTED const char* cudaGetErrorString(int code) {
  const char* text = "invalid device function: no kernel is registered for it";
  if (code != INVALID_DEVICE_FUNCTION) cuGetErrorString(code, &text);
  return text;
}
