#!/usr/bin/env bash
# Usage: launch/tpu_worker.sh setup|start|status|stop|logs [ARGUMENT]...
#
# The part of launch/tpu_pod.sh that runs on each worker of a TPU slice (Linux); tpu_pod.sh ships it and calls it.
#
#   setup                 makes the virtual environment and installs .[tpu]
#   start ARGUMENT...     starts `r2d run ARGUMENT...` detached; refuses while one runs. r2d writes to folders only:
#                         for --workdir gs://BUCKET/PATH the bucket is mounted and the folder given instead
#   status                one line: worker HOST running | ended CODE | idle
#   stop                  SIGTERM to the job: it saves and ends with code 75. SIGKILL after STOP_SECS
#   logs LINES [--follow] the end of the log
#   --dry-run             prints the commands of setup or start, runs nothing
#
# Files, beside the folder of the code (on a worker ~/r2d/code):
#   venv        the virtual environment
#   buckets     mounted buckets (Cloud Storage FUSE)
#   job.lock    held by the job as long as any process of it lives. The kernel lets go of it when the job ends,
#               however it ends, so a stale file never blocks a start and a number used again never looks like
#               the job. This is why a lock and not a file with a process number says whether the job runs.
#   job.pid     process number of r2d, for stop
#   job.exit    exit code of the last job; absent while one runs, and after the machine went away under it
#   job.log     output of all jobs since setup
#   commit      what code this is
#
# Variables:
#   PYTHON      Python to use, 3.11 or newer (default: the first found of python3.13, 3.12, 3.11 and python3, else
#               one that uv fetches)
#   STOP_SECS   how long stop waits for the job to save (default: 120)
#
# Restarts: none here. A process that ends stays ended: all processes of a slice have to start together, which
# only tpu_pod.sh, seeing all workers, can do.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$here/tpu_worker.sh
program=launch/tpu_worker.sh
cd "$here/.."
# shellcheck source=launch/cloud.sh
. launch/cloud.sh
# shellcheck source=launch/environment.sh
. launch/environment.sh
root=$(dirname "$PWD")
: "${STOP_SECS:=120}"

# Images of TPU VMs come with Python 3.10; uv fetches a newer one without root.
choose_python() {
  local found
  if found=$(find_python 2>/dev/null) && "$found" -c 'import ensurepip, venv' 2>/dev/null; then
    PYTHON=$found
    return 0
  fi
  # The second way is for systems whose own Python refuses to install anything.
  python3 -m pip install --quiet --user --disable-pip-version-check uv ||
    python3 -m pip install --quiet --user --disable-pip-version-check --break-system-packages uv
  python3 -m uv python install 3.12
  PYTHON=$(python3 -m uv python find 3.12)
}

setup() {
  if [ -n "$DRY_RUN" ]; then
    environment_command "$root/venv" requirements.txt tpu
    return 0
  fi
  choose_python
  make_environment "$root/venv" requirements.txt tpu
  echo "worker $(hostname) ready: $("$root/venv/bin/python" --version), commit $(cat "$root/commit" 2>/dev/null || echo unknown)"
}

install_gcsfuse() {
  local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc
  curl --silent --show-error --fail https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" |
    sudo tee "$list" >/dev/null
  sudo apt-get update -qq
  sudo apt-get install -qq -y gcsfuse >/dev/null
}

# mount_bucket BUCKET FOLDER. The flags:
#   --metadata-cache-…=0  a worker must see at once what another one has written
#   --rename-dir-limit    a checkpoint is written under another name, then renamed as a whole; a bucket without
#                         folders of its own (hierarchical namespace) allows that only up to a limit, by default none
#   --implicit-dirs       folders that were uploaded by other programs are seen
# 9>&-: the lock is the job's; a mount outlives the job.
mount_bucket() {
  # A mount whose daemon was killed answers nothing, and nothing can be made or mounted in its place.
  [ -e "$2" ] || fusermount -uz "$2" 2>/dev/null || true
  mkdir -p "$2"
  if mountpoint -q "$2"; then
    return 0
  fi
  command -v gcsfuse >/dev/null 2>&1 || install_gcsfuse 9>&-
  if ! gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    --rename-dir-limit=100000 "$1" "$2" 9>&- >"$root/mount.log" 2>&1; then
    echo "error: worker $(hostname): gs://$1 cannot be mounted: $(tail -n 1 "$root/mount.log"). May the service account of the machine write to it (roles/storage.objectUser)?" >&2
    exit 2
  fi
}

