// The table of one instruction set: CONVEXT_ISA names it, CONVEXT_VECTOR_BYTES is the width of its vectors. setup.py
// compiles this file once for each.
#include "cpu/faces/kernels.h"

#include "cpu/faces/gather.h"
#include "cpu/faces/reordered.h"
#include "cpu/faces/reordered_wgrad.h"
#include "cpu/faces/ways.h"
#include "cpu/faces/wgrad.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_TABLE(isa) CONVEXT_JOIN(kernels_, isa)
#define CONVEXT_QUOTE(isa) #isa
#define CONVEXT_NAME(isa) CONVEXT_QUOTE(isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

template <class T>
struct Element {
  using type = T;
};

// Calls `action` with the Element of a call's tensors.
template <class Action>
CONVEXT_INLINE auto for_element(const Call& call, const Action& action) {
  switch (call.problem.number) {
    case Number::float32:
      return action(Element<float>{});
    case Number::float64:
      return action(Element<double>{});
    case Number::float16:
      return action(Element<float16>{});
    case Number::bfloat16:
      break;
  }
  return action(Element<bfloat16>{});
}

Work work(const Call& call) {
  return for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    const Problem& p = call.problem;
    const bool wgrad = p.face == Face::wgrad;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return wgrad ? innermost_wgrad_work<T>(p) : innermost_work<T>(p, call.b);
      case Way::reordered:
        return wgrad ? reordered_wgrad_work<T>(p) : reordered_work<T>(p);
      case Way::packed:
        break;
    }
    return wgrad ? wgrad_work<T>(p, call.a, call.b) : gather_work<T>(p, call.a, call.result);
  });
}

void prepare(const Call& call, int64_t first, int64_t last) {
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

void run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    const bool wgrad = call.problem.face == Face::wgrad;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return wgrad ? innermost_wgrad_run<T>(call, first, last) : innermost_run<T>(call, first, last);
      case Way::reordered:
        return (wgrad ? reordered_wgrad_run<T> : reordered_run<T>)(call, first, last, scratch);
      case Way::packed:
        return (wgrad ? wgrad_run<T> : gather_run<T>)(call, first, last, scratch);
    }
  });
}

void finish(const Call& call, int64_t first, int64_t last) {
  for_element(call, [&](auto element) {
    using T = typename decltype(element)::type;
    const Problem& p = call.problem;
    switch (way_of<T>(call)) {
      case Way::in_place:
        return lanes_finish<T, true>(call, innermost_wgrad_of<T>(p).shares, first, last);
      case Way::reordered:
        return lanes_finish<T, false>(call, reordered_wgrad_of<T>(p).shares, first, last);
      case Way::packed:
        return wgrad_finish<T>(call, wgrad_of<T>(p, call.a, call.b).shares, first, last);
    }
  });
}

}  // namespace CONVEXT_ISA

extern const Kernels CONVEXT_TABLE(CONVEXT_ISA){CONVEXT_NAME(CONVEXT_ISA), CONVEXT_ISA::work, CONVEXT_ISA::prepare,
                                                CONVEXT_ISA::run, CONVEXT_ISA::finish};

}  // namespace cpu
}  // namespace convext
