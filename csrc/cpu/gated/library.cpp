// Where the gated block meets torch: an operator that writes its results into tensors it is given.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>

#include "cpu/gated/gated.h"
#include "cpu/shared/host.h"

namespace convext {
namespace cpu {
namespace {

using Optional = std::optional<Tensor>;

// The kernels for `isa`. Whether the machine has it, convext_cpu::supports tells.
const GatedKernels& kernels_for(const std::string& isa) {
#ifdef CONVEXT_X86
  if (isa == "avx512") return gated_avx512;
  if (isa == "avx2") return gated_avx2;
#endif
  check(isa == "generic", "an instruction set of this library, but got ", isa);
  return gated_generic;
}

float* dense(const char* name, const Tensor& t, const Ints& expected) {
  check(t.is_cpu() && t.scalar_type() == ScalarType::Float && t.is_contiguous(), name,
        " to be contiguous float32 on the CPU");
  check(shape(t) == expected, name, " of shape ", list(expected), ", but got ", list(shape(t)));
  return static_cast<float*>(const_cast<void*>(t.const_data_ptr()));
}

float* dense(const char* name, const Optional& t, const Ints& expected) {
  return t ? dense(name, *t, expected) : nullptr;
}

void gated(std::string isa, Tensor next, Tensor skip, Tensor x, Tensor weight, Optional bias, Tensor mix,
           Optional mix_bias, Optional total, int64_t dilation) {
  check(x.dim() == 3 && weight.dim() == 3 && weight.size(2) >= 1,
        "x and weight of three dimensions, and a tap or more, but got shapes ", list(shape(x)), " and ",
        list(shape(weight)));
  check(dilation >= 1 && dilation < (int64_t(1) << 40), "a dilation of at least 1, but got ", dilation);
  const int64_t channels = x.size(1), inner = weight.size(0) / 2, taps = weight.size(2);
  GatedCall call{x.size(0), channels, inner, x.size(2), taps, dilation};
  const Ints all = shape(x);
  call.x = dense("x", x, all), call.next = dense("next", next, all), call.skip = dense("skip", skip, all);
  call.weight = dense("weight", weight, {2 * inner, channels, taps}), call.bias = dense("bias", bias, {2 * inner});
  call.mix = dense("mix", mix, {channels, inner, 1}), call.mix_bias = dense("mix_bias", mix_bias, {channels});
  call.total = dense("total", total, all);
  const GatedKernels& kernels = kernels_for(isa);
  const GatedWork work = kernels.work(call);
  const int64_t products = x.numel() * inner * (2 * taps + 1);
  torch::stable::parallel_for(0, work.jobs, grain(work.jobs, products), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(work.scratch_bytes);
    kernels.run(call, first, last, scratch.get());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(convext_cpu, m) {
  m.def(
      "gated(str isa, Tensor(a!) next, Tensor(b!) skip, Tensor x, Tensor weight, Tensor? bias, Tensor mix, "
      "Tensor? mix_bias, Tensor? total, int dilation) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("gated", TORCH_BOX(&gated));
}

}  // namespace cpu
}  // namespace convext
