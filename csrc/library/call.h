// A call that is bound to all but its tensors' addresses: checked and described once, then made by a C function that
// Python calls directly, in less time than the dispatcher takes to look at a list of integers.
//
//     operator(tensors, geometry)  ->  number of a call        checks, keeps geometry and strides
//     convext_launch(number, stream, addresses)                launches
//
// Whoever asked for the call makes it with tensors that lie alike: same shapes, strides, dtype and device, addresses
// of the same alignment.
#pragma once
#include <functional>

#include "library/arguments.h"

namespace convext {

constexpr int ADDRESSES = 5;  // of the operands, then of the results

using Call = std::function<void(void* const* addresses, Stream stream)>;

// The number of a call, until convext_forget of it.
int64_t keep(Call call);

// The same tensor at another address.
inline View at(View view, void* address) {
  view.data = address;
  return view;
}

// The same with the residual at another address.
inline Ending at(Ending ending, void* residual) {
  ending.residual.data = residual;
  return ending;
}

// float32 memory on the device of a tensor, for as long as this lives. The tensor is not kept.
class Scratch {
 public:
  explicit Scratch(const Tensor& like);
  float* operator()(int64_t elements);

 private:
  int32_t device_type_ = 0, device_index_ = 0;
  std::optional<Tensor> memory_;
};

}  // namespace convext
