// The main loop of every dense, pointwise, grouped, dilated and transposed convolution, and its epilogues.
//
// A block computes BM x BN of the product. Stages of shared memory are filled by asynchronous 16-byte copies, STAGES -
// 1 ahead of the one that the tensor cores read; operands whose channels are no whole 16-byte vectors, or not
// contiguous, are copied element by element instead.
//
//       A [BM, BK]  B [BN, BK]     stage s      <- cp.async
//       A [BM, BK]  B [BN, BK]     stage s + 1  <- cp.async
//       A [BM, BK]  B [BN, BK]     stage s + 2  -> mma -> registers -> result, or one split's partial sums
#pragma once
#include "igemm/operands.cuh"
#include "igemm/tile.cuh"

namespace convext {

// What fprop and dgrad reduce over, and what wgrad does. `A` and `B` are the operands; true: their reduction is minor.
template <class T, bool B_MINOR>
struct OverTaps {
  using Step = TapStep;
  using A = GatheredRows<T>;
  using B = Weights2d<T, B_MINOR>;
  static constexpr bool A_REDUCTION_MINOR = true, B_REDUCTION_MINOR = B_MINOR, PARTIAL = false;

  __device__ static int steps(const GemmProblem& p, int, int depth) {
    return p.axis[0].taps * p.axis[1].taps * p.axis[2].taps * ceil_div(p.channels, depth);
  }
  __device__ static Step first(const GemmProblem&, int) { return Step(); }
};

template <class T>
struct OverPixels {
  using Step = PixelStep;
  using A = PixelReduction<T, false>;
  using B = PixelReduction<T, true>;
  static constexpr bool A_REDUCTION_MINOR = false, B_REDUCTION_MINOR = false, PARTIAL = true;

  __device__ static Step first(const GemmProblem& p, int split) { return {int64_t(split) * p.pixels_of_a_split}; }
  __device__ static int steps(const GemmProblem& p, int split, int depth) {
    const int64_t left = p.pixels - first(p, split).pixel;
    return ceil_div(static_cast<int>(min(left, int64_t(p.pixels_of_a_split))), depth);
  }
};

// One operand's share of a thread: the same chunks of every stage.
template <class T, class Shape, class Tile, class Operand, bool VECTORS>
struct Loader {
  Operand operand;
  typename Operand::Cursor cursor[Tile::CHUNKS_OF_A_THREAD];

  __device__ static int major(int i) { return (threadIdx.x + i * Shape::THREADS) / Tile::CHUNKS_OF_A_MAJOR; }
  __device__ static int minor(int i) {
    return (threadIdx.x + i * Shape::THREADS) % Tile::CHUNKS_OF_A_MAJOR * Shape::VECTOR;
  }

  __device__ Loader(const GemmArguments& g, const BlockTile& block) : operand{g, block} {
    CONVEXT_UNROLL
    for (int i = 0; i < Tile::CHUNKS_OF_A_THREAD; ++i) cursor[i] = operand.begin(major(i));
  }

