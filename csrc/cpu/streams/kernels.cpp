// The steps of streams on one instruction set, compiled once for each.
#include "cpu/shared/epilogue.h"
#include "cpu/streams/convolve.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_STEPS(isa) CONVEXT_JOIN(steps_, isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// result = of(a, b), whole vectors of each column.
template <class Of>
CONVEXT_INLINE void each(const Instruction& I, int64_t columns, const Of& of) {
  const Vector<float> scalar = broadcast(float(I.scalars[0]));
  for (int64_t column = 0; column < columns; ++column) {
    float* result = I.result.at + column * I.result.row;
    const float *a = I.a.at + column * I.a.row, *b = I.b.at + column * I.b.row;
    for (int64_t c = 0; c < I.channels; c += LANES) {
      store<float>(result + c, of(I.a.at ? load(a + c) : scalar, I.b.at ? load(b + c) : scalar));
    }
  }
}

CONVEXT_INLINE void execute(Instruction& I, const Chunk& chunk, float* windows) {
  using V = Vector<float>;
  const int64_t columns = chunk.batch * chunk.samples;
  switch (I.operation) {
    case Operation::fill:
      return each(I, columns, [](V, V scalar) { return scalar; });
    case Operation::add:
      return each(I, columns, [](V a, V b) { return a + b; });
    case Operation::subtract:
      return each(I, columns, [](V a, V b) { return a - b; });
    case Operation::multiply:
      return each(I, columns, [](V a, V b) { return a * b; });
    case Operation::activate: {
      const Epilogue epilogue{Activation(I.activation), {I.scalars[0], I.scalars[1]}};
      return each(I, columns, [&](V a, V) { return activated<float, float>(epilogue, a); });
    }
    case Operation::convolve:
      return convolve(I, chunk, windows);
  }
}

// Calls move(an element of the arena, an element of the caller's tensor) for all of a port.
template <class Move>
CONVEXT_INLINE void pass(const Port& port, const Chunk& chunk, const Move& move) {
  for (int64_t n = 0; n < chunk.batch; ++n) {
    for (int64_t s = 0; s < chunk.samples; ++s) {
      float* here = port.value.at + (n * chunk.samples + s) * port.value.row;
      float* there = port.tensor + n * port.stride[0] + s * port.stride[2];
      for (int64_t c = 0; c < port.channels; ++c) move(here[c], there[c * port.stride[1]]);
    }
  }
}

void steps(Program& p) {
  for (int64_t i = 0; i < p.input_count; ++i) {
    pass(p.inputs[i], p.chunk, [](float& here, const float& there) { here = there; });
  }
  for (int64_t i = 0; i < p.count; ++i) execute(p.instructions[i], p.chunk, p.windows);
  for (int64_t i = 0; i < p.output_count; ++i) {
    pass(p.outputs[i], p.chunk, [](const float& here, float& there) { there = here; });
  }
}

}  // namespace CONVEXT_ISA

extern const Steps CONVEXT_STEPS(CONVEXT_ISA) = &CONVEXT_ISA::steps;

}  // namespace cpu
}  // namespace convext
