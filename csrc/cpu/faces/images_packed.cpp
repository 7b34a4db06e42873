// fprop and dgrad by the packed way (gather.h): a job is one block of results, whose window of the operand is packed.
// Apart from images.cpp, so that the two compile side by side.
#include "cpu/faces/gather.h"
#include "cpu/faces/results.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

namespace images {

Work packed_work(const Call& call) {
  return for_element(call, [&](auto element) {
    return gather_work<typename decltype(element)::type>(call.problem, call.a, call.result);
  });
}

void packed_prepare(const Call& call, int64_t first, int64_t last) {
  for_element(call, [&](auto element) { gather_prepare<typename decltype(element)::type>(call, first, last); });
}

void packed_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_element(call, [&](auto element) { gather_run<typename decltype(element)::type>(call, first, last, scratch); });
}

}  // namespace images

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
