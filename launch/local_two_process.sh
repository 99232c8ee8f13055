#!/usr/bin/env bash
# Usage: launch/local_two_process.sh [--FLAG VALUE]... [R2D ARGUMENT]...
#
# Two processes of r2d on this machine as one run: what a cluster does, to try before paying for one.
#
#   R2D ARGUMENT  what both processes do, for example run --config configs/quickstart.yaml --workdir runs/two.
#                 Put -- before it (default: run --config configs/debug_cpu.yaml --workdir runs/two_processes)
#
# Each value is a flag or a variable of the same name (--devices or DEVICES); a flag wins:
#
#   DEVICES     virtual CPU devices of each process (2); 0 leaves the devices to JAX, for example two GPUs of
#               which CUDA_VISIBLE_DEVICES cannot give one to each: then set it for each process yourself
#   VENV        virtual environment with r2d (default: .venv; r2d on the PATH where that is not there)
#   LOGS        folder of the two log files, process0.log and process1.log (default: runs/two_processes_logs)
#   PORT        where the processes meet (default: a free one)
#   GRACE       seconds that a process has to end by itself after the other has failed, then again after SIGTERM
#               (20; r2d needs up to 20 seconds to notice)
#   DRY_RUN     --dry-run: prints the commands, runs nothing
#
# Ctrl-C and SIGTERM go to both processes, which save and end with code 75.
#
# Layers of restart: r2d alone. The same command goes on from the last checkpoint; nothing here starts it again.
#
# Exit codes: 0 both are done; 75 both have stopped and saved; else the code of the process that failed first.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # read by cloud.sh
script=$here/local_two_process.sh
program=launch/local_two_process.sh
cd "$here/.."
# shellcheck source=launch/cloud.sh
. launch/cloud.sh

# A port on which nothing answers, below those that the system gives to connections.
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  say "$port"
}

read_flags "DEVICES VENV LOGS PORT GRACE" "" "$@"
: "${DEVICES:=2}" "${LOGS:=runs/two_processes_logs}" "${GRACE:=20}"
need_number DEVICES PORT GRACE
if [ "${#rest[@]}" -eq 0 ]; then
  rest=(run --config configs/debug_cpu.yaml --workdir runs/two_processes)
fi
if [ -n "$VENV" ] || [ -x .venv/bin/r2d ]; then
  r2d=${VENV:-.venv}/bin/r2d
else
  r2d=r2d
fi
need_program "$r2d" "Install it into .venv (launch/quickstart.sh does), or give --venv."
[ -n "$PORT" ] || PORT=$(free_port)

environment=()
if [ "$DEVICES" -gt 0 ]; then
  # Without JAX_PLATFORMS a machine with a GPU would give the same one to both.
  environment=(JAX_PLATFORMS=cpu "XLA_FLAGS=--xla_force_host_platform_device_count=$DEVICES")
fi

# command INDEX: sets $words to what this process runs.
command_of() {
  words=(env ${environment[@]+"${environment[@]}"} "$r2d" "${rest[@]}" --distributed "127.0.0.1:$PORT,2,$1")
}

if [ -n "$DRY_RUN" ]; then
  quoted mkdir -p "$LOGS"
  for index in 0 1; do
    command_of "$index"
    printf '%s >%s 2>&1 &\n' "$(quoted "${words[@]}")" "$(quoted "$LOGS/process$index.log")"
  done
  say wait
  exit 0
fi

mkdir -p "$LOGS"
processes=()
codes=("" "")
for index in 0 1; do
  command_of "$index"
  "${words[@]}" >"$LOGS/process$index.log" 2>&1 </dev/null &
  processes+=("$!")
done
say "two processes meet at 127.0.0.1:$PORT; output: $LOGS/process0.log, $LOGS/process1.log"

# shellcheck disable=SC2329 # called by trap
pass_on() {
  local index
  for index in 0 1; do
    [ -n "${codes[$index]}" ] || kill -TERM "${processes[$index]}" 2>/dev/null || true
  done
}
trap pass_on TERM INT

# first: code of the process that failed first; left: fifths of a second that the other has; signal: what it gets then.
first="" left=0 signal=TERM
while [ -z "${codes[0]}" ] || [ -z "${codes[1]}" ]; do
  for index in 0 1; do
    if [ -z "${codes[$index]}" ] && ! kill -0 "${processes[$index]}" 2>/dev/null; then
      code=0
      wait "${processes[$index]}" || code=$?
      codes[index]=$code
      if [ "$code" -ne 0 ] && [ "$code" -ne 75 ] && [ -z "$first" ]; then
        first=$code
        left=$((GRACE * 5))
        printf 'process %s failed with exit code %s: %s\n' "$index" "$code" "$(tail -n 1 "$LOGS/process$index.log")" >&2
      fi
    fi
  done
  if [ -n "$first" ]; then
    if [ "$left" -le 0 ]; then
      for index in 0 1; do
        [ -n "${codes[$index]}" ] || kill "-$signal" "${processes[$index]}" 2>/dev/null || true
      done
      left=$((GRACE * 5)) signal=KILL
    fi
    left=$((left - 1))
  fi
  # A signal ends the sleep early, and that is no error.
  [ -n "${codes[0]}" ] && [ -n "${codes[1]}" ] || sleep 0.2 || true
done

say "exit codes: ${codes[0]} and ${codes[1]}"
if [ -n "$first" ]; then
  exit "$first"
elif [ "${codes[0]}" = "${codes[1]}" ]; then
  exit "${codes[0]}"
fi
echo "error: one process has finished and the other has stopped; run it again" >&2
exit 1
