// A job is a block of pixels of one image: whole rows, or a part of a long one. Their t, of all channels, never leaves
// the caches:
//
//     x ─read─> depthwise, first ─> t, in scratch ─> product with v, second, + residual ─write─> y
#pragma once
#include "cpu/faces/innermost.h"
#include "cpu/pointwise/multiply.h"
#include "cpu/separable/separable.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t BLOCK_BYTES = 48 * 1024;  // of t. More of a large image is not faster,
constexpr int64_t BLOCK_PIXELS = 24;        // and for fewer than these, v is read too often

struct SeparableBlocks {
  int64_t rows, columns;  // of one; several rows where they are whole
  int64_t down, across;   // their number in an image: depth and height are one axis
  int64_t pitch;          // from pixel to pixel in scratch: not a power of two, whose pixels would share cache lines
};

inline SeparableBlocks separable_blocks_of(const Problem& p) {
  const int64_t width = p.output[2], height = p.output[0] * p.output[1];
  SeparableBlocks b;
  b.pitch = up(p.c, Lanes<float>::count) + 16;
  const int64_t pixels = most(BLOCK_BYTES / (b.pitch * int64_t(sizeof(float))), BLOCK_PIXELS);
  b.across = over(width, pixels);
  b.columns = over(width, b.across);
  b.down = over(height, b.across > 1 ? 1 : most(pixels / width, 1));
  b.rows = over(height, b.down);
  return b;
}

inline Work separable_work(const SeparableCall& call) {
  const Problem& p = call.depthwise.problem;
  const SeparableBlocks b = separable_blocks_of(p);
  return {p.n * b.down * b.across, b.rows * b.columns * b.pitch * int64_t(sizeof(float)),
          innermost_work<float>(p, call.depthwise.b).prepared_bytes};
}

inline void separable_run(const SeparableCall& call, int64_t first, int64_t last, void* scratch) {
  const Problem& p = call.depthwise.problem;
  const View& y = call.pointwise.result;
  const SeparableBlocks b = separable_blocks_of(p);
  float* const t = static_cast<float*>(scratch);
  Call depthwise = call.depthwise;
  depthwise.result.stride[4] = b.pitch;
  InnermostJob<float> thread(depthwise);
  for (int64_t job = first; job < last; ++job) {
    const int64_t n = job / b.across / b.down, row = job / b.across % b.down * b.rows, c = job % b.across * b.columns;
    const int64_t rows = least(b.rows, p.output[0] * p.output[1] - row), columns = least(b.columns, p.output[2] - c);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t z = (row + i) / p.output[1], h = (row + i) % p.output[1];
      thread.part(n, z, h, 0, c, c + columns, t + (i * columns - c) * b.pitch);
    }
    float* const image = static_cast<float*>(y.data) + n * y.stride[0];
    multiply(call.pointwise, t, b.pitch, image + (row * p.output[2] + c) * y.stride[4], rows * columns);
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
