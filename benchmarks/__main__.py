"""`python -m convext.benchmarks` is `python -m convext bench`."""

import sys

from convext.__main__ import main

sys.exit(main(["bench", *sys.argv[1:]]))
