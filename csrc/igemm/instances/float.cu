// The implicit GEMM for float32, in TF32 or three times TF32.
#include "igemm/launch.cuh"

namespace convext {

template <>
void igemm<float>(const Problem& p, const View& a, const View& b, const void* bias, const Ending& ending,
                  float* partial, const View& result, Precision precision, Stream stream) {
  if (precision == Precision::tf32)
    igemm_with<float, Tf32>(p, a, b, bias, ending, partial, result, stream);
  else
    igemm_with<float, Tf32x3>(p, a, b, bias, ending, partial, result, stream);
}

}  // namespace convext
