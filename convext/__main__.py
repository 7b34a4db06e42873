"""`python -m convext info | explain | check | bench | tune | show`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NoReturn

import convext
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


class _Parser(argparse.ArgumentParser):
    """Names a mistake in one line, where argparse prints every option first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 2 for what the user cannot have meant, in one line."""
    argv = sys.argv[1:] if argv is None else argv
    plugins.load()
    parser = _Parser(prog="convext", description=__doc__)
    parser.add_argument("--version", action="version", version=f"convext {convext.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, help) in _COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help)
        if argv[:1] == [name]:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(main=implementation.main, refuse=command.error)
    args = parser.parse_args(argv)
    try:
        return int(args.main(args))
    except BrokenPipeError:  # `| head` has read enough; nothing is left to say at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell names the end by SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