  template <class Step>
  __device__ void load(T* tile, const Step& step) const {
    CONVEXT_UNROLL
    for (int i = 0; i < Tile::CHUNKS_OF_A_THREAD; ++i) {
      T* to = tile + major(i) * Tile::PITCH + minor(i);
      const int left = operand.minor_end() - operand.minor_position(minor(i), step);
      const T* from = left > 0 ? operand.find(cursor[i], major(i), minor(i), step) : nullptr;
      if (VECTORS) {
        cp_async16(to, from ? from : static_cast<const T*>(operand.g.problem.a.data), from ? VECTOR_BYTES : 0);
      } else {
        CONVEXT_UNROLL
        for (int e = 0; e < Shape::VECTOR; ++e)
          to[e] = from && e < left ? from[e * operand.minor_stride()] : from_float<T>(0);
      }
    }
  }
};

template <class Shape>
using Sums = float[Shape::MMA_M][Shape::MMA_N][4];

// Multiplies one stage.
template <class T, class Shape, class TileA, class TileB, class Factors>
__device__ __forceinline__ void multiply(Sums<Shape>& sum, const T* a_tile, const T* b_tile, int row, int column) {
  CONVEXT_UNROLL
  for (int k = 0; k < Shape::BK; k += Shape::MMA_K) {
    unsigned a[Shape::MMA_M][Factors::PARTS][4];
    CONVEXT_UNROLL
    for (int m = 0; m < Shape::MMA_M; ++m) {
      unsigned bits[4];
      load_a<TileA>(bits, a_tile, row + m * 16, k);
      Factors::split(bits, a[m]);
    }
    CONVEXT_UNROLL
    for (int n = 0; n < Shape::MMA_N; n += 2) {
      unsigned bits[2][2], b[2][Factors::PARTS][2];
      load_b<TileB>(bits, b_tile, column + n * 8, k);
      CONVEXT_UNROLL
      for (int half_of_b = 0; half_of_b < 2; ++half_of_b) {
        Factors::split(bits[half_of_b], b[half_of_b]);
        CONVEXT_UNROLL
        for (int term = 0; term < Factors::TERMS; ++term) {
          CONVEXT_UNROLL
          for (int m = 0; m < Shape::MMA_M; ++m)
            mma(sum[m][n + half_of_b], a[m][Factors::a(term)], b[half_of_b][Factors::b(term)], T());
        }
      }
    }
  }
}

// Calls `find(row)` for each row of the tile of which a thread holds sums, and, where that gives an address,
// `put(address, column, first, second)` for each pair of neighbouring columns.
template <class Shape, class Find, class Put>
__device__ __forceinline__ void for_each_pair(const Sums<Shape>& sum, int row, int column, Find find, Put put) {
  const int lane = threadIdx.x % WARP;
  CONVEXT_UNROLL
  for (int m = 0; m < Shape::MMA_M; ++m) {
    CONVEXT_UNROLL
    for (int upper = 0; upper < 2; ++upper) {
      const auto address = find(row + m * 16 + upper * 8 + lane / 4);
      if (!address) continue;
      CONVEXT_UNROLL
      for (int n = 0; n < Shape::MMA_N; ++n)
        put(address, column + n * 8 + lane % 4 * 2, sum[m][n][2 * upper], sum[m][n][2 * upper + 1]);
    }
  }
}

// A pixel of the result.
struct Pixel {
  int n, at[AXES];
};

__device__ __forceinline__ Pixel result_pixel(const GemmArguments& g, int row) {
  Pixel pixel;
  pixel.n = find_pixel(g, static_cast<unsigned>(row), pixel.at);
  for (int axis = 0; axis < AXES; ++axis) {
    const GemmAxis& a = g.problem.axis[axis];
    pixel.at[axis] = pixel.at[axis] * a.result_step + a.result_offset;
  }
  return pixel;
}

// Where its first channel of the block's group lies in a tensor of the result's shape.
template <class T>
__device__ __forceinline__ T* find_channels(const View& view, const Pixel& pixel, int64_t first_channel) {
  T* address = static_cast<T*>(view.data) + pixel.n * view.stride[0] + first_channel * view.stride[1];
  for (int axis = 0; axis < AXES; ++axis) address += pixel.at[axis] * view.stride[2 + axis];
  return address;
}

// The first of two columns, and where there is one, the second.
template <class T>
__device__ __forceinline__ void store_pair(T* to, int64_t stride, bool both, float first, float second) {
  if (both && stride == 1 && reinterpret_cast<uintptr_t>(to) % (2 * sizeof(T)) == 0) {
    const float pair[2] = {first, second};
    store<T, 2>(to, pair);
  } else {
    to[0] = from_float<T>(first);
    if (both) to[stride] = from_float<T>(second);
  }
}

template <class T, class Shape>
__device__ __forceinline__ void write_result(const GemmArguments& g, const BlockTile& block, const Sums<Shape>& sum,
                                             int row, int column) {
  const GemmProblem& p = g.problem;
  const int64_t first_channel = int64_t(block.group) * p.columns, stride = p.result.stride[1];
  const T* bias = static_cast<const T*>(p.bias) + (p.bias ? first_channel : 0);
  const auto find = [&](int r) {
    return r < p.pixels ? find_channels<T>(p.result, result_pixel(g, r), first_channel) : nullptr;
  };
  for_each_pair<Shape>(sum, row, column, find, [&](T* pixel, int c, float first, float second) {
    if (c >= p.columns) return;
    const bool both = c + 1 < p.columns;
    if (p.bias) first += to_float(bias[c]);
    if (p.bias && both) second += to_float(bias[c + 1]);
    store_pair(pixel + c * stride, stride, both, first, second);
  });
}

// The same with what follows. In loops, since the activations are long: registers have no index, so each thread's sums
// go through a column of `kept`, shared memory that nobody reads any more, first those of the upper half of its rows.
template <class T, class Shape>
__device__ __forceinline__ void write_finished(const GemmArguments& g, const BlockTile& block, const Sums<Shape>& sum,
                                               int row, int column, float2* kept) {
  constexpr int ROWS = Shape::MMA_M, PAIRS = Shape::MMA_N;  // of a half
  const GemmProblem& p = g.problem;
  const View& residual = p.ending.residual;
  const int lane = threadIdx.x % WARP, first_column = column + lane % 4 * 2;
  const int64_t first_channel = int64_t(block.group) * p.columns + first_column;
  const int64_t stride = p.result.stride[1], residual_stride = residual.stride[1];
  kept += threadIdx.x;
  CONVEXT_LOOP
  for (int i = 0; i < 2 * ROWS; ++i) {
    CONVEXT_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (i != half * ROWS) continue;
      CONVEXT_UNROLL
      for (int j = 0; j < ROWS * PAIRS; ++j) {
        const float (&pair)[4] = sum[(half * ROWS + j / PAIRS) / 2][j % PAIRS];
        kept[j * Shape::THREADS] = make_float2(pair[j / PAIRS % 2 * 2], pair[j / PAIRS % 2 * 2 + 1]);
      }
    }
    const int r = row + i * 8 + lane / 4;
    if (r >= p.pixels) continue;
    const Pixel pixel = result_pixel(g, r);
    T* to = find_channels<T>(p.result, pixel, first_channel);
    const T* from = find_channels<const T>(residual, pixel, first_channel);
    const T* bias = static_cast<const T*>(p.bias) + first_channel;
    CONVEXT_LOOP
    for (int n = 0; n < PAIRS; ++n) {
      const int left = p.columns - first_column - n * 8;
      if (left < 1) break;
      const float2 sums = kept[(i % ROWS * PAIRS + n) * Shape::THREADS];
      float pair[2] = {sums.x, sums.y};
      CONVEXT_UNROLL
      for (int j = 0; j < 2; ++j) {
        if (p.bias && j < left) pair[j] += to_float(bias[j]);
        pair[j] = activated(p.ending.epilogue, pair[j]);
        if (residual.data && j < left) pair[j] += to_float(from[j * residual_stride]);
      }
      store_pair(to, stride, left > 1, pair[0], pair[1]);
      to += 8 * stride, from += 8 * residual_stride, bias += 8;
    }
  }
}

