// CUDA for the host, as far as csrc/ uses it: included by csrc/shared/device.cuh in place of the CUDA runtime when the
// tests build the kernels with a C++ compiler (tests/cuda/host/README.md).
//
// The threads of a block are fibers of one operating-system thread. A fiber runs until it waits: at a block's barrier,
// or at a warp's collective (shuffle, ldmatrix, mma). Which one runs next is the schedule's choice. Blocks run one
// after another. So a missing barrier shows as a wrong result, under some schedule, and nothing needs a lock.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

// The toolkit's own types: dim3, uint4, cudaError_t, cudaStream_t, and the host half of half and bfloat16.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#undef __noinline__
#define __noinline__  // the standard library spells its attribute the same way
#undef __shared__
#define __shared__ static  // one block at a time: a static variable is the block's
#undef __launch_bounds__
#define __launch_bounds__(...)
#define CONVEXT_UNROLL
#define CONVEXT_LOOP
#define CONVEXT_CPU_TENSORS  // the library takes CPU tensors: csrc/library/runtime.h
#define CONVEXT_DYNAMIC_SHARED(name) unsigned char* name = ::convext::host::dynamic_shared()
#define CONVEXT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace convext::host {

struct Thread {
  uint3 thread, block;
};
extern Thread current;  // of the fiber that runs
extern dim3 grid_size;

unsigned char* dynamic_shared();
[[noreturn]] void fail(const std::string& message, const char* file, int line);
void barrier(const char* file, int line);

// Each lane of a warp leaves `operand`; the last to arrive computes for all 32.
using Compute = void (*)(void* const* operands);
void collective(const char* name, void* operand, Compute compute, const char* file, int line);

void shuffle(void* value, size_t bytes, int from, const char* file, int line);
void cp_async(void* shared, const void* global, int bytes, const char* file, int line);
void cp_async_commit();
void cp_async_wait(int pending);
void ldmatrix(unsigned* r, const void* row, bool transposed, const char* file, int line);
enum class Numbers { half, bfloat16, tf32 };
void mma(float* d, const unsigned* a, const unsigned* b, Numbers numbers, const char* file, int line);

cudaError_t run(const void* kernel, dim3 grid, int threads, size_t shared, const std::function<void()>& body);
cudaError_t allow_shared(const void* kernel, size_t bytes);

}  // namespace convext::host

#define threadIdx (::convext::host::current.thread)
#define blockIdx (::convext::host::current.block)
#define gridDim (::convext::host::grid_size)

inline void __syncthreads(CONVEXT_HERE) {
  convext::host::barrier(file, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance, CONVEXT_HERE) {
  if (mask != 0xffffffffu) convext::host::fail("shuffle: expected a full mask", file, line);
  convext::host::shuffle(&value, sizeof value, static_cast<int>(threadIdx.x % 32) ^ distance, file, line);
  return value;
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t(a) * b >> 32);
}
inline int min(int a, int b) {
  return a < b ? a : b;
}
inline int max(int a, int b) {
  return a > b ? a : b;
}
inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
using std::isinf;
template <class T>
void __stwb(T* to, T value) {
  *to = value;
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "see the host build's message";
}

// The wrappers of csrc/shared/device.cuh.
namespace convext {

inline void cp_async16(void* shared, const void* global, int bytes, CONVEXT_HERE) {
  host::cp_async(shared, global, bytes, file, line);
}
inline void cp_async_commit() {
  host::cp_async_commit();
}
template <int PENDING>
void cp_async_wait() {
  host::cp_async_wait(PENDING);
}

inline void ldmatrix_x4(unsigned (&r)[4], const void* row, CONVEXT_HERE) {
  host::ldmatrix(r, row, false, file, line);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, CONVEXT_HERE) {
  host::ldmatrix(r, row, true, file, line);
}

inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16, CONVEXT_HERE) {
  host::mma(d, a, b, host::Numbers::bfloat16, file, line);
}
inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __half, CONVEXT_HERE) {
  host::mma(d, a, b, host::Numbers::half, file, line);
}
inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], float, CONVEXT_HERE) {
  host::mma(d, a, b, host::Numbers::tf32, file, line);
}

// Rounds the 24-bit mantissa to 11 bits, halves away from zero.
inline unsigned to_tf32(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return std::isfinite(value) ? (bits + 0x1000u) & ~0x1fffu : bits;
}

inline int this_thread() {
  return static_cast<int>(threadIdx.x);
}
inline float power_of_two(float x) {
  return std::exp2(x);
}
inline float reciprocal(float x) {
  return 1 / x;
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, cudaStream_t,
                   Arguments... arguments) {
  return host::run(reinterpret_cast<const void*>(kernel), grid, threads, shared, [&] { kernel(arguments...); });
}

template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, size_t bytes) {
  return host::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

}  // namespace convext
