#!/usr/bin/env bash
# The first run on a GPU, within ten minutes: builds, checks, compiles, measures, tunes and tests, and leaves everything
# in one folder. The most valuable results come first; a step that fails, hangs or runs out of time does not stop the rest.
#
#     OUT=folder PYTHON=python3 bash benchmarks/first_light.sh [STEP...]        (default: out/first_light, python3, all)
#
#     STEP         limit  predicted on 16 cores, and from what
#     probe         30 s     6 s  what the other steps need, with a sentence for each thing that is missing
#     build        150 s    45 s  13 files for one architecture, 136 s of processor time; the longest of them decides
#     check_cuda    60 s    15 s  nothing to compile
#     compile      200 s    80 s  1,322 kernels and launchers, at what 1,455 took: 1,100 s of processor time (Triton 3.6)
#     check         90 s    30 s  eight kernels, four processes at a time
#     bench     the rest   290 s  460 cases, forwards first, at about a second each: some 250; the others are listed
#     tune          20 s     5 s
#     overhead      40 s    25 s
#     tests     the rest    75 s  1,414 more compilations would take 95 s: cut off, every failure printed as it happens
#
# Nothing is downloaded or installed: the package runs from its folders (linked.sh). steps.txt has the exit status of each
# step, log.txt what they printed. TIME (570 s) is how long it may take, PATIENCE (20 s) how long one call may, MINUTES for
# how long the benchmark begins cases (default: what is left).
set -uo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
OUT=$(realpath -m "${OUT:-out/first_light}")
PYTHON=${PYTHON:-python3}
[[ $PYTHON != */* ]] || PYTHON=$(realpath -s "$PYTHON")
TIME=${TIME:-570}
PATIENCE=${PATIENCE:-20}
STEPS=("$@")
STATUS=0
export ONEDNN_MAX_CPU_ISA=${ONEDNN_MAX_CPU_ISA:-AVX512_CORE_FP16} # without a GPU: see "SIGILL" in docs/design.md
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"
: >"$OUT/steps.txt"
: >"$OUT/log.txt"

wanted() { # whether a step was asked for
  [[ ${#STEPS[@]} == 0 || " ${STEPS[*]} " == *" $1 "* ]]
}

step() { # name, seconds at most, command...
  local name=$1 limit=$2 code=0 begin=$SECONDS
  shift 2
  wanted "$name" || return 0
  ((limit < TIME - SECONDS)) || limit=$((TIME - SECONDS))
  echo "=== $name" >>"$OUT/log.txt"
  if ((limit > 0)); then
    timeout --signal=INT --kill-after=5 "$limit" bash "$ROOT/benchmarks/linked.sh" "$@" >>"$OUT/log.txt" 2>&1 || code=$?
  else
    code="none: the time was over"
  fi
  [[ $code == 0 ]] || STATUS=1
  echo "$name: exit $code after $((SECONDS - begin)) s" | tee -a "$OUT/steps.txt"
}

build() { # without pyproject.toml, whose license line setuptools older than 77 refuses
  rm -rf "$ROOT/build/bare"
  mkdir -p "$ROOT/build/bare"
  ln -s "$ROOT/setup.py" "$ROOT/csrc" "$ROOT/convext" "$ROOT/build/bare"
  step build 150 bash -c "cd '$ROOT/build/bare' && '$PYTHON' setup.py build_ext --inplace --build-temp '$ROOT/build/cuda'"
}

tail_seconds() { # what the steps behind the benchmark are to have
  local sum=0
  wanted tune && ((sum += 10))
  wanted overhead && ((sum += 35))
  wanted tests && ((sum += 60))
  echo "$sum"
}

CONVEXT_ARCHS=$("$PYTHON" -c '
import torch
if torch.cuda.is_available():
    major, minor = torch.cuda.get_device_capability()
    print(f"{major}{minor}" + "a" * (major == 9))  # WGMMA is in 9.0a alone
' 2>/dev/null)
export CONVEXT_ARCHS

step probe 30 "$PYTHON" -m benchmarks.first_light.probe
[[ -z $CONVEXT_ARCHS || -e convext/_C.abi3.so ]] || build
step check_cuda 60 "$PYTHON" -m convext check --backend cuda --patience "$PATIENCE"
step compile 200 "$PYTHON" -m convext.benchmarks.first_light.warm --minutes 3
step check 90 "$PYTHON" -m convext check --patience "$PATIENCE"
# The benchmark begins no case in its last 30 s, which are for the last case, tables and pictures.
LEFT=$((TIME - SECONDS - $(tail_seconds)))
MINUTES=${MINUTES:-$(awk "BEGIN { print ($LEFT - 30) / 60 }")}
step bench "$LEFT" "$PYTHON" -m convext bench --minutes "$MINUTES" --patience "$PATIENCE" --out "$OUT"
step tune 20 "$PYTHON" -m convext tune --results "$OUT"/*.jsonl --out "$OUT/choices.json"
step overhead 40 "$PYTHON" -m convext bench --overhead
# tests/cuda are not among them: they run the CUDA kernels' host build, which takes minutes and tells nothing of a GPU.
step tests 500 "$PYTHON" -m pytest -q -n "$(($(nproc) < 12 ? $(nproc) : 12))" -c "$ROOT/pyproject.toml" --rootdir "$ROOT" \
  -p convext.benchmarks.first_light.pytest_survival "$ROOT/tests/triton_kernels" "$ROOT/tests/operators"
exit "$STATUS"