template <class Shape>
__device__ __forceinline__ void write_partial(const GemmArguments& g, const BlockTile& block, const Sums<Shape>& sum,
                                              int row, int column) {
  const GemmProblem& p = g.problem;
  const int taps = p.axis[0].taps * p.axis[1].taps * p.axis[2].taps;
  const int tap = (block.tap[0] * p.axis[1].taps + block.tap[1]) * p.axis[2].taps + block.tap[2];
  const auto find = [&](int r) -> float* {
    const int64_t k = (int64_t(block.split) * p.groups + block.group) * p.rows + r;
    return r < p.rows ? p.partial + k * p.columns * taps + tap : nullptr;
  };
  for_each_pair<Shape>(sum, row, column, find, [&](float* weights, int c, float first, float second) {
    if (c < p.columns) weights[int64_t(c) * taps] = first;
    if (c + 1 < p.columns) weights[int64_t(c + 1) * taps] = second;
  });
}

template <class Reduction, class Shape>
__device__ __forceinline__ BlockTile find_block(const GemmArguments& g) {
  BlockTile block;
  unsigned index = blockIdx.x;
  block.first_column = g.by.column_tiles.take(index) * Shape::BN;
  block.first_row = g.by.row_tiles.take(index) * Shape::BM;
  unsigned tap = Reduction::PARTIAL ? g.by.taps.take(index) : 0;
  block.tap[2] = g.by.tap_width.take(tap);
  block.tap[1] = g.by.tap_height.take(tap);
  block.tap[0] = static_cast<int>(tap);
  block.group = static_cast<int>(index);
  block.split = static_cast<int>(blockIdx.y);
  return block;
}

