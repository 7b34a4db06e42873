// A block copies a tile through shared memory, in vectors of 16 bytes where rows, or columns, are whole ones:
//
//     source                 tile                        result
//     rows of 64 columns ->  its columns, one by one ->  rows that were columns
//
// A copy by strides has neighbours in memory on one side alone: on the other each element takes a sector of 32 bytes.
// Where matrices are narrower than a tile, as weights of nine taps are, it holds several.
#include <algorithm>

#include "passes/transpose.h"
#include "shared/number.cuh"

namespace convext {

constexpr int TRANSPOSE_THREADS = 256, TRANSPOSE_BLOCKS = 4;  // of a multiprocessor, which bounds registers
constexpr int TILE_BITS = 12, SIDE_BITS = 6;                  // 4096 elements, of at most 64 rows and 64 columns

struct TransposeArguments {
  const void* source;
  void* result;
  int64_t batches;
  int rows, columns;
  int row_bits, column_bits;  // a tile has 2^row_bits rows, 2^column_bits columns, and as many batches as fill it
  Divisor row_tiles, column_tiles;
};

// Where a tile holds an element: matrix by matrix, column by column, in vectors of rows. Columns permute their vectors,
// so that neither reading nor writing a column's, nor a row's, elements meets the same banks over and over.
template <int VECTOR>
__device__ __forceinline__ int place(const TransposeArguments& g, int batch, int row, int column) {
  const int vectors = max(1, (1 << g.row_bits) / VECTOR);
  const int vector = row / VECTOR ^ ((column ^ column / VECTOR) & (vectors - 1));
  return (((batch << g.column_bits) + column) << g.row_bits) + vector * VECTOR + row % VECTOR;
}

// `Element` has the size of what is copied; READ and WRITTEN: elements of an access to the source and to the result.
template <class Element, int READ, int WRITTEN>
__global__ void __launch_bounds__(TRANSPOSE_THREADS, TRANSPOSE_BLOCKS) transpose_kernel(const TransposeArguments g) {
  using Read = typename Register<READ * sizeof(Element)>::Type;
  using Written = typename Register<WRITTEN * sizeof(Element)>::Type;
  constexpr int VECTOR = VECTOR_BYTES / sizeof(Element), TILE = 1 << TILE_BITS;
  constexpr int READS = TILE / (TRANSPOSE_THREADS * READ), WRITES = TILE / (TRANSPOSE_THREADS * WRITTEN);
  __shared__ __align__(16) Element tile[TILE];

  const int last_row = (1 << g.row_bits) - 1, last_column = (1 << g.column_bits) - 1;
  unsigned index = blockIdx.x;
  const int first_column = g.column_tiles.take(index) << g.column_bits;
  const int first_row = g.row_tiles.take(index) << g.row_bits;
  const int64_t first_batch = int64_t(index) << (TILE_BITS - g.row_bits - g.column_bits);
  const int rows = g.rows - first_row, columns = g.columns - first_column;  // from the tile's first on
  const int batches = static_cast<int>(min(g.batches - first_batch, int64_t(TILE)));
  const Element* source =
      static_cast<const Element*>(g.source) + (first_batch * g.rows + first_row) * g.columns + first_column;
  Element* result = static_cast<Element*>(g.result) + (first_batch * g.columns + first_column) * g.rows + first_row;

  // In each round the threads take whole lines of the tile, so a thread stays in its column. All of its reads are on
  // their way before the first is used.
  const int column = threadIdx.x * READ & last_column;
  const auto row_line = [&](int i) {
    return (i * TRANSPOSE_THREADS + static_cast<int>(threadIdx.x)) * READ >> g.column_bits;
  };
  Read read[READS] = {};
  CONVEXT_UNROLL
  for (int i = 0; i < READS; ++i) {
    const int row = row_line(i) & last_row, batch = row_line(i) >> g.row_bits;
    if (batch < batches && row < rows && column < columns)
      read[i] = *reinterpret_cast<const Read*>(source + (int64_t(batch) * g.rows + row) * g.columns + column);
  }
  CONVEXT_UNROLL
  for (int i = 0; i < READS; ++i) {
    const int row = row_line(i) & last_row, batch = row_line(i) >> g.row_bits;
    Element element[READ];
    memcpy(element, &read[i], sizeof read[i]);
    CONVEXT_UNROLL
    for (int e = 0; e < READ; ++e) tile[place<VECTOR>(g, batch, row, column + e)] = element[e];
  }
  __syncthreads();
  const int row = threadIdx.x * WRITTEN & last_row;
  if (row >= rows) return;
  for (int i = 0; i < WRITES; ++i) {
    const int line = (i * TRANSPOSE_THREADS + static_cast<int>(threadIdx.x)) * WRITTEN >> g.row_bits;
    const int written = line & last_column, batch = line >> g.column_bits;
    if (batch < batches && written < columns)
      __stwb(reinterpret_cast<Written*>(result + (int64_t(batch) * g.columns + written) * g.rows + row),
             *reinterpret_cast<const Written*>(tile + place<VECTOR>(g, batch, row, written)));
  }
}

// The least `bits` with 2^bits >= size, but no more than a side has.
static int bits_of(int64_t size) {
  int bits = 0;
  while (bits < SIDE_BITS && (int64_t(1) << bits) < size) ++bits;
  return bits;
}

template <class Element>
static void launch_transpose(const Matrices& m, const void* source, void* result, Stream stream) {
  constexpr int VECTOR = VECTOR_BYTES / sizeof(Element), LIMIT = (1 << 30);
  check(m.rows <= LIMIT && m.columns <= LIMIT, "transpose: expected at most 1073741824 rows and columns, but got ",
        m.rows, " and ", m.columns);
  TransposeArguments g{source, result, m.batches, int(m.rows), int(m.columns), bits_of(m.rows), bits_of(m.columns),
                       {},     {}};
  const int batch_bits = TILE_BITS - g.row_bits - g.column_bits;
  const int64_t row_tiles = ((m.rows - 1) >> g.row_bits) + 1, column_tiles = ((m.columns - 1) >> g.column_bits) + 1;
  const int64_t blocks = row_tiles * column_tiles * (((m.batches - 1) >> batch_bits) + 1);
  g.row_tiles = Divisor(unsigned(row_tiles)), g.column_tiles = Divisor(unsigned(column_tiles));
  const auto whole = [](int64_t size, const void* data) {
    return size % VECTOR == 0 && reinterpret_cast<uintptr_t>(data) % VECTOR_BYTES == 0;
  };
  const bool read = whole(m.columns, source), written = whole(m.rows, result);
  const auto kernel = read ? written ? transpose_kernel<Element, VECTOR, VECTOR> : transpose_kernel<Element, VECTOR, 1>
                      : written ? transpose_kernel<Element, 1, VECTOR>
                                : transpose_kernel<Element, 1, 1>;
  check_launch(launch(kernel, grid_of(blocks, 1, "transpose"), TRANSPOSE_THREADS, 0, stream, g), "transpose");
}

void transpose(const Matrices& matrices, const void* source, void* result, Stream stream) {
  if (matrices.item_bytes == 2)
    launch_transpose<unsigned short>(matrices, source, result, stream);
  else
    launch_transpose<unsigned>(matrices, source, result, stream);
}

}  // namespace convext
