#include "library/call.h"

namespace convext {

int64_t keep(Call call) {
  return reinterpret_cast<int64_t>(new Call(std::move(call)));
}

Scratch::Scratch(const Tensor& like) : device_index_(like.get_device_index()) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type_));
}

float* Scratch::operator()(int64_t elements) {
  const int64_t one = 1;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(1, &elements, &one, aoti_torch_dtype_float32(), device_type_, device_index_, &handle));
  memory_ = Tensor(handle);
  return static_cast<float*>(memory_->mutable_data_ptr());
}

}  // namespace convext

// Makes a call on a stream of its device, which is current. Returns null, or what went wrong, until this thread's next.
extern "C" __attribute__((visibility("default"))) const char* convext_launch(  //
    int64_t call, void* stream, void* a, void* b, void* c, void* d, void* e) {
  thread_local std::string error;
  void* const addresses[convext::ADDRESSES] = {a, b, c, d, e};
  try {
    (*reinterpret_cast<convext::Call*>(call))(addresses, static_cast<convext::Stream>(stream));
    return nullptr;
  } catch (const std::exception& raised) {
    error = raised.what();
    return error.c_str();
  }
}

extern "C" __attribute__((visibility("default"))) void convext_forget(int64_t call) {
  delete reinterpret_cast<convext::Call*>(call);
}
