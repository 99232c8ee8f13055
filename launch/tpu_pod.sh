#!/usr/bin/env bash
# Usage: launch/tpu_pod.sh COMMAND [--FLAG VALUE]... [KEY=VALUE]...
#
# One r2d run on a Cloud TPU slice of one or many hosts, made as a queued resource. Runs on your own machine.
#
#   create    asks for the slice and waits until it is there
#   setup     copies the code to all workers and installs it there
#   run       starts the job on all workers, detached from your connection; refuses while one runs
#   status    the state of the queued resource, of the job on each worker, and whether the run is finished
#   logs      follows the output of worker 0, or of --worker N
#   stop      asks the job to save and end; kills it where that takes over two minutes
#   resume    does all of the above until the run is finished: creates a slice that was preempted again, sets it
#             up, starts the job. May be ended and started again at any time; it keeps nothing in mind
#   delete    gives the slice back; asks first. A slice costs money until then, whether a job runs or not
#
#   KEY=VALUE settings of r2d for run and resume, for example stage2.max_steps=500
#
# Each value is a flag or a variable of the same name (--tpu-name or TPU_NAME); a flag wins:
#
#   TPU_NAME          name of the queued resource and of its node, for example r2d
#   PROJECT           Google Cloud project, for example my-project. Always passed on, so that the default of your
#                     gcloud never sends a slice to another project
#   ZONE              for example us-west4-a; where you have quota, near the bucket
#   ACCELERATOR_TYPE  for example v5litepod-16. The number counts chips (v5e, v6e) or cores (others); above 8 the
#                     slice has several hosts
#   RUNTIME_VERSION   software of the machines (default: the one for the accelerator type, v2-alpha-tpuv5-lite for v5e)
#   CONFIG            a committed config, for example configs/pubmedqa_t5_base.yaml
#   WORKDIR           folder of the run, gs://my-bucket/runs/first. A bucket, since several hosts must share it
#                     and the disk of a preempted host is lost; one host and no resume may use a local folder.
#                     Each worker mounts the bucket as a folder (Cloud Storage FUSE) and gives r2d that folder
#   SPOT              --spot: cheaper, and may be taken away at any time; resume is made for that
#   VALID_UNTIL       drop the request if it is not met by then, for example 6h (default: it waits without end)
#   SERVICE_ACCOUNT   the workers act as it (default: the project's default account); it must write to the bucket
#   NETWORK, SUBNETWORK   where the project has no network named default
#   SHIP              a file of your machine to copy to all workers; the job finds it as ../files/NAME, for example
#                     data.path=../files/rows.jsonl. For rows that are not in the repository
#   WORKER, LINES     logs: which worker (0), how many lines first (100)
#   NO_FOLLOW         --no-follow: logs prints and ends
#   NO_WAIT           --no-wait: create does not wait
#   YES               --yes: delete does not ask
#   DELETE_WHEN_DONE  --delete-when-done: resume gives the slice back when the run is finished
#   ATTEMPTS          resume: how often it starts a job or asks for a slice before it gives up (20)
#   PAUSE, PAUSE_MAX  seconds between two looks at the slice (60); after each failure twice as long, up to (1800)
#   DRY_RUN           --dry-run: prints the commands, runs nothing
#
# How the code gets there: `git archive` of the commit you are on, copied with scp. So all workers have exactly
# one committed state, and need no access to your repository. Changes that are not committed do not go along.
#
# Layers of restart:
#   1. r2d: SIGTERM saves and ends with code 75; the same command goes on from the last checkpoint.
#   2. On a worker nothing restarts by itself (launch/tpu_worker.sh): all processes must start together.
#   3. resume, on your machine: looks at the slice and starts again what is gone. While it does not run, a
#      preempted slice stays away, and a job that runs goes on.
#   Saves at intervals (stage1.save_every_steps) are the guarantee: a machine may go away without a signal.
#
# Exit codes: 0 done; 2 a mistake to mend, nothing was done; 1 the cloud refused, or resume gave up.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$here/tpu_pod.sh
program=launch/tpu_pod.sh
cd "$here/.."
# shellcheck source=launch/cloud.sh
. launch/cloud.sh
# shellcheck source=launch/tpu_resume.sh
. launch/tpu_resume.sh

VALUES="TPU_NAME PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION CONFIG WORKDIR VALID_UNTIL SERVICE_ACCOUNT NETWORK
SUBNETWORK SHIP WORKER LINES ATTEMPTS PAUSE PAUSE_MAX"
SWITCHES="SPOT NO_FOLLOW NO_WAIT YES DELETE_WHEN_DONE"

