// The weight gradient, by each way.
#include "cpu/faces/dense_wgrad.h"
#include "cpu/faces/reordered_wgrad.h"
#include "cpu/faces/results.h"
#include "cpu/faces/ways.h"
#include "cpu/faces/wgrad.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

Work weights::work(const Call& call) {
  return for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    const Problem& p = call.problem;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return innermost_wgrad_work<T>(p);
      case Way::reordered:
        return reordered_wgrad_work<T>(p);
      case Way::outer:
        return dense_wgrad_work<T>(p);
      case Way::packed:
        break;
    }
    return wgrad_work<T>(p, call.a, call.b);
  });
}

void weights::run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return innermost_wgrad_run<T>(call, first, last);
      case Way::reordered:
        return reordered_wgrad_run<T>(call, first, last, scratch);
      case Way::outer:
        return dense_wgrad_run<T>(call, first, last, scratch);
      case Way::packed:
        return wgrad_run<T>(call, first, last, scratch);
    }
  });
}

void weights::finish(const Call& call, int64_t first, int64_t last) {
  for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    const Problem& p = call.problem;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return lanes_finish<T, true>(call, innermost_wgrad_of<T>(p).shares, first, last);
      case Way::reordered:
        return lanes_finish<T, false>(call, reordered_wgrad_of<T>(p).shares, first, last);
      case Way::outer:
        return lanes_finish<T, false>(call, dense_wgrad_of<T>(p).shares, first, last);
      case Way::packed:
        return wgrad_finish<T>(call, wgrad_of<T>(p, call.a, call.b).shares, first, last);
    }
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
