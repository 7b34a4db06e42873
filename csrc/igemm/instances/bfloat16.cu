// The implicit GEMM for bfloat16. One file a dtype: they compile side by side.
#include "igemm/launch.cuh"

namespace convext {

template <>
void igemm<bfloat16>(const Problem& p, const View& a, const View& b, const void* bias, const Ending& ending,
                     float* partial, const View& result, Precision, Stream stream) {
  igemm_with<bfloat16, Exact>(p, a, b, bias, ending, partial, result, stream);
}

}  // namespace convext