# ---- values

needs() {
  local name=(TPU_NAME r2d PROJECT my-project ZONE us-west4-a)
  local kind=(ACCELERATOR_TYPE v5litepod-16)
  local settings=(CONFIG configs/pubmedqa_t5_base.yaml WORKDIR gs://my-bucket/runs/first)
  case $1 in
    create) need "${name[@]}" "${kind[@]}" ;;
    run | resume) need "${name[@]}" "${kind[@]}" "${settings[@]}" ;;
    *) need "${name[@]}" ;;
  esac
  need_form TPU_NAME '[a-z]([-a-z0-9]*[a-z0-9])?' r2d
  need_form PROJECT '[a-z][-a-z0-9:.]*[a-z0-9]' my-project
  need_form ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' us-west4-a
  need_form ACCELERATOR_TYPE 'v[0-9]+[a-z]*-[0-9]+' v5litepod-16
  need_form VALID_UNTIL '[0-9]+[smhd]' 6h
  need_form WORKER '[0-9]+|all' 0
  need_number LINES ATTEMPTS PAUSE PAUSE_MAX
  case $1 in
    create | run | resume) check_workdir "$1" ;;
  esac
  need_program gcloud "It is part of the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"
}

check_workdir() {
  WORKDIR=${WORKDIR%/}
  case $WORKDIR in
    "") ;;
    gs://?*) need_form WORKDIR 'gs://[a-z0-9][-_.a-z0-9]+/.+' gs://my-bucket/runs/first ;;
    *)
      if [ "${ACCELERATOR_TYPE##*-}" -gt 8 ]; then
        fail "WORKDIR=$WORKDIR: $ACCELERATOR_TYPE has several hosts, which must share the folder. Use a bucket: gs://my-bucket/runs/first"
      elif [ "$1" = resume ]; then
        fail "WORKDIR=$WORKDIR: a new machine does not have it. For resume use a bucket: gs://my-bucket/runs/first"
      fi
      ;;
  esac
}

# Every mistake in the config that can be seen here costs less than on the slice.
check_config() {
  [ -f "$CONFIG" ] || fail "CONFIG=$CONFIG: there is no such file in $PWD. Choose one of configs/."
  if [ -z "$DRY_RUN" ] && ! git cat-file -e "HEAD:$CONFIG" 2>/dev/null; then
    fail "CONFIG=$CONFIG: is not committed, and only committed files are copied. Commit it."
  fi
}

runtime_version() {
  case $ACCELERATOR_TYPE in
    v6e-*) say v2-alpha-tpuv6e ;;
    v5p-*) say v2-alpha-tpuv5 ;;
    v5litepod-*) say v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) say tpu-ubuntu2204-base ;;
    *) fail "RUNTIME_VERSION: not known for $ACCELERATOR_TYPE. Give --runtime-version, for example v2-alpha-tpuv6e" ;;
  esac
}

# ---- asking the cloud

# look COMMAND...: its output in $answer. Returns 1 where what was asked for is not there, 4 for any other trouble,
# told in $trouble. To take every error for "not there" would make resume create a second slice.
look() {
  local code=0
  if [ -n "$DRY_RUN" ]; then
    quoted "$@"
    answer=""
    return 0
  fi
  answer=$("$@" 2>"$scratch/errors" </dev/null) || code=$?
  [ "$code" -ne 0 ] || return 0
  trouble=$(tr '\n' ' ' <"$scratch/errors")
  case $trouble in
    *NOT_FOUND* | *"was not found"* | *"matched no objects"* | *"not found: 404"*) return 1 ;;
  esac
  return 4
}

# As look, where trouble ends the script.
must_look() {
  local code=0
  "$@" || code=$?
  if [ "$code" -eq 4 ]; then
    printf 'error: gcloud: %s\n' "$trouble" >&2
    exit 1
  fi
  return "$code"
}

