// Where the causal kernels meet torch: three operators that write their results into tensors they are given.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <optional>
#include <string>

#include "cpu/causal/causal.h"
#include "cpu/shared/host.h"

namespace convext {
namespace cpu {
namespace {

using Optional = std::optional<Tensor>;

// The kernels for `isa`. Whether the machine has it, convext_cpu::supports tells.
const CausalKernels& kernels_for(const std::string& isa) {
#ifdef CONVEXT_X86
  if (isa == "avx512") return causal_avx512;
  if (isa == "avx2") return causal_avx2;
#endif
  check(isa == "generic", "an instruction set of this library, but got ", isa);
  return causal_generic;
}

// ------------------------------------------------------------------------------------------------------- arguments

void check_shape(const char* name, const Tensor& t, const Ints& expected) {
  check(t.is_cpu(), name, " on the CPU, but it is on another device");
  check(shape(t) == expected, name, " of shape ", list(expected), ", but got ", list(shape(t)));
}

Rows rows_of(const char* name, const Tensor& t, const Ints& expected, const Tensor& like) {
  check_shape(name, t, expected);
  check(t.scalar_type() == like.scalar_type(), name, " to be ", torch::headeronly::toString(like.scalar_type()),
        ", as x is, but got ", torch::headeronly::toString(t.scalar_type()));
  return {const_cast<void*>(t.const_data_ptr()), {t.stride(0), t.stride(1), t.dim() == 3 ? t.stride(2) : 0}};
}

Rows rows_of(const char* name, const Optional& t, const Ints& expected, const Tensor& like) {
  return t ? rows_of(name, *t, expected, like) : Rows{};
}

Weights weights_of(const Tensor& w, const Optional& bias, int64_t channels) {
  check(w.dim() == 2, "weight of two dimensions, but got shape ", list(shape(w)));
  check_shape("weight", w, {channels, w.size(1)});
  Weights weights{number_of(w), {}, w.const_data_ptr(), nullptr, {w.stride(0), w.stride(1)}, 0};
  if (bias) {
    check_shape("bias", *bias, {channels});
    weights.bias_number = number_of(*bias);
    weights.bias = bias->const_data_ptr();
    weights.bias_stride = bias->stride(0);
  }
  return weights;
}

CausalProblem problem_of(const Tensor& x, const Tensor& w, bool channels_innermost, int64_t dilation,
                         int64_t activation) {
  check(dilation >= 1 && dilation < (int64_t(1) << 40), "a dilation of at least 1, but got ", dilation);
  check(activation >= 0 && activation <= 3, "an activation between 0 and 3, but got ", activation);
  return {number_of(x), Activation(activation), x.size(1), w.size(1), dilation, channels_innermost};
}

// int32 or int64, of any stride in its last axis.
std::vector<int64_t> integers(const char* name, const Tensor& t, int64_t row = 0) {
  const bool wide = t.scalar_type() == ScalarType::Long;
  check(wide || t.scalar_type() == ScalarType::Int, name, " to be int32 or int64, but got ",
        torch::headeronly::toString(t.scalar_type()));
  const int64_t axis = t.dim() - 1, offset = axis > 0 ? row * t.stride(0) : 0, stride = t.stride(axis);
  std::vector<int64_t> values(t.size(axis));
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t at = offset + int64_t(i) * stride;
    values[i] = wide ? static_cast<const int64_t*>(t.const_data_ptr())[at]
                     : static_cast<const int32_t*>(t.const_data_ptr())[at];
  }
  return values;
}

// Where sequences lie in a batch of x: a row each, or as one of the two indices says.
std::vector<Sequence> sequences_of(const Tensor& x, bool has_states, const Optional& seq_idx,
                                   const Optional& cu_seqlens) {
  std::vector<Sequence> sequences;
  const int64_t batch = x.size(0), length = x.size(2);
  if (cu_seqlens) {
    check(batch == 1 && cu_seqlens->dim() == 1, "cu_seqlens of one dimension and a batch of 1, but got ",
          list(shape(*cu_seqlens)), " and a batch of ", batch);
    const auto offsets = integers("cu_seqlens", *cu_seqlens);
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      check(0 <= offsets[i] && offsets[i] <= offsets[i + 1] && offsets[i + 1] <= length, "offsets in order, up to ",
            length, ", but element ", i, " is ", offsets[i], " and element ", i + 1, " is ", offsets[i + 1]);
      sequences.push_back({0, offsets[i], offsets[i + 1], has_states ? int64_t(i) : ZEROS});
    }
    return sequences;
  }
  if (seq_idx) check_shape("seq_idx", *seq_idx, {batch, length});
  for (int64_t row = 0; row < batch; ++row) {
    const auto index = seq_idx ? integers("seq_idx", *seq_idx, row) : std::vector<int64_t>(1, 0);
    for (int64_t begin = 0, end; begin < length; begin = end) {
      for (end = seq_idx ? begin + 1 : length; end < length && index[end] == index[begin];) ++end;
      const bool padding = index[seq_idx ? begin : 0] < 0;
      sequences.push_back({row, begin, end, padding ? PADDING : has_states && begin == 0 ? row : ZEROS});
    }
  }
  return sequences;
}

// ------------------------------------------------------------------------------------------------------- operators

// Whether vectors of a dense tensor run along its channels.
bool channels_innermost(const Tensor& t) {
  return t.size(1) > 1 && t.stride(1) == 1;
}

int64_t products(const CausalProblem& p, const Tensor& x) {
  return x.numel() * (p.taps + 8);  // an activation costs about as much as 8 taps
}

void causal_forward(std::string isa, Tensor y, Tensor x, Tensor w, Optional bias, Optional residual, Optional states,
                    Optional seq_idx, Optional cu_seqlens, int64_t dilation, int64_t activation) {
  const CausalKernels& kernels = kernels_for(isa);
  const Ints all = shape(x);
  check(all.size() == 3, "x of three dimensions, but got shape ", list(all));
  CausalCall call{};
  call.problem = problem_of(x, w, channels_innermost(y), dilation, activation);
  const CausalProblem& p = call.problem;
  const auto sequences = sequences_of(x, states.has_value(), seq_idx, cu_seqlens);
  call.sequences = sequences.data(), call.count = int64_t(sequences.size());
  const int64_t rows = cu_seqlens ? cu_seqlens->size(0) - 1 : all[0];
  call.x = rows_of("x", x, all, x), call.y = rows_of("y", y, all, x);
  call.residual = rows_of("residual", residual, all, x);
  call.states = rows_of("states", states, {rows, all[1], (p.taps - 1) * dilation}, x);
  call.weights = weights_of(w, bias, all[1]);
  const CausalWork work = kernels.work(call, false);
  const Memory prepared = allocate(work.prepared_bytes);
  call.prepared = prepared.get();
  kernels.prepare(call);
  torch::stable::parallel_for(0, work.jobs, grain(work.jobs, products(p, x)), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(work.scratch_bytes);
    kernels.forward(call, first, last, scratch.get());
  });
}

