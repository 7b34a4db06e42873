// Copies between the two memory formats: a batch of matrices, each transposed.
//
//     source [batches, rows, columns]      images   N x C x pixels      weights  K x C / groups x taps
//     result [batches, columns, rows]
#pragma once
#include "shared/launch.h"

namespace convext {

struct Matrices {
  int64_t batches, rows, columns;
  int item_bytes;  // of an element: 2 or 4

  int64_t bytes() const { return batches * rows * columns * item_bytes; }
  Matrices transposed() const { return {batches, columns, rows, item_bytes}; }
};

// Writes each matrix of `source` transposed to `result`, which overlaps nowhere with it.
void transpose(const Matrices& matrices, const void* source, void* result, Stream stream);

}  // namespace convext