# slice_state ASSUMED: $state is ABSENT, ACTIVE, PREEMPTED or what the queued resource says. ASSUMED is what a dry
# run goes on with.
slice_state() {
  local code=0
  look gcloud compute tpus queued-resources describe "$TPU_NAME" "${place[@]}" --format 'value(state.state)' || code=$?
  state=$answer
  case $code in
    1) state=ABSENT ;;
    4) return 4 ;;
  esac
  if [ -n "$DRY_RUN" ]; then
    state=$1
  elif [ "$state" = ACTIVE ]; then
    # The queued resource may stay active for a while when its machines are gone already.
    code=0
    look gcloud compute tpus tpu-vm describe "$TPU_NAME" "${place[@]}" --format 'value(state)' || code=$?
    case $code:$answer in
      0:READY) ;;
      1:* | 0:PREEMPTED | 0:TERMINATED) state=PREEMPTED ;;
      0:*) state=NODE_$answer ;;
      *) return 4 ;;
    esac
  fi
}

need_active() {
  must_look slice_state ACTIVE
  case $state in
    ACTIVE) ;;
    ABSENT) fail "there is no slice $TPU_NAME in $ZONE. Make it: $program create" ;;
    *) fail "the slice $TPU_NAME is $state, not ACTIVE. See $program status" ;;
  esac
}

# on_workers WHICH COMMAND: one line of shell on these workers. --quiet: a question about a new ssh key would stop
# a loop that nobody watches.
on_workers() {
  call gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --quiet --worker "$1" --command "$2" </dev/null
}

copy_to_workers() {
  call gcloud compute tpus tpu-vm scp "$1" "$TPU_NAME:$2" "${place[@]}" --quiet --worker all </dev/null
}

# $job is running (on all workers), partly, ended, idle or empty (not set up); $codes are the exit codes;
# $workers is a line for each.
job_state() {
  local line running=0 other=0 empty=0 ended=0
  # shellcheck disable=SC2016 # expanded on the workers
  local ask='if [ -f r2d/code/launch/tpu_worker.sh ]; then bash r2d/code/launch/tpu_worker.sh status; else echo "worker $(hostname) empty"; fi'
  codes=""
  workers=""
  look gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --quiet --worker all --command "$ask" || return 4
  while IFS= read -r line; do
    case $line in
      "worker "*" running") running=$((running + 1)) ;;
      "worker "*" empty") empty=$((empty + 1)) ;;
      "worker "*" ended "*)
        ended=$((ended + 1))
        codes="$codes ${line##* }"
        ;;
      "worker "*) other=$((other + 1)) ;;
      *) continue ;;
    esac
    workers="$workers$line
"
  done <<<"$answer"
  if [ "$running" -gt 0 ] && [ $((other + empty + ended)) -eq 0 ]; then
    job=running
  elif [ "$running" -gt 0 ]; then
    job=partly
  elif [ "$empty" -gt 0 ]; then
    job=empty
  elif [ "$ended" -gt 0 ]; then
    job=ended
  else
    job=idle
  fi
  [ -z "$DRY_RUN" ] || job=$1
}

# Whether the run is finished: its workdir says so.
finished() {
  look gcloud storage cat "$WORKDIR/run.json" --project "$PROJECT" || return $?
  case $answer in
    *'"run_done": true'*) return 0 ;;
  esac
  return 1
}

# ---- commands

do_create() {
  local extra=() name flag
  [ -n "$RUNTIME_VERSION" ] || RUNTIME_VERSION=$(runtime_version)
  must_look slice_state ABSENT
  case $state in
    ABSENT) ;;
    FAILED | SUSPENDED | SUSPENDING | PREEMPTED)
      fail "the slice $TPU_NAME is $state and blocks its name. Give it back first: $program delete"
      ;;
    *)
      say "the slice $TPU_NAME is there already, $state; nothing was created"
      wait_until_active
      return 0
      ;;
  esac
  for name in SERVICE_ACCOUNT NETWORK SUBNETWORK VALID_UNTIL; do
    flag=$(flag_of "$name")
    [ "$name" != VALID_UNTIL ] || flag=--valid-until-duration
    [ -z "${!name}" ] || extra+=("$flag" "${!name}")
  done
  [ -z "$SPOT" ] || extra+=(--spot)
  call gcloud compute tpus queued-resources create "$TPU_NAME" --node-id "$TPU_NAME" "${place[@]}" \
    --accelerator-type "$ACCELERATOR_TYPE" --runtime-version "$RUNTIME_VERSION" ${extra[@]+"${extra[@]}"}
  wait_until_active
}

wait_until_active() {
  local pause=$PAUSE
  if [ -n "$NO_WAIT" ] || [ -n "$DRY_RUN" ]; then
    return 0
  fi
  while must_look slice_state ACTIVE; do
    say "$(date '+%H:%M:%S') slice $TPU_NAME: $state"
    case $state in
      ACTIVE) return 0 ;;
      ABSENT | FAILED | SUSPENDED | PREEMPTED | DELETING)
        printf 'error: the slice %s is %s. Ask for it again: %s delete, then create\n' "$TPU_NAME" "$state" "$program" >&2
        exit 1
        ;;
    esac
    sleep "$pause"
    grow_pause
  done
}

