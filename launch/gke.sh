#!/usr/bin/env bash
# Usage: launch/gke.sh COMMAND [--FLAG VALUE]... [KEY=VALUE]...
#
# One r2d run on a TPU slice of a GKE cluster, from the template launch/gke_jobset.yaml. Runs on your own machine.
#
#   render    writes the manifest to stdout; needs no cluster
#   apply     renders it and gives it to the cluster
#   status    the JobSet, its restarts and its pods
#   logs      follows the output of worker 0, or of --worker N
#   delete    removes the JobSet and its pods; asks first. The node pool stays and costs money unless it scales
#             to zero
#
#   KEY=VALUE settings of r2d for render and apply, for example stage2.max_steps=500
#
# Each value is a flag or a variable of the same name (--image or IMAGE); a flag wins:
#
#   JOB_NAME          name of the JobSet and of its headless service, for example r2d
#   IMAGE             container image with r2d in it, for example us-docker.pkg.dev/my-project/r2d/r2d:1
#   CONFIG            config file in the image, for example configs/pubmedqa_t5_base.yaml
#   WORKDIR           folder of the run, gs://my-bucket/runs/first: pods have no disk that outlives them. The bucket is
#                     mounted at /bucket (Cloud Storage FUSE), r2d is given the folder /bucket/runs/first
#   TPU_ACCELERATOR   label of the node pool, for example tpu-v5-lite-podslice
#   TPU_TOPOLOGY      of the node pool, for example 4x4
#   CHIPS_PER_HOST    chips of one machine (default: 4, as ct5lp-hightpu-4t, ct6e-standard-4t and ct5p-hightpu-4t
#                     have). The number of hosts follows: chips of the topology divided by it
#   SPOT              --spot: only nodes that are cheaper and may be taken away
#   KUBE_SERVICE_ACCOUNT   Kubernetes service account that may write to the bucket (default: default)
#   NAMESPACE         of the cluster (default: default)
#   KUBE_CONTEXT      which cluster of your kubectl (default: the current one)
#   MAX_RESTARTS      restarts after failures; stops and preemptions are not counted (5)
#   WORKER            logs: of which worker (0)
#   NO_FOLLOW         --no-follow: logs prints and ends
#   YES               --yes: delete does not ask
#   DRY_RUN           --dry-run: prints the commands, runs nothing
#
# Layers of restart:
#   1. r2d: SIGTERM saves and ends with code 75; the same command goes on from the last checkpoint.
#   2. The Job restarts no pod by itself: all processes of a slice must start together.
#   3. The JobSet makes all pods new: without limit after code 75 or an announced loss of a node,
#      MAX_RESTARTS times after other failures, among them mistakes in settings (code 2) and a loss without notice.
#   4. GKE brings back the nodes. Nothing of this needs your machine.
#
# Exit codes: 0 done; 2 a mistake to mend, nothing was done; else that of kubectl.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$here/gke.sh
program=launch/gke.sh
cd "$here/.."
# shellcheck source=launch/cloud.sh
. launch/cloud.sh

VALUES="JOB_NAME IMAGE CONFIG WORKDIR TPU_ACCELERATOR TPU_TOPOLOGY CHIPS_PER_HOST KUBE_SERVICE_ACCOUNT NAMESPACE
KUBE_CONTEXT MAX_RESTARTS WORKER"
SWITCHES="SPOT NO_FOLLOW YES"

# ---- the manifest

