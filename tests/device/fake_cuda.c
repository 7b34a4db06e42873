// A libcuda that runs nothing and checks what it is asked for: the calls that Triton's driver makes, and those of
// tests/emulator/runtime/cudart.cpp, for compute capability 9.0. See README.md.
#include <cuda.h>
#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARAMETERS = 256, TENSOR_MAP_BYTES = 128, DEFAULT_SHARED = 49152, MAX_SHARED = 232448 };
static const unsigned long long MAGIC =
    0x70614d726f736e54;  // at the beginning of every tensor map that was encoded here

struct CUfunc_st {
  char name[256];
  int parameters, shared;  // their number; bytes of dynamic shared memory that were opted in to
  unsigned offset[MAX_PARAMETERS], size[MAX_PARAMETERS];
  unsigned threads;  // that the kernel was compiled for; 0: any number
};

struct CUmod_st {
  const char* image;
};

// ------------------------------------------------------------------------------------------------------ refusals

static __thread char reason[512];

static CUresult refuse(CUresult code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  return code;
}

#define REQUIRE(condition, ...)                                             \
  do {                                                                      \
    if (!(condition)) return refuse(CUDA_ERROR_INVALID_VALUE, __VA_ARGS__); \
  } while (0)

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_SUCCESS ? "no error" : reason;
  return CUDA_SUCCESS;
}

// ------------------------------------------------------------------------------------------- device and contexts

CUresult cuInit(unsigned flags) {
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* version) {
  return *version = 13000, CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
  return *count = 1, CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return *device = ordinal, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return *context = (CUcontext)1, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  return *context = (CUcontext)1, CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  return *device = 0, CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  return CUDA_SUCCESS;
}
CUresult cuCtxGetLimit(size_t* value, CUlimit limit) {
  return *value = 0, CUDA_SUCCESS;
}
CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  static const int known[][2] = {
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, MAX_SHARED},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2619000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (known[i][0] == (int)attribute) return *value = known[i][1], CUDA_SUCCESS;
  return refuse(CUDA_ERROR_NOT_SUPPORTED, "the fake has no device attribute %d", (int)attribute);
}

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  REQUIRE(attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER, "the fake has no pointer attribute %d", (int)attribute);
  return *(CUdeviceptr*)value = pointer, CUDA_SUCCESS;
}

// ------------------------------------------------------------------------------------------- modules and kernels

static const Elf64_Shdr* section(const char* image, const char* prefix, const char* kernel) {
  const Elf64_Ehdr* header = (const Elf64_Ehdr*)image;
  const Elf64_Shdr* sections = (const Elf64_Shdr*)(image + header->e_shoff);
  const char* names = image + sections[header->e_shstrndx].sh_offset;
  for (int i = 0; i < header->e_shnum; i++) {
    const char* name = names + sections[i].sh_name;
    if (strncmp(name, prefix, strlen(prefix)) == 0 && strcmp(name + strlen(prefix), kernel) == 0) return &sections[i];
  }
  return NULL;
}

// What ptxas notes about a kernel: a list of {format, attribute, 16-bit value or size of what follows}.
static void read_notes(CUfunction function, const char* notes, size_t size) {
  enum { SIZED = 4, MAX_THREADS = 0x05, REQUIRED_THREADS = 0x10, PARAMETER = 0x17 };
  for (size_t at = 0; at + 4 <= size;) {
    unsigned char format = notes[at], attribute = notes[at + 1];
    unsigned short bytes;
    memcpy(&bytes, notes + at + 2, 2);
    const char* content = notes + at + 4;
    at += 4 + (format == SIZED ? bytes : 0);
    if (format != SIZED) continue;
    if (attribute == REQUIRED_THREADS) {
      unsigned xyz[3];
      memcpy(xyz, content, sizeof xyz);
      function->threads = xyz[0] * xyz[1] * xyz[2];
    } else if (attribute == PARAMETER) {
      unsigned short ordinal, offset;
      unsigned flags;
      memcpy(&ordinal, content + 4, 2);
      memcpy(&offset, content + 6, 2);
      memcpy(&flags, content + 8, 4);
      if (ordinal >= MAX_PARAMETERS) continue;
      function->offset[ordinal] = offset;
      function->size[ordinal] = flags >> 18;
      if (ordinal >= function->parameters) function->parameters = ordinal + 1;
    }
  }
}

static int is_cubin(const char* image) {
  return memcmp(image, ELFMAG, SELFMAG) == 0;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  REQUIRE(is_cubin(image) || strstr(image, ".version"), "a module is neither a cubin nor PTX");
  *module = malloc(sizeof **module);
  (*module)->image = image;
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
  return CUDA_SUCCESS;
}

static CUfunction new_function(const char* name) {
  CUfunction function = calloc(1, sizeof *function);
  snprintf(function->name, sizeof function->name, "%s", name);
  function->shared = DEFAULT_SHARED;
  return function;
}

// Of a kernel that comes as PTX no parameters are known, and none are checked.
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (!is_cubin(module->image)) {
    REQUIRE(strstr(module->image, name), "a module has no kernel %s", name);
    return *function = new_function(name), CUDA_SUCCESS;
  }
  REQUIRE(section(module->image, ".text.", name), "a module has no kernel %s", name);
  const Elf64_Shdr* notes = section(module->image, ".nv.info.", name);
  REQUIRE(notes, "a module has no notes on kernel %s", name);
  *function = new_function(name);
  read_notes(*function, module->image + notes->sh_offset, notes->sh_size);
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return *value = 1024, CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:  // not what it is asked for here
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      return *value = 0, CUDA_SUCCESS;
    default:
      return refuse(CUDA_ERROR_NOT_SUPPORTED, "the fake has no kernel attribute %d", (int)attribute);
  }
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    REQUIRE(value <= MAX_SHARED, "%s: %d bytes of shared memory, of %d", function->name, value, MAX_SHARED);
    function->shared = value;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
  return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction function, const CUlaunchConfig* config) {
  return *clusters = 1, CUDA_SUCCESS;
}

