// A job is a block of pixels of a line, and a range of the product's columns. Where x has no gaps all pixels are one
// line, else each row of y is one.
#pragma once
#include "cpu/pointwise/pointwise.h"
#include "cpu/pointwise/product.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t POINTWISE_BYTES = 48 * 1024;  // of x, which each column reads again
constexpr int64_t POINTWISE_PIXELS = 24;        // and for fewer than these, v is read too often
constexpr int64_t POINTWISE_JOBS = 16;          // to be shared among threads

struct PointwiseBlocks {
  int64_t lines, count;       // of y, and pixels in one
  int64_t pitch;              // from pixel to pixel of x
  int64_t pixels, along;      // of a block, and blocks in a line
  int64_t columns, of_parts;  // of a job, and jobs of a block
};

inline bool pointwise_is_dense(const PointwiseCall& call) {
  const Problem& p = call.product.problem;
  int64_t step = p.c;
  for (int axis = AXES - 1; axis >= 0; --axis) {
    if (p.input[axis] > 1 && (call.product.a.stride[2 + axis] != step || p.stride[axis] > 1)) return false;
    step *= p.input[axis];
  }
  return p.n == 1 || call.product.a.stride[0] == step;
}

inline PointwiseBlocks pointwise_blocks_of(const PointwiseCall& call) {
  const Problem& p = call.product.problem;
  PointwiseBlocks b;
  b.lines = p.n * p.output[0] * p.output[1], b.count = p.output[2];
  b.pitch = call.product.a.stride[4] * p.stride[2];
  if (pointwise_is_dense(call)) b.count *= b.lines, b.lines = 1, b.pitch = p.c;
  b.along = over(b.count, most(POINTWISE_BYTES / (p.c * int64_t(sizeof(float))), POINTWISE_PIXELS));
  b.pixels = over(b.count, b.along);
  const int64_t columns = Product::columns(p.k);
  b.columns = over(columns, least(columns, over(POINTWISE_JOBS, b.lines * b.along)));
  b.of_parts = over(columns, b.columns);
  return b;
}

inline int64_t pointwise_jobs(const PointwiseCall& call) {
  const PointwiseBlocks b = pointwise_blocks_of(call);
  return b.lines * b.along * b.of_parts;
}

inline void pointwise_run(const PointwiseCall& call, int64_t first, int64_t last) {
  const Problem& p = call.product.problem;
  const View &x = call.product.a, &y = call.product.result;
  const PointwiseBlocks b = pointwise_blocks_of(call);
  const Product product(call.product, b.pitch, call.residual);
  for (int64_t job = first; job < last; ++job) {
    const int64_t column = job % b.of_parts * b.columns, block = job / b.of_parts;
    const int64_t pixel = block % b.along * b.pixels, line = block / b.along;
    const int64_t h = line % p.output[1], z = line / p.output[1] % p.output[0], n = line / p.output[1] / p.output[0];
    const float* const from = static_cast<const float*>(x.data) + n * x.stride[0] + z * p.stride[0] * x.stride[2] +
                              h * p.stride[1] * x.stride[3] + pixel * b.pitch;
    float* const to = static_cast<float*>(y.data) + (line * b.count + pixel) * p.k;
    product.run(from, to, least(b.pixels, b.count - pixel), column, least(column + b.columns, Product::columns(p.k)));
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
