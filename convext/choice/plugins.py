"""Kernels from outside the package: CONVEXT_KERNELS names modules that call `convext.register`.

    CONVEXT_KERNELS=mine PYTHONPATH=folder python -m convext check --backend mine

Every command and every process that it starts imports them, so that a record of one's own is explained, checked,
timed and compared as those of the package are.
"""

from __future__ import annotations

import importlib
import os


def load() -> None:
    """Imports the modules, in their order; one that was imported before is not imported again."""
    for name in os.environ.get("CONVEXT_KERNELS", "").replace(",", " ").split():
        importlib.import_module(name)
