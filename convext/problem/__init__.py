"""What a convolution is, and nothing of what computes it: the floor that everything stands on.

Here are one face of one convolution (`ConvProblem`), memory layouts, sizes that a compiler has not decided yet, the
float64 definition, and the least time that a machine can take. No settings, no kernels, no operators.
"""

from convext.problem.conv_problem import FACE_OPENING as FACE_OPENING
from convext.problem.conv_problem import FACES as FACES
from convext.problem.conv_problem import OPEN as OPEN
from convext.problem.conv_problem import OPERANDS as OPERANDS
from convext.problem.conv_problem import PRECISIONS as PRECISIONS
from convext.problem.conv_problem import ConvProblem as ConvProblem
from convext.problem.conv_problem import Face as Face
from convext.problem.conv_problem import Ints as Ints
from convext.problem.conv_problem import check_geometry as check_geometry
from convext.problem.conv_problem import open_shape as open_shape
from convext.problem.conv_problem import output_size as output_size
from convext.problem.conv_problem import transposed_size as transposed_size
