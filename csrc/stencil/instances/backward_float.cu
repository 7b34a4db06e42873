// The stencils' fused backward for float. One file a dtype: they compile side by side.
#include "stencil/backward_launch.cuh"

namespace convext {

template bool stencil_backward<float>(const Problem&, const View&, const View&, const View&, const Allocate&,
                                      const View&, const View&, Stream);

}  // namespace convext
