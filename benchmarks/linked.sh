#!/usr/bin/env bash
# Runs a command with the package as it is when installed, and installs nothing: links in build/linked/convext put
# benchmarks and triton_kernels inside convext. Paths in the command have to be absolute.
#
#     bash benchmarks/linked.sh python3 -m convext check
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/linked/convext
ln -sfn "$PWD"/convext/* "$PWD/benchmarks" "$PWD/triton_kernels" build/linked/convext
ln -sfn "$PWD/benchmarks" build/linked # for benchmarks.first_light.probe, which runs without torch
cd build/linked # where "python -m convext" looks first
exec "$@"
