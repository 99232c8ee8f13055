# Sourced by launch/tpu_pod.sh: the loop of its command resume, which brings a run to its end through preemptions.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2153 # the values and the questions to the cloud are those of tpu_pod.sh

# The commands above as processes of their own, since their mistakes end them; values go by the environment.
part() {
  local what=$1
  shift
  bash "$script" "$what" ${@+"$@"}
}

# attempt WHAT...: one more start or request; its failure is tried again later.
attempt() {
  tries=$((tries + 1))
  if [ "$tries" -gt "$ATTEMPTS" ]; then
    give_up "$ATTEMPTS attempts were made"
  fi
  say "$(date '+%H:%M:%S') attempt $tries of $ATTEMPTS: $*"
}

give_up() {
  printf 'error: %s; the run is not finished. See %s logs. What is left of the slice costs money: %s delete\n' "$1" "$program" "$program" >&2
  exit 1
}

do_resume() {
  local pause=$PAUSE tries=0 troubles=0 partly=0 mistakes=0 code started=""
  need_overrides ${rest[@]+"${rest[@]}"}
  check_config
  if [ -n "$DRY_RUN" ]; then
    dry_resume
    return 0
  fi
  while true; do
    code=0
    finished || code=$?
    if [ "$code" -eq 0 ]; then
      break
    elif [ "$code" -ne 4 ]; then
      code=0
      slice_state ACTIVE || code=$?
    fi
    if [ "$code" -eq 0 ] && [ "$state" = ACTIVE ]; then
      job_state idle || code=$?
    fi
    if [ "$code" -ne 0 ]; then
      # A laptop that was asleep, a network that is away: no reason to do anything to the slice.
      troubles=$((troubles + 1))
      say "$(date '+%H:%M:%S') gcloud: $trouble"
      [ "$troubles" -lt "$ATTEMPTS" ] || give_up "gcloud failed $troubles times in a row"
      sleep "$pause"
      grow_pause
      continue
    fi
    troubles=0
    case $state in
      ACTIVE) resume_job ;;
      ABSENT | FAILED | SUSPENDED | PREEMPTED)
        say "$(date '+%H:%M:%S') slice $TPU_NAME: $state"
        attempt "create"
        if [ "$state" != ABSENT ]; then
          part delete --yes || true
        fi
        part create --no-wait || true
        wait_or_grow
        ;;
      *)
        say "$(date '+%H:%M:%S') slice $TPU_NAME: $state"
        sleep "$PAUSE"
        ;;
    esac
  done
  say "the run is finished: $WORKDIR"
  if [ -n "$DELETE_WHEN_DONE" ]; then
    part delete --yes
  else
    say "The slice still costs money: $program delete"
  fi
}

# Straight after a failure the same would fail again.
wait_or_grow() {
  sleep "$pause"
  grow_pause
}

resume_job() {
  case $job in
    running)
      [ "$started" = running ] || say "$(date '+%H:%M:%S') the job runs on all workers"
      started=running
      partly=0
      pause=$PAUSE
      sleep "$PAUSE"
      return 0
      ;;
    partly)
      # The others notice within minutes that one is gone, and end.
      partly=$((partly + 1))
      if [ "$partly" -gt 5 ]; then
        say "$(date '+%H:%M:%S') the job runs on some workers only; stopping it"
        part stop || true
        partly=0
      fi
      sleep "$PAUSE"
      return 0
      ;;
  esac
  if [ "$job" = ended ]; then
    # It may have finished between the two looks; any trouble shows at the next one.
    if finished; then
      return 0
    fi
    say "$(date '+%H:%M:%S') the job ended, exit codes:$codes"
  fi
  # Code 2 is a mistake to mend. It may be a start that not all workers made in time, so it is tried once more.
  case " $codes " in
    *" 2 "*)
      mistakes=$((mistakes + 1))
      if [ "$mistakes" -gt 1 ]; then
        printf 'error: the job ended with code 2 twice: a mistake in settings or data. See %s logs. The slice costs money until %s delete\n' "$program" "$program" >&2
        exit 2
      fi
      ;;
    *) mistakes=0 ;;
  esac
  attempt "setup and run"
  if part setup && part run ${rest[@]+"${rest[@]}"}; then
    started=""
  fi
  wait_or_grow
}

dry_resume() {
  finished || true
  part delete --yes
  part create --no-wait
  part setup
  part run ${rest[@]+"${rest[@]}"}
}
