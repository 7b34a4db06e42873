// The gradient by a bias: that by the output, summed over images and pixels, in float32.
//
//     y [images, channels, pixels]  ->  result [channels]
//
// A thread sums vectors of 16 bytes: of channels, where these are innermost, else of the pixels of one channel. The
// threads of a block, and then its parts where channels alone give too few blocks, are added in a fixed order.
#include <algorithm>

#include "library/call.h"
#include "shared/reduce.cuh"

namespace convext {

constexpr int BIAS_THREADS = 256, BIAS_LOADS = 4;  // loads of a thread that are on their way at a time

struct BiasArguments {
  const void* y;
  void* result;
  float* partial;                // [parts, channels]; null where there is one part
  int64_t image, unit, channel;  // strides; a unit is a pixel, or a vector of them
  int channels, units;           // units of all images
  int units_of_a_part;
  Divisor units_of_an_image;
};

template <class T, int VECTOR, bool CHANNELS_INNER>
__global__ void __launch_bounds__(BIAS_THREADS) channel_sums_kernel(const BiasArguments g) {
  constexpr int LANES = CHANNELS_INNER ? 8 : 1, CHANNELS = CHANNELS_INNER ? VECTOR : 1;  // side by side; of a lane
  constexpr int WIDTH = LANES * CHANNELS, ROWS = BIAS_THREADS / LANES;
  __shared__ float of_row[ROWS * WIDTH];
  const int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
  const int channel = blockIdx.x * WIDTH + lane * CHANNELS;
  const T* y = static_cast<const T*>(g.y) + channel * g.channel;
  const int first = blockIdx.y * g.units_of_a_part, last = min(g.units, first + g.units_of_a_part);

  float sum[VECTOR] = {};
  for (int begin = first + row; begin < last && channel < g.channels; begin += ROWS * BIAS_LOADS) {
    float value[BIAS_LOADS][VECTOR] = {};
    CONVEXT_UNROLL
    for (int i = 0; i < BIAS_LOADS; ++i) {
      const int unit = begin + i * ROWS;
      if (unit >= last) break;
      unsigned image = unit;
      const int64_t at = g.units_of_an_image.take(image) * g.unit;
      load<T, VECTOR>(y + image * g.image + at, value[i]);
    }
    CONVEXT_UNROLL
    for (int i = 0; i < BIAS_LOADS; ++i) CONVEXT_UNROLL
    for (int e = 0; e < VECTOR; ++e) sum[e] += value[i][e];
  }
  CONVEXT_UNROLL
  for (int e = 0; e < CHANNELS; ++e) of_row[row * WIDTH + lane * CHANNELS + e] = sum[e];
  if (!CHANNELS_INNER)
    for (int e = 1; e < VECTOR; ++e) of_row[row] += sum[e];
  for (int half = ROWS * WIDTH / 2; half >= WIDTH; half /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += BIAS_THREADS) of_row[i] += of_row[i + half];
  }
  __syncthreads();
  const int written = blockIdx.x * WIDTH + threadIdx.x;
  if (threadIdx.x >= WIDTH || written >= g.channels) return;
  if (g.partial)
    g.partial[int64_t(blockIdx.y) * g.channels + written] = of_row[threadIdx.x];
  else
    static_cast<T*>(g.result)[written] = from_float<T>(of_row[threadIdx.x]);
}

template <class T, int VECTOR, bool CHANNELS_INNER>
static void launch_channel_sums(const BiasArguments& g, int parts, Stream stream) {
  constexpr int WIDTH = CHANNELS_INNER ? 8 * VECTOR : 1;
  const dim3 grid = grid_of(ceil_div(g.channels, WIDTH), parts, "bias");
  check_launch(launch(channel_sums_kernel<T, VECTOR, CHANNELS_INNER>, grid, BIAS_THREADS, 0, stream, g), "bias");
}

// y [images, channels, pixels], its strides and its address.
struct Summed {
  int64_t images, channels, pixels;
  int64_t image, channel, pixel;
  const void* data;
};

