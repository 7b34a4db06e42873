"""A plugin with which the library of the kernels for CPUs is the one that CONVEXT_CPU_LIBRARY names."""

import os
from pathlib import Path

from convext.providers.cpu import library

library.LIBRARY = Path(os.environ["CONVEXT_CPU_LIBRARY"])
