// A block's tile of the product: its shape, its operands' tiles in shared memory, and the fragments that mma reads.
//
// An operand's tile has the order that its memory has: [row or column][reduction] where neighbouring memory runs along
// the reduction (REDUCTION_MINOR), else [reduction][row or column]. Rows are padded so that eight of them, read
// together, fall into different banks.
#pragma once
#include "shared/number.cuh"

namespace convext {

template <class T, int BM_, int BN_, int WARP_M_, int WARP_N_, int STAGES_>
struct GemmShape {
  static constexpr int BM = BM_, BN = BN_, WARP_M = WARP_M_, WARP_N = WARP_N_, STAGES = STAGES_;
  static constexpr int VECTOR = VECTOR_BYTES / sizeof(T);
  static constexpr int BK = 64 / sizeof(T);     // reduction of a stage: 64 bytes
  static constexpr int MMA_K = 32 / sizeof(T);  // reduction of one mma: 16 elements of 16 bits, or 8 of TF32
  static constexpr int WARPS_M = BM / WARP_M, WARPS_N = BN / WARP_N, THREADS = WARPS_M * WARPS_N * WARP;
  static constexpr int MMA_M = WARP_M / 16, MMA_N = WARP_N / 8;
  static_assert(BM % WARP_M == 0 && BN % WARP_N == 0 && WARP_M % 16 == 0 && WARP_N % 16 == 0, "whole mma tiles");
  static_assert(BK % MMA_K == 0 && STAGES >= 2, "a stage is whole mma steps, and one is filled while one is read");
};

template <class T, class Shape, int EXTENT_, bool REDUCTION_MINOR_>
struct OperandTile {
  static constexpr bool REDUCTION_MINOR = REDUCTION_MINOR_;
  static constexpr int MAJORS = REDUCTION_MINOR ? EXTENT_ : Shape::BK, MINORS = REDUCTION_MINOR ? Shape::BK : EXTENT_;
  static constexpr int PAD = (REDUCTION_MINOR || sizeof(T) == 2 ? 16 : 32) / int(sizeof(T)), PITCH = MINORS + PAD;
  static constexpr int ELEMENTS = MAJORS * PITCH;
  static constexpr int CHUNKS_OF_A_MAJOR = MINORS / Shape::VECTOR, CHUNKS = MAJORS * CHUNKS_OF_A_MAJOR;
  static constexpr int CHUNKS_OF_A_THREAD = CHUNKS / Shape::THREADS;
  static_assert(CHUNKS % Shape::THREADS == 0, "every thread copies equally many 16-byte chunks");
  static_assert(PITCH * int(sizeof(T)) % VECTOR_BYTES == 0, "rows begin at multiples of 16 bytes");
};

// Fragments of 16-bit elements: ldmatrix, transposed where the reduction is the tile's major index. Lane l addresses
// row l % 8 of 8 x 8 matrix l / 8; the matrices lie as mma m16n8k16 wants its registers: first along rows, then along
// the reduction for A, and the other way round for two neighbouring column blocks of B.
template <class Tile, class T>
__device__ __forceinline__ void load_a(unsigned (&a)[4], const T* tile, int row, int k) {
  const int lane = threadIdx.x % WARP, matrix = lane / 8;
  row += matrix % 2 * 8, k += matrix / 2 * 8;
  if (Tile::REDUCTION_MINOR)
    ldmatrix_x4(a, tile + (row + lane % 8) * Tile::PITCH + k);
  else
    ldmatrix_x4_trans(a, tile + (k + lane % 8) * Tile::PITCH + row);
}

template <class Tile, class T>
__device__ __forceinline__ void load_b(unsigned (&b)[2][2], const T* tile, int column, int k) {
  const int lane = threadIdx.x % WARP, matrix = lane / 8;
  column += matrix / 2 * 8, k += matrix % 2 * 8;
  unsigned r[4];
  if (Tile::REDUCTION_MINOR)
    ldmatrix_x4(r, tile + (column + lane % 8) * Tile::PITCH + k);
  else
    ldmatrix_x4_trans(r, tile + (k + lane % 8) * Tile::PITCH + column);
  CONVEXT_UNROLL
  for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = r[i];
}

// Fragments of float32, as bits: mma m16n8k8 has elements (lane / 4, lane % 4) of each 8 x 4 block.
template <class Tile>
__device__ __forceinline__ unsigned element_bits(const float* tile, int index, int k) {
  return __float_as_uint(tile[Tile::REDUCTION_MINOR ? index * Tile::PITCH + k : k * Tile::PITCH + index]);
}

template <class Tile>
__device__ __forceinline__ void load_a(unsigned (&a)[4], const float* tile, int row, int k) {
  const int lane = threadIdx.x % WARP;
  CONVEXT_UNROLL
  for (int i = 0; i < 4; ++i) a[i] = element_bits<Tile>(tile, row + lane / 4 + i % 2 * 8, k + lane % 4 + i / 2 * 4);
}

template <class Tile>
__device__ __forceinline__ void load_b(unsigned (&b)[2][2], const float* tile, int column, int k) {
  const int lane = threadIdx.x % WARP;
  CONVEXT_UNROLL
  for (int i = 0; i < 4; ++i)
    b[i / 2][i % 2] = element_bits<Tile>(tile, column + lane / 4 + i / 2 * 8, k + lane % 4 + i % 2 * 4);
}

// How the factors of one mma are formed: each is split into PARTS, and TERMS products of parts are added, small ones
// first.
struct Exact {  // 16-bit elements
  static constexpr int PARTS = 1, TERMS = 1;
  template <int N>
  __device__ static void split(const unsigned (&bits)[N], unsigned (&part)[PARTS][N]) {
    CONVEXT_UNROLL
    for (int i = 0; i < N; ++i) part[0][i] = bits[i];
  }
  __device__ static constexpr int a(int) { return 0; }
  __device__ static constexpr int b(int) { return 0; }
};

struct Tf32 {  // 11-bit mantissas
  static constexpr int PARTS = 1, TERMS = 1;
  template <int N>
  __device__ static void split(const unsigned (&bits)[N], unsigned (&part)[PARTS][N]) {
    CONVEXT_UNROLL
    for (int i = 0; i < N; ++i) part[0][i] = to_tf32(__uint_as_float(bits[i]));
  }
  __device__ static constexpr int a(int) { return 0; }
  __device__ static constexpr int b(int) { return 0; }
};

// Nearly float32: each factor is a TF32 number and what remains of it; the product of the two remainders is left out.
struct Tf32x3 {
  static constexpr int PARTS = 2, TERMS = 3;
  template <int N>
  __device__ static void split(const unsigned (&bits)[N], unsigned (&part)[PARTS][N]) {
    CONVEXT_UNROLL
    for (int i = 0; i < N; ++i) {
      const float value = __uint_as_float(bits[i]);
      part[0][i] = to_tf32(value);
      part[1][i] = isinf(value) ? 0 : to_tf32(value - __uint_as_float(part[0][i]));
    }
  }
  __device__ static constexpr int a(int term) { return term == 0; }
  __device__ static constexpr int b(int term) { return term == 1; }
};

}  // namespace convext
