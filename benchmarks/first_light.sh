#!/usr/bin/env bash
# The first run on a GPU: builds, checks, benchmarks, tunes and tests, and leaves everything in one folder, within nine
# minutes. The most valuable results come first, and a step that fails or runs out of time does not stop the rest.
#
#     OUT=folder PYTHON=python3 bash benchmarks/first_light.sh        (default: out/first_light, python3)
#
# It needs torch and pytest-xdist in that interpreter, and downloads nothing. steps.txt has the exit status of each step,
# log.txt what they printed.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-out/first_light}
PYTHON=${PYTHON:-python3}
export ONEDNN_MAX_CPU_ISA=${ONEDNN_MAX_CPU_ISA:-AVX512_CORE_FP16} # without a GPU: see "SIGILL" in docs/design.md
END=530 # seconds from the start
STATUS=0
mkdir -p "$OUT"
: >"$OUT/steps.txt"
: >"$OUT/log.txt"

step() { # name, seconds at most, command...
  local name=$1 limit=$2 code=0 begin=$SECONDS
  shift 2
  ((limit < END - SECONDS)) || limit=$((END - SECONDS))
  echo "=== $name" >>"$OUT/log.txt"
  if ((limit > 0)); then
    timeout --signal=INT --kill-after=5 "$limit" "$@" >>"$OUT/log.txt" 2>&1 || code=$?
  else
    code="not begun: the time was over"
  fi
  [[ $code == 0 ]] || STATUS=1
  echo "$name: exit $code after $((SECONDS - begin)) s" | tee -a "$OUT/steps.txt"
}

"$PYTHON" -c 'import convext.benchmarks' 2>/dev/null ||
  step install 200 "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation --editable .
[[ -e convext/_C.abi3.so ]] || step build 200 "$PYTHON" setup.py build_ext --inplace
step info 20 "$PYTHON" -m convext info
step check 50 "$PYTHON" -m convext check
step bench 250 "$PYTHON" -m convext bench --warm 8 --minutes 2.4 --out "$OUT"
step tune 20 "$PYTHON" -m convext tune --results "$OUT"/*.jsonl --out "$OUT/choices.json"
step overhead 40 "$PYTHON" -m convext bench --overhead
# tests/native are not among them: they run the CUDA kernels' host build, which takes minutes and tells nothing of a GPU.
step tests 500 "$PYTHON" -m pytest -q -n 8 --maxfail=30 tests/triton_kernels tests/ops
exit "$STATUS"