static Summed summed(const Tensor& y) {
  const View lies = view(y);
  Summed s{y.size(0), y.size(1), 1, lies.stride[0], lies.stride[1], 0, lies.data};
  for (int64_t axis = y.dim() - 1; axis >= 2; --axis) {
    if (y.size(axis) == 1) continue;
    if (s.pixels == 1) s.pixel = y.stride(axis);
    check(y.stride(axis) == s.pixel * s.pixels, "bias: expected pixels of y at even distances, but got a stride of ",
          y.stride(axis), " after ", s.pixels, " times ", s.pixel);
    s.pixels *= y.size(axis);
  }
  check(s.images * s.pixels < (1 << 30), "bias: expected fewer than 1073741824 images x pixels, but got ", s.images,
        " x ", s.pixels);
  return s;
}

// The call for elements of type T, as they lie: its addresses are y's and the result's.
template <class T>
static Call bias_call(const Summed& y, const Scratch& like) {
  constexpr int64_t VECTOR = VECTOR_BYTES / sizeof(T), BLOCKS = 1024;
  const bool inner = y.channel == 1;
  const auto whole = [](auto... numbers) { return ((numbers % VECTOR == 0) && ...); };
  const bool vectors = whole(y.image, inner ? y.channels : y.pixels, inner ? y.pixel : y.channel) &&
                       (inner || y.pixel == 1) && reinterpret_cast<uintptr_t>(y.data) % VECTOR_BYTES == 0;
  const int64_t unit = vectors && !inner ? VECTOR : 1, units = y.images * y.pixels / unit;
  const int64_t lanes = inner ? 8 : 1,
                columns = ceil_div(int(y.channels), int(inner && vectors ? lanes * VECTOR : lanes));
  // Enough blocks to fill a GPU, each with loads enough for all its threads.
  const int64_t most = std::min(BLOCKS / columns, units / (BIAS_THREADS / lanes * BIAS_LOADS));
  const int64_t share = units / std::max<int64_t>(1, most) + 1;
  const int parts = static_cast<int>((units + share - 1) / share);

  BiasArguments g{};
  g.image = y.image, g.unit = unit * y.pixel, g.channel = y.channel;
  g.channels = int(y.channels), g.units = int(units), g.units_of_a_part = int(share);
  g.units_of_an_image = Divisor(unsigned(y.pixels / unit));
  const auto sums = inner     ? vectors ? launch_channel_sums<T, VECTOR, true> : launch_channel_sums<T, 1, true>
                    : vectors ? launch_channel_sums<T, VECTOR, false>
                              : launch_channel_sums<T, 1, false>;
  Problem second{};  // what sum_partials adds up: a weight of one tap for each channel
  second.k = g.channels, second.c = second.groups = 1;
  for (int& taps : second.kernel) taps = 1;
  return [=](void* const* to, Stream stream) {
    BiasArguments now = g;
    Scratch scratch = like;
    now.y = to[0], now.result = to[1], now.partial = parts > 1 ? scratch(int64_t(parts) * g.channels) : nullptr;
    sums(now, parts, stream);
    if (now.partial) sum_partials<T>(second, now.partial, parts, {to[1], {1}}, stream);
  };
}

// y: a tensor of any strides whose pixels lie at even distances.
static int64_t bias_op(Tensor y, Tensor result) {
  check(on_device(y) && on_device(result), "bias: expected y and result on ", DEVICE);
  check(y.dim() > 2 && result.dim() == 1 && result.size(0) == y.size(1) && result.scalar_type() == y.scalar_type(),
        "bias: expected a result of y's dtype, with an element for each of its ", y.size(1), " channels");
  check(y.numel() > 0 && (result.size(0) == 1 || result.stride(0) == 1), "bias: expected elements, and a dense result");
  Call call;
  for_dtype(y, [&](auto element) { call = bias_call<decltype(element)>(summed(y), Scratch(y)); });
  return keep(std::move(call));
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("bias", TORCH_BOX(&bias_op));
}

}  // namespace convext
