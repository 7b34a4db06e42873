// fprop and dgrad, by each way; the packed one is compiled beside this file, images_packed.cpp.
#include "cpu/faces/reordered.h"
#include "cpu/faces/results.h"
#include "cpu/faces/ways.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

Work images::work(const Call& call) {
  return for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    const Problem& p = call.problem;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return innermost_work<T>(p, call.b);
      case Way::reordered:
        return reordered_work<T>(p);
      case Way::outer:  // weight gradients
      case Way::packed:
        break;
    }
    return packed_work(call);
  });
}

void images::prepare(const Call& call, int64_t first, int64_t last) {
  for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return innermost_prepare<T>(call, first, last);
      case Way::reordered:
        return reordered_prepare<T>(call, first, last);
      case Way::outer:  // weight gradients
      case Way::packed:
        return packed_prepare(call, first, last);
    }
  });
}

void images::run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return innermost_run<T>(call, first, last);
      case Way::reordered:
        return reordered_run<T>(call, first, last, scratch);
      case Way::outer:  // weight gradients
      case Way::packed:
        return packed_run(call, first, last, scratch);
    }
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
