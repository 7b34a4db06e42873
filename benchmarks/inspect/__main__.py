"""`python -m convext.benchmarks.inspect` is `python -m convext.benchmarks.inspect.specimens`."""

import sys

from convext.benchmarks.inspect.specimens import main

if __name__ == "__main__":
    sys.exit(main())
