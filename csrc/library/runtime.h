// Where the library meets torch: everything goes through libtorch's stable ABI, so one binary serves every torch from
// 2.10 on, without Python, ATen or a matching compiler.
//
// The same sources, built by the tests for the host or for an emulated device, register in a namespace of their own for
// CPU tensors.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "shared/launch.h"

#ifdef CONVEXT_CPU_TENSORS
#define CONVEXT_NAMESPACE convext_host
#define CONVEXT_DISPATCH_KEY CPU
#else
#define CONVEXT_NAMESPACE convext_cuda
#define CONVEXT_DISPATCH_KEY CUDA
#endif

namespace convext {

#ifdef CONVEXT_CPU_TENSORS
constexpr const char* DEVICE = "cpu";
inline bool on_device(const torch::stable::Tensor& t) {
  return t.is_cpu();
}
#else
constexpr const char* DEVICE = "cuda";
inline bool on_device(const torch::stable::Tensor& t) {
  return t.is_cuda();
}
#endif

}  // namespace convext