# Puts the arguments into the array words, with the folder of a mounted bucket for gs://BUCKET/PATH.
with_folders() {
  local before="" word
  words=()
  for word in "$@"; do
    case $before$word in
      --workdirgs://*) word=$root/buckets/${word#gs://} ;;
    esac
    before=$word
    words+=("$word")
  done
}

start() {
  local word words
  with_folders "$@"
  if [ -n "$DRY_RUN" ]; then
    quoted "$root/venv/bin/r2d" run "${words[@]}"
    return 0
  fi
  if [ ! -x "$root/venv/bin/r2d" ]; then
    echo "error: worker $(hostname): not set up. Run launch/tpu_pod.sh setup first." >&2
    exit 2
  fi
  # Whoever has the lock open holds it: this script, then the job that inherits it.
  exec 9>"$root/job.lock"
  if ! flock --nonblock 9; then
    echo "error: worker $(hostname): a job runs here. Wait for it, or stop it: launch/tpu_pod.sh stop" >&2
    exit 3
  fi
  for word in "${words[@]}"; do
    case $word in
      "$root"/buckets/*)
        word=${word#"$root/buckets/"}
        mount_bucket "${word%%/*}" "$root/buckets/${word%%/*}"
        ;;
    esac
  done
  rm -f "$root/job.exit" "$root/job.pid"
  # A session of its own: the end of the ssh connection does not reach it.
  setsid nohup bash "$script" hold "${words[@]}" >>"$root/job.log" 2>&1 </dev/null &
  echo "worker $(hostname) started"
}

# Runs the job and notes how it ended.
hold() {
  local status=0
  # When the machine goes down all processes get SIGTERM; this one lives until the job has saved. The job is in
  # the foreground: bash takes the signal after it. A wait for a job in the background, cut short by a signal, may
  # report -1 instead of the exit code (seen with bash 5.2).
  trap : TERM
  echo "== $(date -u '+%Y-%m-%d %H:%M:%S') UTC, commit $(cat "$root/commit" 2>/dev/null || echo unknown)"
  # shellcheck disable=SC2016 # expanded by the inner shell, whose number becomes that of r2d
  bash -c 'echo "$$" >"$0"; exec "$@"' "$root/job.pid" "$root/venv/bin/r2d" run "$@" || status=$?
  echo "$status" >"$root/job.exit"
  echo "== ended with exit code $status"
}

runs() {
  [ -e "$root/job.lock" ] && ! (exec 9>>"$root/job.lock" && flock --nonblock 9)
}

status() {
  if runs; then
    echo "worker $(hostname) running"
  elif [ -f "$root/job.exit" ]; then
    echo "worker $(hostname) ended $(cat "$root/job.exit")"
  elif [ -f "$root/job.pid" ]; then
    echo "worker $(hostname) ended unknown"
  else
    echo "worker $(hostname) idle"
  fi
}

stop() {
  local job left=$STOP_SECS
  job=$(cat "$root/job.pid" 2>/dev/null || true)
  if runs && [ -n "$job" ]; then
    kill -TERM "$job" 2>/dev/null || true
    while runs && [ "$left" -gt 0 ]; do
      sleep 1
      left=$((left - 1))
    done
    # A process that waits for one that is gone never looks at the signal.
    if runs; then
      kill -KILL "$job" 2>/dev/null || true
      sleep 0.5
    fi
  fi
  status
}

logs() {
  local lines=${1:-100}
  touch "$root/job.log"
  if [ "${2:-}" = "--follow" ]; then
    exec tail -n "$lines" -F "$root/job.log"
  fi
  tail -n "$lines" "$root/job.log"
}

DRY_RUN=""
case ${1:-} in
  --help | -h | "")
    usage
    exit 0
    ;;
  setup | start | hold | status | stop | logs) ;;
  *) fail "$program: no command $1. $program --help lists them." ;;
esac
command=$1
shift
if [ "${1:-}" = "--dry-run" ]; then
  DRY_RUN=yes
  shift
fi
"$command" "$@"
