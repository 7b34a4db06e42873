// Where the library meets torch: everything goes through libtorch's stable ABI, so one binary serves every torch from
// 2.10 on, without Python, ATen or a matching compiler.
//
// The same sources, built by the tests for the host or for an emulated device, register in a namespace of their own for
// CPU tensors.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "shared/launch.h"

#ifdef CONVEXT_CPU_TENSORS
#define CONVEXT_NAMESPACE convext_host
#define CONVEXT_DISPATCH_KEY CPU
#else
#include <dlfcn.h>
#define CONVEXT_NAMESPACE convext_cuda
#define CONVEXT_DISPATCH_KEY CUDA
#endif

namespace convext {

#ifdef CONVEXT_CPU_TENSORS

constexpr const char* DEVICE = "cpu";
inline bool on_device(const torch::stable::Tensor& t) {
  return t.is_cpu();
}

// On a GPU: makes the tensor's device current while it lives, and knows that device's current stream.
struct DeviceStream {
  Stream stream = nullptr;
  explicit DeviceStream(const torch::stable::Tensor&) {}
};

#else

constexpr const char* DEVICE = "cuda";
inline bool on_device(const torch::stable::Tensor& t) {
  return t.is_cuda();
}

// Makes the tensor's device current while it lives, and knows that device's current stream. The stream's getter lives
// in libtorch_cuda: it is looked up when first needed, so that the library also loads where torch has no CUDA.
struct DeviceStream {
  torch::stable::accelerator::DeviceGuard guard;
  Stream stream;

  explicit DeviceStream(const torch::stable::Tensor& t) : guard(t.get_device_index()), stream(current(t)) {}

 private:
  static Stream current(const torch::stable::Tensor& t) {
    using Getter = AOTITorchError (*)(int32_t, void**);
    static const Getter getter = [] {
      void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      return reinterpret_cast<Getter>(dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
    }();
    check(getter != nullptr, "convext: this torch is built without CUDA");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(getter(t.get_device_index(), &stream));
    return static_cast<Stream>(stream);
  }
};

#endif

}  // namespace convext
