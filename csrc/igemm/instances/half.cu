// The implicit GEMM for half. One file a dtype: they compile side by side.
#include "igemm/launch.cuh"

namespace convext {

template <>
void igemm<half>(const Problem& p, const View& a, const View& b, const void* bias, const Ending& ending, float* partial,
                 const View& result, Precision, Stream stream) {
  igemm_with<half, Exact>(p, a, b, bias, ending, partial, result, stream);
}

}  // namespace convext