// `sums`: the gradients by weight and bias, [channels, taps + 1] in float32, in float64 for float64.
void causal_backward(std::string isa, Tensor by_x, Tensor sums, Optional by_states, Tensor grad, Tensor x, Tensor w,
                     Optional bias, Optional states, Optional seq_idx, Optional cu_seqlens, int64_t dilation,
                     int64_t activation) {
  const CausalKernels& kernels = kernels_for(isa);
  const Ints all = shape(x);
  check(all.size() == 3, "x of three dimensions, but got shape ", list(all));
  CausalCall call{};
  call.problem = problem_of(x, w, channels_innermost(by_x), dilation, activation);
  const CausalProblem& p = call.problem;
  const auto sequences = sequences_of(x, states.has_value(), seq_idx, cu_seqlens);
  call.sequences = sequences.data(), call.count = int64_t(sequences.size());
  const int64_t rows = cu_seqlens ? cu_seqlens->size(0) - 1 : all[0];
  const Ints of_states{rows, all[1], (p.taps - 1) * dilation};
  call.x = rows_of("x", x, all, x), call.by_x = rows_of("by_x", by_x, all, x);
  call.grad = rows_of("grad", grad, all, x);
  call.states = rows_of("states", states, of_states, x);
  call.by_states = rows_of("by_states", by_states, of_states, x);
  call.weights = weights_of(w, bias, all[1]);
  check_shape("sums", sums, {all[1], p.taps + 1});
  const CausalWork work = kernels.work(call, true);
  const Memory prepared = allocate(work.prepared_bytes);
  const int64_t item = p.number == Number::float64 ? 8 : 4, bytes = sums.numel() * item;
  const Memory shares = allocate(work.shares * bytes);
  call.prepared = prepared.get(), call.sums = work.shares > 1 ? shares.get() : sums.mutable_data_ptr();
  kernels.prepare(call);
  torch::stable::parallel_for(0, work.jobs, grain(work.jobs, 3 * products(p, x)), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(work.scratch_bytes);
    kernels.backward(call, first, last, scratch.get());
  });
  if (work.shares > 1) {
    kernels.finish(call, work.shares);
    std::memcpy(sums.mutable_data_ptr(), shares.get(), bytes);
  }
}