check_manifest() {
  local chips=1 side word
  need JOB_NAME r2d IMAGE us-docker.pkg.dev/my-project/r2d/r2d:1 CONFIG configs/pubmedqa_t5_base.yaml \
    WORKDIR gs://my-bucket/runs/first TPU_ACCELERATOR tpu-v5-lite-podslice TPU_TOPOLOGY 4x4
  need_form WORKDIR 'gs://[a-z0-9][-_.a-z0-9]+/.+' gs://my-bucket/runs/first
  need_form TPU_TOPOLOGY '[0-9]+x[0-9]+(x[0-9]+)?' 4x4
  need_number MAX_RESTARTS
  need_form CHIPS_PER_HOST '[1-9][0-9]*' 4
  need_overrides ${rest[@]+"${rest[@]}"}
  for word in ${rest[@]+"${rest[@]}"}; do
    case $word in
      *$'\n'*) fail "$(printf '%s' "$word" | head -n 1): a setting has one line in a manifest. Put it into the config file." ;;
    esac
  done
  for side in ${TPU_TOPOLOGY//x/ }; do
    chips=$((chips * side))
  done
  if [ $((chips % CHIPS_PER_HOST)) -ne 0 ] || [ "$chips" -eq 0 ]; then
    fail "TPU_TOPOLOGY=$TPU_TOPOLOGY: its $chips chips are not hosts of CHIPS_PER_HOST=$CHIPS_PER_HOST. Give --chips-per-host 1, 4 or 8, as the machine type of the node pool has"
  fi
  # shellcheck disable=SC2034 # render finds values by name
  HOSTS=$((chips / CHIPS_PER_HOST))
  BUCKET=${WORKDIR#gs://}
  # shellcheck disable=SC2034
  FOLDER=/bucket/${BUCKET#*/}
  BUCKET=${BUCKET%%/*}
}

# A value as YAML text: it stays text whatever is in it, and Kubernetes expands no variable in it.
yaml_text() {
  local text
  text=$(printf '%s.' "$1" | sed "s/'/''/g")
  printf "'%s'" "${text%.}"
}

# shellcheck disable=SC2016 # the ${...} are text of the template
render() {
  local line left name value
  while IFS= read -r line; do
    case $line in
      *'- ${OVERRIDE}')
        for value in ${rest[@]+"${rest[@]}"}; do
          # In args Kubernetes takes $(NAME) for a variable; $$ is one $.
          printf '%s- %s\n' "${line%%- *}" "$(yaml_text "$value" | sed 's/\$/$$/g')"
        done
        continue
        ;;
      *'#spot '*)
        [ -n "$SPOT" ] || continue
        line=${line%%'#spot '*}${line#*'#spot '}
        ;;
      '#'*)
        # The first lines tell how to fill in the template.
        continue
        ;;
    esac
    while [[ $line == *'${'*'}'* ]]; do
      left=${line%%'${'*}
      name=${line#*'${'}
      name=${name%%'}'*}
      value=${!name}
      case $name in
        HOSTS | CHIPS_PER_HOST | MAX_RESTARTS) ;;
        *) value=$(yaml_text "$value") ;;
      esac
      printf '%s%s' "$left" "$value"
      line=${line#*'}'}
    done
    printf '%s\n' "$line"
  done <launch/gke_jobset.yaml
}

# ---- commands

do_render() {
  check_manifest
  say "# Written by $program from launch/gke_jobset.yaml, which explains each part."
  render
}

do_apply() {
  local name values=()
  check_manifest
  if [ -n "$DRY_RUN" ]; then
    for name in $VALUES $SWITCHES; do
      [ -z "${!name}" ] || values+=("$name=${!name}")
    done
    printf '%s | %s\n' "$(quoted env "${values[@]}" "$program" render ${rest[@]+"${rest[@]}"})" \
      "$(quoted "${kubectl[@]}" apply --filename -)"
    return 0
  fi
  do_render | "${kubectl[@]}" apply --filename -
}

do_status() {
  call "${kubectl[@]}" get jobset "$JOB_NAME" --output wide
  call "${kubectl[@]}" get pods --selector "jobset.sigs.k8s.io/jobset-name=$JOB_NAME" --output wide
}

do_logs() {
  local follow=(--follow)
  [ -z "$NO_FOLLOW" ] || follow=()
  # --tail -1: with a selector kubectl shows ten lines only.
  call "${kubectl[@]}" logs --selector \
    "jobset.sigs.k8s.io/jobset-name=$JOB_NAME,batch.kubernetes.io/job-completion-index=${WORKER:-0}" \
    --container r2d --tail -1 ${follow[@]+"${follow[@]}"}
}

do_delete() {
  sure "Delete the JobSet $JOB_NAME in namespace $NAMESPACE? A run that goes on is stopped; the workdir in the bucket stays."
  call "${kubectl[@]}" delete jobset "$JOB_NAME"
}

# ---- main

case ${1:-} in
  --help | -h | "")
    usage
    exit 0
    ;;
  render | apply | status | logs | delete) ;;
  *) fail "$program has no command $1. $program --help lists them." ;;
esac
command=$1
shift
read_flags "$VALUES" "$SWITCHES" "$@"
case $command in
  render | apply) ;;
  *) [ "${#rest[@]}" -eq 0 ] || fail "$command takes no ${rest[0]}. Settings of r2d go to render or apply." ;;
esac
: "${NAMESPACE:=default}" "${KUBE_SERVICE_ACCOUNT:=default}" "${CHIPS_PER_HOST:=4}" "${MAX_RESTARTS:=5}"
need JOB_NAME r2d
need_form JOB_NAME '[a-z]([-a-z0-9]{0,30}[a-z0-9])?' r2d
need_form NAMESPACE '[a-z0-9]([-a-z0-9]*[a-z0-9])?' default
need_form WORKER '[0-9]+' 0
if [ "$command" != render ]; then
  need_program kubectl "It comes with the Google Cloud CLI: gcloud components install kubectl"
fi
kubectl=(kubectl)
[ -z "$KUBE_CONTEXT" ] || kubectl+=(--context "$KUBE_CONTEXT")
kubectl+=(--namespace "$NAMESPACE")
"do_$command"
