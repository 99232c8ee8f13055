#!/usr/bin/env bash
# Usage: launch/debug_gpu.sh [--FLAG VALUE]... [KEY=VALUE]...
#
# Does r2d work on the GPU of this machine? Looks for it, installs r2d with JAX for CUDA, runs configs/debug_gpu.yaml
# (few steps of the T5-small shape on synthetic notes, nothing to download but packages), and says what it found.
#
#   KEY=VALUE   settings of r2d, for example stage1.batch_size=8
#
# Each value is a flag or a variable of the same name (--workdir or WORKDIR); a flag wins:
#
#   PYTHON      Python to use, 3.11 or newer (default: the first found of python3.13, 3.12, 3.11 and python3)
#   VENV        virtual environment (default: .venv-gpu). Not the one of tests/run.sh: torch beside JAX for CUDA can
#               change cuDNN under it
#   WORKDIR     folder of the run (default: runs/debug_gpu)
#   GPU         number of the one GPU to use, as nvidia-smi counts (0)
#   DRY_RUN     --dry-run: prints the commands, runs nothing
#
# Layers of restart: r2d alone. The same command goes on where a run stopped; a finished run says so.
#
# Exit codes: 0 it works; 2 no GPU, an old driver or another mistake to mend; else that of r2d.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # read by cloud.sh
script=$here/debug_gpu.sh
program=launch/debug_gpu.sh
cd "$here/.."
# shellcheck source=launch/cloud.sh
. launch/cloud.sh
# shellcheck source=launch/environment.sh
. launch/environment.sh

# The oldest driver of CUDA 12, which the extra cuda installs (jax[cuda12] in setup.cfg).
least_driver=525
# What configs/debug_gpu.yaml is meant for.
least_memory_mib=7500

look_for_gpu() {
  local answer name memory driver
  if [ -n "$DRY_RUN" ]; then
    quoted nvidia-smi --id "$GPU" --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits
    return 0
  fi
  if ! command -v nvidia-smi >/dev/null 2>&1; then
    fail "no NVIDIA GPU here: nvidia-smi is not installed. Use a machine with a GPU and its driver, or try configs/debug_cpu.yaml on this one"
  fi
  if ! answer=$(nvidia-smi --id "$GPU" --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits 2>&1); then
    fail "nvidia-smi finds no GPU number $GPU: $(printf '%s' "$answer" | tr '\n' ' '). Look at nvidia-smi; mend the driver, or give --gpu"
  fi
  name=${answer%%, *}
  driver=${answer##*, }
  memory=${answer%, *}
  memory=${memory##*, }
  say "GPU $GPU: $name, $memory MiB, driver $driver"
  if [ "${driver%%.*}" -lt "$least_driver" ]; then
    fail "the driver $driver is too old for CUDA 12. Install $least_driver or newer"
  fi
  if [ "$memory" -lt "$least_memory_mib" ]; then
    say "note: the config is meant for 8 GB. If memory runs out: $program stage1.batch_size=8 stage2.batch_size=8"
  fi
}

read_flags "PYTHON VENV WORKDIR GPU" "" "$@"
: "${VENV:=.venv-gpu}" "${WORKDIR:=runs/debug_gpu}" "${GPU:=0}"
need_number GPU
need_overrides ${rest[@]+"${rest[@]}"}
look_for_gpu
if [ -n "$DRY_RUN" ]; then
  environment_command "$VENV" requirements.txt cuda
else
  make_environment "$VENV" requirements.txt cuda
fi
# XLA_PYTHON_CLIENT_PREALLOCATE=false: else JAX takes 3/4 of the memory at once, and a card that also draws the
# screen has less. CUDA_VISIBLE_DEVICES: the config is for one GPU.
command=(env "CUDA_VISIBLE_DEVICES=$GPU" XLA_PYTHON_CLIENT_PREALLOCATE=false
  "$VENV/bin/r2d" run --config configs/debug_gpu.yaml --workdir "$WORKDIR" ${rest[@]+"${rest[@]}"})
if [ -n "$DRY_RUN" ]; then
  quoted "${command[@]}"
  exit 0
fi
status=0
"${command[@]}" || status=$?
case $status in
  0) say "r2d works on this GPU; its speed is in $WORKDIR/stage2/metrics.jsonl (perf/examples_per_sec)" ;;
  75) say "stopped and saved; the same command goes on" ;;
  *) say "r2d ended with exit code $status; its last line says why. JAX's own view of the GPU: $VENV/bin/python -c 'import jax; print(jax.devices())'" ;;
esac
exit "$status"
