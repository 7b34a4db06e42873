// fprop and dgrad, by each way.
#include "cpu/faces/gather.h"
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
      case Way::packed:
        break;
    }
    return gather_work<T>(p, call.a, call.result);
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
      case Way::packed:
        return gather_prepare<T>(call, first, last);
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
      case Way::packed:
        return gather_run<T>(call, first, last, scratch);
    }
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