// x and y are [batch, channels], or [batch, channels, length].
void causal_update(std::string isa, Tensor y, Tensor x, Tensor state, Tensor w, Optional bias, Optional cache_seqlens,
                   Optional indices, int64_t dilation, int64_t activation) {
  const CausalKernels& kernels = kernels_for(isa);
  const Ints all = shape(x);
  check(all.size() == 2 || all.size() == 3, "x of two or three dimensions, but got shape ", list(all));
  UpdateCall call{};
  call.problem = problem_of(x, w, false, dilation, activation);
  call.batch = all[0], call.length = all.size() == 3 ? all[2] : 1;
  const int64_t channels = all[1], span = (call.problem.taps - 1) * dilation;
  check(state.dim() == 3 && state.size(2) >= span, "a state of at least ", span, " elements, but got shape ",
        list(shape(state)));
  call.state_length = state.size(2);
  call.x = rows_of("x", x, all, x), call.y = rows_of("y", y, all, x);
  call.state = rows_of("conv_state", state, {indices ? state.size(0) : all[0], channels, call.state_length}, x);
  for (int64_t axis = 0; axis < 3; ++axis)
    check(state.stride(axis) > 0 || state.size(axis) <= 1, "a state of its own memory, but it is expanded");
  call.weights = weights_of(w, bias, channels);
  std::vector<int64_t> rows(all[0]), seen;
  for (int64_t b = 0; b < all[0]; ++b) rows[b] = b;
  if (indices) {
    check_shape("conv_state_indices", *indices, {all[0]});
    rows = integers("conv_state_indices", *indices);
    for (int64_t& row : rows) {
      check(row >= -1 && row < state.size(0), "indices of ", state.size(0), " states, but got ", row);
      if (row < 0) row = PADDING;
    }
  }
  if (cache_seqlens) {
    check_shape("cache_seqlens", *cache_seqlens, {all[0]});
    seen = integers("cache_seqlens", *cache_seqlens);
  }
  call.rows = rows.data(), call.seen = cache_seqlens && call.state_length > 0 ? seen.data() : nullptr;
  // Blocks of channels: a sequence may come twice in a batch, and threads share channels, not sequences.
  constexpr int64_t block = 64;
  const int64_t blocks = (channels + block - 1) / block;
  const int64_t work = x.numel() * (call.problem.taps + call.state_length);
  torch::stable::parallel_for(0, blocks, grain(blocks, work), [&](int64_t first, int64_t last) {
    kernels.update(call, first * block, last * block < channels ? last * block : channels);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(convext_cpu, m) {
  m.def(
      "causal_forward(str isa, Tensor(a!) y, Tensor x, Tensor w, Tensor? bias, Tensor? residual, Tensor? states, "
      "Tensor? seq_idx, Tensor? cu_seqlens, int dilation, int activation) -> ()");
  m.def(
      "causal_backward(str isa, Tensor(a!) by_x, Tensor(b!) sums, Tensor(c!)? by_states, Tensor grad, Tensor x, "
      "Tensor w, Tensor? bias, Tensor? states, Tensor? seq_idx, Tensor? cu_seqlens, int dilation, int activation) "
      "-> ()");
  m.def(
      "causal_update(str isa, Tensor(a!) y, Tensor x, Tensor(b!) state, Tensor w, Tensor? bias, "
      "Tensor? cache_seqlens, Tensor? indices, int dilation, int activation) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("causal_forward", TORCH_BOX(&causal_forward));
  m.impl("causal_backward", TORCH_BOX(&causal_backward));
  m.impl("causal_update", TORCH_BOX(&causal_update));
}

}  // namespace cpu
}  // namespace convext