// -------------------------------------------------------------------------------------------------- tensor maps

static unsigned item_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
    default:
      return 4;
  }
}

// The rules of the driver's documentation, sizes and strides from the inside out. A stride's being a multiple of the
// one before is asked of axes of size 1 alone: tensors whose axes lie in another order are encoded every day.
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* size, const cuuint64_t* stride, const cuuint32_t* box,
                                const cuuint32_t* step, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  static const unsigned widest[] = {0, 32, 64, 128};  // bytes of a box's rows, by swizzle
  const unsigned item = item_bytes(type);
  REQUIRE((size_t)map % 64 == 0, "a tensor map at %p, which is no multiple of 64", (void*)map);
  REQUIRE(rank >= 1 && rank <= 5, "a tensor map of %u axes, of 1 to 5", rank);
  REQUIRE((size_t)address % 16 == 0, "a tensor map of %p, which is no multiple of 16", address);
  cuuint64_t inner = item;
  for (unsigned i = 0; i < rank; i++) {
    REQUIRE(size[i] >= 1 && size[i] <= 1ull << 32, "axis %u of a tensor map has size %llu", i,
            (unsigned long long)size[i]);
    REQUIRE(box[i] >= 1 && box[i] <= 256, "axis %u of a box has size %u, of 1 to 256", i, box[i]);
    REQUIRE(step[i] >= 1 && step[i] <= 8, "axis %u of a box has steps of %u, of 1 to 8", i, step[i]);
    if (i == 0) continue;
    unsigned long long bytes = stride[i - 1];
    REQUIRE(bytes && bytes % 16 == 0 && bytes < 1ull << 40, "axis %u of a tensor map has a stride of %llu bytes", i,
            bytes);
    REQUIRE(size[i] > 1 || (bytes >= size[i - 1] * inner && (i == 1 || bytes % inner == 0)),
            "axis %u of a tensor map has size 1 and a stride of %llu bytes, after %llu times %llu", i, bytes,
            (unsigned long long)size[i - 1], (unsigned long long)inner);
    inner = bytes;
  }
  REQUIRE(box[0] * item % 16 == 0, "a box with rows of %u bytes, which is no multiple of 16", box[0] * item);
  REQUIRE(interleave == CU_TENSOR_MAP_INTERLEAVE_NONE, "the fake has no interleaved tensor maps");
  REQUIRE(swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || (swizzle <= 3 && box[0] * item <= widest[swizzle]),
          "a box with rows of %u bytes under swizzle %d", box[0] * item, (int)swizzle);
  memset(map, 0, sizeof *map);
  cuuint64_t* words = (cuuint64_t*)map;  // what the map is of; Triton clears a bit above those of the second word
  words[0] = MAGIC, words[1] = type | swizzle << 8 | fill << 16, words[2] = (cuuint64_t)address;
  memcpy(words + 3, size, rank * sizeof *size);
  memcpy(words + 8, stride, (rank - 1) * sizeof *stride);
  memcpy(words + 12, box, rank * sizeof *box);
  return CUDA_SUCCESS;
}

// ----------------------------------------------------------------------------------------------------- launches

static void note_launch(CUfunction function, const CUlaunchConfig* config, void** parameters) {
  const char* path = getenv("FAKE_CUDA_LOG");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "{\"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"threads\": %u, \"shared\": %u, \"parameters\": [",
          function->name, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
          config->sharedMemBytes);
  for (int i = 0; i < function->parameters; i++) {
    fprintf(file, "%s\"", i ? ", " : "");
    for (unsigned j = 0; j < function->size[i]; j++) fprintf(file, "%02x", ((unsigned char*)parameters[i])[j]);
    fprintf(file, "\"");
  }
  fprintf(file, "]}\n");
  fclose(file);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  const CUlaunchConfig* c = config;
  const unsigned long long threads = 1ull * c->blockDimX * c->blockDimY * c->blockDimZ;
  REQUIRE(c->gridDimX >= 1 && c->gridDimX <= 0x7fffffff && c->gridDimY >= 1 && c->gridDimY <= 65535 &&
              c->gridDimZ >= 1 && c->gridDimZ <= 65535,
          "%s: a grid of %u x %u x %u", function->name, c->gridDimX, c->gridDimY, c->gridDimZ);
  REQUIRE(threads >= 1 && threads <= 1024, "%s: %llu threads in a block", function->name, threads);
  REQUIRE(!function->threads || threads == function->threads, "%s: %llu threads in a block, compiled for %u",
          function->name, threads, function->threads);
  REQUIRE((int)c->sharedMemBytes <= function->shared, "%s: %u bytes of shared memory, opted in to %d", function->name,
          c->sharedMemBytes, function->shared);
  REQUIRE(!extra, "%s: parameters as a buffer", function->name);
  for (int i = 0; i < function->parameters; i++) {
    REQUIRE(parameters[i], "%s: no parameter %d of %d", function->name, i, function->parameters);
    REQUIRE(function->size[i] != TENSOR_MAP_BYTES || memcmp(parameters[i], &MAGIC, sizeof MAGIC) == 0,
            "%s: parameter %d is no tensor map that was encoded", function->name, i);
  }
  note_launch(function, config, parameters);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void** parameters,
                        void** extra) {
  const CUlaunchConfig config = {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, NULL, 0};
  return cuLaunchKernelEx(&config, function, parameters, extra);
}