do_setup() {
  local archive=${TMPDIR:-/tmp}/r2d.tar.gz commit=HEAD
  if [ -n "$SHIP" ] && [ ! -f "$SHIP" ]; then
    fail "SHIP=$SHIP: there is no such file. Give the path of the file to copy."
  fi
  need_active
  if [ -z "$DRY_RUN" ]; then
    archive=$scratch/r2d.tar.gz
    commit=$(git rev-parse HEAD)
    [ -z "$(git status --porcelain)" ] || say "note: changes that are not committed do not go along"
    must_look job_state idle
    case $job in
      running | partly) fail "a job runs on $TPU_NAME; its code is not changed under it. Stop it first: $program stop" ;;
    esac
  fi
  call git archive --format=tar.gz --output "$archive" HEAD
  copy_to_workers "$archive" r2d.tar.gz
  on_workers all "rm -rf r2d/new && mkdir -p r2d/new r2d/files && tar -xzf r2d.tar.gz -C r2d/new && rm -rf r2d/code && mv r2d/new r2d/code && echo $commit >r2d/commit && bash r2d/code/launch/tpu_worker.sh setup"
  if [ -n "$SHIP" ]; then
    copy_to_workers "$SHIP" r2d/files/
  fi
}

do_run() {
  need_overrides ${rest[@]+"${rest[@]}"}
  check_config
  need_active
  must_look job_state idle
  case $job in
    running | partly) fail "a job runs on $TPU_NAME. Follow it: $program logs; or stop it: $program stop" ;;
    empty) fail "not all workers of $TPU_NAME are set up. Do it: $program setup" ;;
  esac
  # platform=tpu: where the TPU is held by something else, JAX would quietly go on on the CPU.
  on_workers all "$(quoted bash r2d/code/launch/tpu_worker.sh start --config "$CONFIG" --workdir "$WORKDIR" \
    --distributed auto platform=tpu ${rest[@]+"${rest[@]}"})"
}

do_status() {
  local code=0
  must_look slice_state ACTIVE
  [ -n "$DRY_RUN" ] || say "slice $TPU_NAME: $state"
  if [ "$state" = ACTIVE ]; then
    must_look job_state running
    printf '%s' "$workers"
  fi
  case $WORKDIR in
    gs://*)
      must_look finished || code=$?
      [ -n "$DRY_RUN" ] || case $code in
        0) say "run: finished, $WORKDIR" ;;
        *) say "run: not finished, $WORKDIR" ;;
      esac
      ;;
  esac
}

do_logs() {
  local follow=""
  [ -n "$NO_FOLLOW" ] || follow=" --follow"
  on_workers "${WORKER:-0}" "bash r2d/code/launch/tpu_worker.sh logs ${LINES:-100}$follow"
}

do_stop() {
  need_active
  on_workers all "bash r2d/code/launch/tpu_worker.sh stop"
}

do_delete() {
  sure "Delete the slice $TPU_NAME in $ZONE of $PROJECT, with the disks of its machines? The workdir in the bucket stays."
  # --force: without it only a slice that is gone already can be deleted.
  call gcloud compute tpus queued-resources delete "$TPU_NAME" "${place[@]}" --force --quiet
}

# ---- main

case ${1:-} in
  --help | -h | "")
    usage
    exit 0
    ;;
  create | setup | run | status | logs | stop | resume | delete) ;;
  *) fail "$program has no command $1. $program --help lists them." ;;
esac
command=$1
shift
# LINES and COLUMNS are what bash knows of the window.
unset LINES
read_flags "$VALUES" "$SWITCHES" "$@"
case $command in
  run | resume) ;;
  *) [ "${#rest[@]}" -eq 0 ] || fail "$command takes no ${rest[0]}. Settings of r2d go to run or resume." ;;
esac
: "${ATTEMPTS:=20}" "${PAUSE:=60}" "${PAUSE_MAX:=1800}"
needs "$command"
place=(--project "$PROJECT" --zone "$ZONE")
scratch=""
if [ -z "$DRY_RUN" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
fi
if [ "$command" = resume ]; then
  for name in $VALUES $SWITCHES DRY_RUN; do
    export "${name?}"
  done
fi
"do_$command"
