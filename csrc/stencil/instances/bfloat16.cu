// The stencils for bfloat16. One file a dtype: they compile side by side.
#include "stencil/launch.cuh"

namespace convext {

template void stencil<bfloat16>(const Problem&, const View&, const View&, const void*, const Ending&, const View&,
                                Stream);
template void stencil_wgrad<bfloat16>(const Problem&, const View&, const View&, const Allocate&, const View&, Stream);

}  // namespace convext
