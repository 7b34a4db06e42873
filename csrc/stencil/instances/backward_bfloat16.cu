// The stencils' fused backward for bfloat16. One file a dtype: they compile side by side.
#include "stencil/backward_launch.cuh"

namespace convext {

template bool stencil_backward<bfloat16>(const Problem&, const View&, const View&, const View&, const Allocate&,
                                         const View&, const View&, Stream);

}  // namespace convext
