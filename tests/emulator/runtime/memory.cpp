// torch's CPU tensors in memory of the emulated device: each is an allocation of its own, with bounds that are checked,
// and holds NaN until it is written.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstring>
#include <stdexcept>

extern "C" {
int cuMemAlloc_v2(unsigned long long* pointer, size_t bytes);
int cuMemFree_v2(unsigned long long pointer);
}

namespace {

void release(void* memory) {
  cuMemFree_v2(reinterpret_cast<unsigned long long>(memory));
}

struct OnDevice final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    unsigned long long pointer;
    if (cuMemAlloc_v2(&pointer, bytes)) throw std::runtime_error("the emulated device has no memory left");
    auto* memory = reinterpret_cast<void*>(pointer);
    return {memory, memory, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

// From now on, or no longer. What was allocated meanwhile stays where it is.
extern "C" __attribute__((visibility("default"))) void emulator_hold_tensors(bool on) {
  static OnDevice device;
  static c10::Allocator* const usual = c10::GetCPUAllocator();
  c10::SetCPUAllocator(on ? &device : usual, 255);
}
