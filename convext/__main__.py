"""`python -m convext info | explain | check | bench | tune | show`."""

from __future__ import annotations

import argparse
import importlib
import sys

from convext.choice import plugins

# Each command's module exports add_arguments(parser) and main(args) -> exit status, and is imported when it is called.
_COMMANDS = {
    "info": ("convext.commands.info", "versions, GPU, what is built, what is missing and how to get it"),
    "explain": ("convext.commands.explain", "which kernel computes a convolution, and why"),
    "check": ("convext.commands.check", "every kernel that this machine runs, against float64"),
    "bench": ("convext.benchmarks.cli", "time the layers of fifty real networks against torch"),
    "tune": ("convext.benchmarks.tuning.gpu", "measure the kernels on this GPU and write the table that auto reads"),
    "show": ("convext.commands.show", "draw a convolution"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m convext", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, help) in _COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help)
        if argv[:1] == [name]:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(main=implementation.main)
    args = parser.parse_args(argv)
    plugins.load()
    return int(args.main(args))


if __name__ == "__main__":
    sys.exit(main())
