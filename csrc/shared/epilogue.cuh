// What may follow a sum before it is stored: an activation, and a residual that is added to it. The same piece as
// convext/problem/epilogue.py, which names the activations, triton_kernels/epilogue.py and csrc/cpu/shared/epilogue.h.
// In float32, rounded once; a NaN stays one.
//
// Every kernel has all activations, and learns from numbers which it computes, so that this is little code:
//
//     bounds     clamp(scale z + shift, low, high)              identity, ReLU, clamp, hard sigmoid
//                                                               times z: hardswish, leaky ReLU
//     share      1 / (1 + 2^(a polynomial of odd powers of z))  sigmoid; times z: SiLU, both GELUs
//     tangent    2 share - 1                                    tanh
#pragma once
#include <limits>
#include <string>

#include "shared/launch.h"
#include "shared/number.cuh"
#include "shared/problem.h"

namespace convext {

struct Epilogue {
  bool share, tangent, times_z;  // what z within its bounds goes on through
  float scale, shift, low, high;
  float power[7];  // of z, z^3, .., z^13
};

// activation(sum) + residual.
struct Ending {
  bool any;  // or what is stored is the sum
  Epilogue epilogue;
  View residual;  // of the result's shape; no data: none
};

// That which convext.problem.epilogue calls `name`, with its scalars.
inline Epilogue epilogue_of(const std::string& name, float first, float second) {
  constexpr float MOST = std::numeric_limits<float>::max(), INFINITE = std::numeric_limits<float>::infinity();
  const auto bounds = [](bool times_z, float scale, float shift, float low, float high) -> Epilogue {
    return {false, false, times_z, scale, shift, low, high, {}};
  };
  if (name == "identity") return bounds(false, 1, 0, -INFINITE, INFINITE);
  if (name == "relu") return bounds(false, 1, 0, 0, INFINITE);
  if (name == "clamp") return bounds(false, 1, 0, first, second);
  if (name == "hardsigmoid") return bounds(false, 1 / 6.0f, 0.5f, 0, 1);
  if (name == "hardswish") return bounds(true, 1 / 6.0f, 0.5f, 0, 1);
  // 1 above zero, and the slope below: every z but zero, scaled, is beyond the bounds.
  if (name == "leaky_relu") return first < 1 ? bounds(true, MOST, 0, first, 1) : bounds(true, -MOST, 0, 1, first);

  // Beyond 100 each share is 0 or 1. Further out powers would be no numbers.
  Epilogue e{true, name == "tanh", name != "tanh" && name != "sigmoid", 1, 0, -100, 100, {}};
  constexpr float LOG2_E = 1.44269504f;
  // GELU's share is the normal distribution's below z, by a fit: z times it errs by 7e-8. GELU by tanh has two terms.
  constexpr float NORMAL[7] = {-2.30220747f,     -0.104838192f,   9.52950722e-05f, 0.000159485237f,
                               -1.14667382e-05f, 3.86016325e-07f, -5.23387866e-09f};
  if (name == "gelu")
    for (int i = 0; i < 7; ++i) e.power[i] = NORMAL[i];
  else if (name == "gelu_tanh")
    e.power[0] = -1.59576912f * LOG2_E, e.power[1] = -0.0713548163f * LOG2_E;
  else
    e.power[0] = name == "tanh" ? -2 * LOG2_E : -LOG2_E;
  check(name == "gelu" || name == "gelu_tanh" || name == "tanh" || name == "silu" || name == "sigmoid",
        "expected an activation of convext.problem.epilogue, but got ", name);
  return e;
}

__device__ __forceinline__ float activated(const Epilogue& e, float z) {
  float value = e.scale * z + e.shift;
  value = value < e.low ? e.low : value;  // as torch's: `high` where the bounds cross
  value = value > e.high ? e.high : value;
  if (e.share) {
    const float square = value * value;
    float power = e.power[6];
    CONVEXT_UNROLL
    for (int i = 5; i >= 0; --i) power = power * square + e.power[i];
    const float share = reciprocal(1 + power_of_two(power * value));
    // Near zero a difference would lose the digits of tanh: there, its series.
    const float series = ((0.0218694885f * square - 0.0539682540f) * square + 0.133333333f) * square - 0.333333333f;
    if (e.tangent)
      value = square < 0.0625f ? value + value * square * series : 2 * share - 1;
    else
      value = share;
  }
  return e.times_z ? value * z : value;
}

// What follows each of a thread's sums, of which TOGETHER neighbours lie side by side in memory; `residual(i, added)`
// gives what is added from the i-th on, to one or two. They go through a column of shared memory, in a loop: its body
// is long, and registers have no index. Pair by pair, those of THREADS threads side by side.
template <int THREADS, int TOGETHER, int COLUMNS, int CHANNELS, class Residual>
__device__ __forceinline__ void finish(const Epilogue& e, float (&sum)[COLUMNS][CHANNELS], float2* kept,
                                       const Residual& residual) {
  constexpr int COUNT = COLUMNS * CHANNELS, STEP = TOGETHER < 2 ? 1 : 2;
  if constexpr (COUNT == 1) {
    float added[1] = {};
    residual(0, added);
    sum[0][0] = activated(e, sum[0][0]) + added[0];
  } else {
    static_assert(COUNT % 2 == 0, "pairs");
    CONVEXT_UNROLL
    for (int i = 0; i < COUNT; i += 2)
      kept[i / 2 * THREADS] = make_float2(sum[i / CHANNELS][i % CHANNELS], sum[(i + 1) / CHANNELS][(i + 1) % CHANNELS]);
    CONVEXT_LOOP
    for (int i = 0; i < COUNT; i += STEP) {
      float added[STEP] = {};
      residual(i, added);
      float* value = reinterpret_cast<float*>(kept + i / 2 * THREADS) + i % 2;
      CONVEXT_LOOP
      for (int j = 0; j < STEP; ++j) value[j] = activated(e, value[j]) + (j == 0 ? added[0] : added[STEP - 1]);
    }
    CONVEXT_UNROLL
    for (int i = 0; i < COUNT; i += 2) {
      const float2 pair = kept[i / 2 * THREADS];
      sum[i / CHANNELS][i % CHANNELS] = pair.x, sum[(i + 1) / CHANNELS][(i + 1) % CHANNELS] = pair.y;
    }
  }
}

}  // namespace convext