template <class T, class Shape, class Reduction, class Factors, bool VECTORS>
__global__ void __launch_bounds__(Shape::THREADS) igemm_kernel(const GemmArguments g) {
  using TileA = OperandTile<T, Shape, Shape::BM, Reduction::A_REDUCTION_MINOR>;
  using TileB = OperandTile<T, Shape, Shape::BN, Reduction::B_REDUCTION_MINOR>;
  CONVEXT_DYNAMIC_SHARED(shared);
  T* a_tiles = reinterpret_cast<T*>(shared);               // [STAGES, tile of A]
  T* b_tiles = a_tiles + Shape::STAGES * TileA::ELEMENTS;  // [STAGES, tile of B]

  const BlockTile block = find_block<Reduction, Shape>(g);
  const int warp = threadIdx.x / WARP;
  const int row = warp % Shape::WARPS_M * Shape::WARP_M, column = warp / Shape::WARPS_M * Shape::WARP_N;
  const Loader<T, Shape, TileA, typename Reduction::A, VECTORS> a(g, block);
  const Loader<T, Shape, TileB, typename Reduction::B, VECTORS> b(g, block);
  const int steps = Reduction::steps(g.problem, block.split, Shape::BK);
  typename Reduction::Step ahead = Reduction::first(g.problem, block.split);

  // Every iteration commits a group of copies, an empty one at the end, so that the groups still in flight are known.
  const auto fill = [&](int step) {
    if (step < steps) {
      a.load(a_tiles + step % Shape::STAGES * TileA::ELEMENTS, ahead);
      b.load(b_tiles + step % Shape::STAGES * TileB::ELEMENTS, ahead);
      ahead.advance(g.problem, Shape::BK);
    }
    cp_async_commit();
  };
  Sums<Shape> sum = {};
  for (int step = 0; step < Shape::STAGES - 1; ++step) fill(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<Shape::STAGES - 2>();
    __syncthreads();  // this stage is filled, and all have read the one that is filled next
    fill(step + Shape::STAGES - 1);
    multiply<T, Shape, TileA, TileB, Factors>(sum, a_tiles + step % Shape::STAGES * TileA::ELEMENTS,
                                              b_tiles + step % Shape::STAGES * TileB::ELEMENTS, row, column);
  }
  if (Reduction::PARTIAL) {
    write_partial<Shape>(g, block, sum, block.first_row + row, block.first_column + column);
  } else if (!g.problem.ending.any) {
    write_result<T, Shape>(g, block, sum, block.first_row + row, block.first_column + column);
  } else {
    static_assert(Shape::MMA_M * Shape::MMA_N * Shape::THREADS * sizeof(float2) <=
                      sizeof(T) * Shape::STAGES * (TileA::ELEMENTS + TileB::ELEMENTS),
                  "half of the sums fit into the stages");
    __syncthreads();  // all have read the last stage
    write_finished<T, Shape>(g, block, sum, block.first_row + row, block.first_column + column,
                             reinterpret_cast<float2*>(shared));
  }
}

}  // namespace convext
