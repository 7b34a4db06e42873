// The stencils' fused backward for half. One file a dtype: they compile side by side.
#include "stencil/backward_launch.cuh"

namespace convext {

template bool stencil_backward<half>(const Problem&, const View&, const View&, const View&, const Allocate&,
                                     const View&, const View&, Stream);

}  // namespace convext
